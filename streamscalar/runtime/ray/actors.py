"""The workers and the coordinator as Ray actors.

Trainers push durable blocks to the embedder of their run; at most two are in flight, which bounds memory. The
coordinator is a named actor: it restarts on another node if its node is lost, rebuilds its state from the store, and
does not depend on the process that started the experiment.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayTaskError

from streamscalar.config import Config, RunPlan, plan_packs
from streamscalar.config.log_settings import LogFormat
from streamscalar.config.models import EmbeddingSection
from streamscalar.errors import Kind, StreamscalarError, WorkFailed
from streamscalar.logs import set_up_logs
from streamscalar.protocol.progress import RunProgress, Snapshot
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
from streamscalar.runtime.ray.pool import Placed, Pool, UnfitNode
from streamscalar.store import Fsync, Store, Unreachable, medium_of, place

if TYPE_CHECKING:
    from streamscalar.workers.trainer import Trainer

_LOG = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2
"""Maximum number of blocks per trainer that are pushed and not yet embedded: one in work, one waiting."""
POLL_S = 0.25
POLL_BUCKET_S = 1.0
"""Interval of polling a bucket for requests, each a listing; a folder is polled in every round."""
RESTART_AFTER_S = 1.0
LINGER_S = 60.0
"""Seconds after the end of an experiment, or the last query, for which its coordinator still answers."""


class TrainerActor:
    """A trainer in its own process."""

    def __init__(self, form: LogFormat | None, store_url: str, config: Config) -> None:
        _set_up_logs(form)
        self._store_url, self._config = store_url, config
        self._trainer: Trainer | None = None
        self._stopped: set[str] = set()

    def get_ready(self) -> str:
        """Prepare the trainer and return its node; raises `UnfitNode` if the node lacks the store or the device."""
        node, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        try:
            Store.open(self._store_url, writable=True)
        except (StreamscalarError, OSError) as error:
            reason = f"store.url must be on storage that every node sees; node {address}: {error}"
            raise UnfitNode(node, reason) from None
        # Each process imports its own worker only: torch alone takes two seconds of processor time.
        from streamscalar.workers.trainer import Trainer

        try:
            self._trainer = Trainer(self._store_url, self._config)
        except StreamscalarError as error:
            raise UnfitNode(node, f"node {address}: {error}") from None
        return str(node)

    def train(self, pack: tuple[RunPlan, ...], embedder: Any, coordinator: Any) -> str:
        """Train a pack of runs, push their blocks to `embedder`, and return the outcome."""
        in_flight: deque[Any] = deque()

        def sink(run_id: str, first_row: int, weights: NDArray[np.floating]) -> None:
            in_flight.append(embedder.embed.remote(run_id, first_row, weights, coordinator))
            if len(in_flight) > MAX_IN_FLIGHT:
                ray.get(in_flight.popleft())

        assert self._trainer is not None, "get_ready comes first"
        outcome = self._trainer.train(pack, sink, lambda: pack[0].run_id in self._stopped)
        ray.get(list(in_flight))
        return str(outcome)

    def stop(self, pack_id: str) -> None:
        """Stop the training of `pack_id` after its current row."""
        self._stopped.add(pack_id)


class EmbedderActor:
    """An embedder in its own process; all calls are idempotent."""

    def __init__(self, form: LogFormat | None, store_url: str, section: EmbeddingSection, fsync: Fsync) -> None:
        from streamscalar.workers.embedder import Embedder

        _set_up_logs(form)
        self._embedder = Embedder(store_url, section, fsync)

    def embed(self, run_id: str, first_row: int, weights: NDArray[np.floating], coordinator: Any) -> None:
        """Embed a block and report it."""
        try:
            coordinator.report.remote(self._embedder.embed(run_id, first_row, weights))
        except Exception:
            # Another embedder may own the run now; the next attempt starts from the store.
            self._embedder.forget(run_id)
            raise

    def finalise(self, run_ids: list[str], retain: str, coordinator: Any) -> None:
        """Store the exact solution of each run and report it."""
        for run_id in run_ids:
            try:
                coordinator.report.remote(self._embedder.finalise(run_id, retain))
            except Exception:
                self._embedder.forget(run_id)
                raise


class CoordinatorActor:
    """The coordinator, and the thread that carries out its instructions."""

    def __init__(self, form: LogFormat | None, config: Config, store_url: str) -> None:
        from streamscalar.workers.coordinator import Coordinator

        _set_up_logs(form)
        self._config = config
        self._store_url = store_url
        self._coordinator = Coordinator(_opened(store_url), plan_packs(config), 0, config.n_rows)
        self._lock = threading.Lock()
        self._inbox: deque[CancelRequested] = deque()
        self._me = ray.get_runtime_context().current_actor
        self._pool = Pool(
            config.cluster,
            trainer=(TrainerActor, (form, store_url, config)),
            embedder=(EmbedderActor, (form, store_url, config.embedding, config.store.fsync)),
        )
        self._embedder_of: dict[str, Any] = {}
        self._to_start: deque[StartTraining] = deque()
        self._busy: dict[str, Placed] = {}
        self._pending: dict[Any, Instruction] = {}
        self._failure = ""
        self._asked_at = time.monotonic()
        threading.Thread(target=self._live, daemon=True).start()

    def report(self, progress: RunProgress) -> None:
        """Register an embedded block."""
        with self._lock:
            self._coordinator.report(progress)

    def cancel(self) -> None:
        """Stop all runs after their current row."""
        self._inbox.append(CancelRequested())

    def snapshot(self) -> Snapshot:
        """Return the state of all runs."""
        self._asked_at = time.monotonic()
        with self._lock:
            snapshot = self._coordinator.snapshot()
        if self._failure:
            return replace(snapshot, is_over=True, error=self._failure)
        return replace(snapshot, note=self._pool.shortage)

    def _live(self) -> None:
        """Work until the experiment is over, answer queries for `LINGER_S`, then end."""
        try:
            self._work()
        except (Unreachable, OSError):
            # The storage may come back. The state may be inconsistent, so Ray restarts this actor from the store.
            _LOG.exception("coordinator lost its store and restarts")
            time.sleep(RESTART_AFTER_S)
            os._exit(1)
        except Exception as error:  # noqa: BLE001  (the failure is reported by `snapshot`; all actors are ended)
            _LOG.exception("coordinator failed")
            kind = "" if isinstance(error, StreamscalarError) else f"the coordinator failed: {type(error).__name__}: "
            self._failure = f"{kind}{error}"
        self._pool.close()
        self._asked_at = time.monotonic()
        while time.monotonic() - self._asked_at < LINGER_S:
            time.sleep(POLL_S)
        ray.kill(self._me)

    def _work(self) -> None:
        with self._lock:
            self._take(self._coordinator.begin())
        polled_at = -math.inf
        every_s = POLL_BUCKET_S if medium_of(place(self._store_url)).is_remote else 0.0
        while True:
            with self._lock:
                if self._inbox:
                    self._take(self._coordinator.handle(self._inbox.popleft()))
                if time.monotonic() - polled_at > every_s:
                    self._take(self._coordinator.handle_requests())
                    polled_at = time.monotonic()
                self._pool.fill(self._coordinator.n_wanted)
                self._take(self._coordinator.resize(self._pool.n_placed))
                if self._coordinator.is_over and not self._pending:
                    return
            if self._config.cluster.address is None and self._pool.hopeless:
                raise WorkFailed("cluster", self._pool.hopeless, kind=Kind.CLUSTER)
            while self._to_start and self._pool.n_idle:
                self._start(self._to_start.popleft())
            calls = [*self._pending, *self._pool.calls]
            if not calls:
                time.sleep(POLL_S)
                continue
            for call in ray.wait(calls, timeout=POLL_S)[0]:
                if call in self._pending:
                    self._settle(call, self._pending.pop(call))
                else:
                    self._pool.settle(call)

    def _take(self, instructions: Iterable[Instruction]) -> None:
        """Carry out instructions; a training run starts once a trainer is available."""
        for instruction in instructions:
            pack_id = instruction.pack_id
            match instruction:
                case StartTraining():
                    self._to_start.append(instruction)
                case FinalisePack():
                    embedder = self._embedder_of.get(pack_id) or self._pool.embedder()
                    run_ids = [plan.run_id for plan in self._coordinator.packs[pack_id]]
                    call = embedder.finalise.remote(run_ids, self._config.recording.retain, self._me)
                    self._pending[call] = instruction
                case StopTraining() if pack_id in self._busy:
                    self._busy[pack_id].actor.stop.remote(pack_id)
                case StopTraining() if StartTraining(pack_id) in self._to_start:
                    self._to_start.remove(StartTraining(pack_id))
                    self._take(self._coordinator.handle(TrainingStopped(pack_id)))

    def _start(self, instruction: StartTraining) -> None:
        pack_id = instruction.pack_id
        trainer = self._busy[pack_id] = self._pool.take()
        embedder = self._embedder_of[pack_id] = self._pool.embedder(trainer.node)
        _LOG.info("training placed", extra={**self._about(instruction), "node": trainer.node})
        call = trainer.actor.train.remote(self._coordinator.packs[pack_id], embedder, self._me)
        self._pending[call] = instruction

    def _about(self, instruction: Instruction) -> dict[str, str]:
        """Return the fields of a log line about an instruction, with the event that caused it."""
        about = {"experiment": self._config.experiment.name, "run": instruction.pack_id}
        return {**about, "event": instruction.event_id} if instruction.event_id else about

    def _settle(self, call: Any, instruction: Instruction) -> None:
        pack_id = instruction.pack_id
        result, error = _outcome(call)
        if isinstance(instruction, StartTraining):
            self._pool.give_back(self._busy.pop(pack_id), is_alive=not isinstance(error, RayActorError))
        with self._lock:
            if error is not None:
                # The lost process may be the embedder.
                self._embedder_of.pop(pack_id, None)
                _LOG.warning(
                    "worker failed", extra={**self._about(instruction), "reason": " ".join(str(error).split())[:300]}
                )
                cause = error.cause if isinstance(error, RayTaskError) else None
                self._take(self._coordinator.fail(pack_id, cause or ConnectionError("the worker's process died")))
            elif isinstance(instruction, FinalisePack):
                self._embedder_of.pop(pack_id, None)
                _LOG.info("done", extra=self._about(instruction))
                self._take(self._coordinator.handle(PackFinalised(pack_id)))
            else:
                ended = TrainingFinished if result == Outcome.FINISHED else TrainingStopped
                self._take(self._coordinator.handle(ended(pack_id)))


def _opened(store_url: str) -> Store:
    """Open a store and wait while its bucket does not answer: Ray does not restart an actor whose constructor fails."""
    while True:
        try:
            return Store.open(store_url, writable=True)
        except Unreachable:
            _LOG.warning("store does not answer", exc_info=True)
            time.sleep(RESTART_AFTER_S)


def _set_up_logs(form: LogFormat | None) -> None:
    """Log to the file of this process in Ray's log folder."""
    set_up_logs(form or "text", node=ray.get_runtime_context().get_node_id())


def _outcome(call: Any) -> tuple[Any, RayTaskError | RayActorError | None]:
    """Return the result of a finished call, or its error."""
    try:
        return ray.get(call), None
    except (RayTaskError, RayActorError) as error:
        return None, error
