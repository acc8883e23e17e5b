"""All workers in this process, one run after the other."""

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import Config, plan_runs
from streamscalar.coordinator.coordinator import Coordinator
from streamscalar.protocol.progress import Snapshot
from streamscalar.protocol.schedule import (
    CancelRequested,
    FinaliseRun,
    Instruction,
    RunFinalised,
    StartTraining,
    TrainingFinished,
)
from streamscalar.store import Store
from streamscalar.workers.embedder import Embedder
from streamscalar.workers.trainer import Trainer


def run_inline(config: Config, store: Store, on_snapshot: Callable[[Snapshot], None]) -> Snapshot:
    """Carry out the whole experiment and return its last snapshot; `on_snapshot` hears of every block."""
    coordinator = Coordinator(store, plan_runs(config), 1, config.n_rows)
    trainer = Trainer(str(store.path), config)
    embedder = Embedder(str(store.path), config.embedding.n_components)

    def sink(run_id: str, first_row: int, weights: NDArray[np.floating]) -> None:
        coordinator.report(embedder.embed(run_id, first_row, weights))
        on_snapshot(coordinator.snapshot())

    def carry_out(instruction: Instruction) -> list[Instruction]:
        run_id = instruction.run_id
        match instruction:
            case StartTraining():
                trainer.train(coordinator.plans[run_id], sink, lambda: False)
                return coordinator.handle(TrainingFinished(run_id))
            case FinaliseRun():
                coordinator.report(embedder.finalise(run_id, config.recording.retain))
                return coordinator.handle(RunFinalised(run_id))
        return []

    waiting = deque(coordinator.begin())
    while waiting:
        instruction = waiting.popleft()
        try:
            waiting.extend(carry_out(instruction))
        except KeyboardInterrupt:
            coordinator.handle(CancelRequested())
            coordinator.fail(instruction.run_id, KeyboardInterrupt("stopped by the user"))
            break
        except Exception as error:  # noqa: BLE001  (any failure of a worker ends its run, never the experiment)
            embedder.forget(instruction.run_id)
            waiting.extend(coordinator.fail(instruction.run_id, error))
        on_snapshot(coordinator.snapshot())
    return coordinator.snapshot()
