"""The inline executor: all workers in this process, one run after the other."""

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import Config, plan_packs
from streamscalar.protocol.progress import Snapshot
from streamscalar.protocol.schedule import (
    CancelRequested,
    FinalisePack,
    Instruction,
    Outcome,
    PackFinalised,
    StartTraining,
    StopTraining,
    TrainingFinished,
    TrainingStopped,
)
from streamscalar.store import Store
from streamscalar.workers.coordinator import Coordinator
from streamscalar.workers.embedder import Embedder
from streamscalar.workers.trainer import Trainer


def run_inline(config: Config, store: Store, on_snapshot: Callable[[Snapshot], None]) -> Snapshot:
    """Carry out the experiment and return its last snapshot; `on_snapshot` is called after every block."""
    coordinator = Coordinator(store, plan_packs(config), 1, config.n_rows)
    trainer = Trainer(store.url, config)
    embedder = Embedder(store.url, config.embedding, config.store.fsync)

    unwanted: set[str] = set()

    def handle_requests() -> None:
        for instruction in coordinator.handle_requests():
            if isinstance(instruction, StopTraining):
                unwanted.add(instruction.pack_id)
            else:
                waiting.append(instruction)

    def sink(run_id: str, first_row: int, weights: NDArray[np.floating]) -> None:
        coordinator.report(embedder.embed(run_id, first_row, weights))
        handle_requests()
        on_snapshot(coordinator.snapshot())

    def carry_out(instruction: Instruction) -> list[Instruction]:
        pack_id = instruction.pack_id
        match instruction:
            case StartTraining():
                outcome = trainer.train(coordinator.packs[pack_id], sink, lambda: pack_id in unwanted)
                ended = TrainingFinished if outcome is Outcome.FINISHED else TrainingStopped
                return coordinator.handle(ended(pack_id))
            case FinalisePack():
                for plan in coordinator.packs[pack_id]:
                    coordinator.report(embedder.finalise(plan.run_id, config.recording.retain))
                    on_snapshot(coordinator.snapshot())
                return coordinator.handle(PackFinalised(pack_id))
        return []

    waiting = deque(coordinator.begin())
    while waiting:
        instruction = waiting.popleft()
        try:
            waiting.extend(carry_out(instruction))
            handle_requests()
            on_snapshot(coordinator.snapshot())
        except KeyboardInterrupt:
            coordinator.handle(CancelRequested())
            coordinator.fail(instruction.pack_id, KeyboardInterrupt("stopped by the user"))
            break
        except Exception as error:  # noqa: BLE001  (a failure of a worker ends its run, not the experiment)
            for plan in coordinator.packs[instruction.pack_id]:
                embedder.forget(plan.run_id)
            waiting.extend(coordinator.fail(instruction.pack_id, error))
    return coordinator.snapshot()
