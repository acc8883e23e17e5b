"""The workers as Ray actors, and the coordinator that gives them their work.

Trainers push durable blocks to their run's embedder; at most two are in flight, which bounds memory. The coordinator
is a named actor: it restarts where its node is lost, rebuilds its state from the store, and does not need the process
that began the experiment.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

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
    PackFinalised,
    StartTraining,
    StopTraining,
    TrainingFinished,
    TrainingStopped,
)
from streamscalar.runtime.ray.pool import Placed, Pool, UnfitNode
from streamscalar.store import Fsync, Store, Unreachable, medium_of, place
from streamscalar.workers.coordinator import Coordinator
from streamscalar.workers.embedder import Embedder
from streamscalar.workers.trainer import Outcome, Trainer

_LOG = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2
"""Blocks pushed and not yet embedded, per trainer: one being embedded, one on its way."""
POLL_S = 0.25
OBEY_BUCKET_EVERY_S = 1.0
"""Seconds between two looks for requests in a bucket, where each is a listing; a folder is looked at all the time."""
RESTART_AFTER_S = 1.0
LINGER_S = 60.0
"""Seconds after the end of an experiment for which its coordinator answers those who ask."""


class TrainerActor:
    """A trainer in a process of its own."""

    def __init__(self, form: LogFormat | None, store_url: str, config: Config) -> None:
        _set_up_logs(form)
        self._store_url, self._config = store_url, config
        self._trainer: Trainer | None = None
        self._stopped: set[str] = set()

    def place(self) -> str:
        """Get ready and return the node; raises `UnfitNode` where it lacks the store or the device."""
        node, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        try:
            Store.open(self._store_url, writable=True)
        except (StreamscalarError, OSError) as error:
            reason = f"store.url must be on storage that every node sees; node {address}: {error}"
            raise UnfitNode(node, reason) from None
        try:
            self._trainer = Trainer(self._store_url, self._config)
        except StreamscalarError as error:
            raise UnfitNode(node, f"node {address}: {error}") from None
        return str(node)

    def train(self, pack: tuple[RunPlan, ...], embedder: Any, coordinator: Any) -> str:
        """Train a pack of runs, pushing their blocks to `embedder`; return the outcome."""
        in_flight: deque[Any] = deque()

        def sink(run_id: str, first_row: int, weights: NDArray[np.floating]) -> None:
            in_flight.append(embedder.embed.remote(run_id, first_row, weights, coordinator))
            if len(in_flight) > MAX_IN_FLIGHT:
                ray.get(in_flight.popleft())

        assert self._trainer is not None, "place comes first"
        outcome = self._trainer.train(pack, sink, lambda: pack[0].run_id in self._stopped)
        ray.get(list(in_flight))
        return str(outcome)

    def stop(self, pack_id: str) -> None:
        """Let the training of `pack_id` end after the row it is at."""
        self._stopped.add(pack_id)


class EmbedderActor:
    """An embedder in a process of its own; its calls may repeat."""

    def __init__(self, form: LogFormat | None, store_url: str, section: EmbeddingSection, fsync: Fsync) -> None:
        _set_up_logs(form)
        self._embedder = Embedder(store_url, section, fsync)

    def embed(self, run_id: str, first_row: int, weights: NDArray[np.floating], coordinator: Any) -> None:
        """Embed a block and report it."""
        try:
            coordinator.report.remote(self._embedder.embed(run_id, first_row, weights))
        except Exception:
            # Another embedder may have taken the run over; the next attempt begins from the store.
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
    """The coordinator and the thread that carries its instructions out."""

    def __init__(self, form: LogFormat | None, config: Config, store_url: str) -> None:
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
        self._to_start: deque[str] = deque()
        self._busy: dict[str, Placed] = {}
        self._pending: dict[Any, Instruction] = {}
        self._failure = ""
        self._asked_at = time.monotonic()
        threading.Thread(target=self._live, daemon=True).start()

    def report(self, progress: RunProgress) -> None:
        """Take note of an embedded block."""
        with self._lock:
            self._coordinator.report(progress)

    def cancel(self) -> None:
        """Stop all runs after the row they are at."""
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
        """Work until all is over, then answer for a while, then end."""
        try:
            self._work()
        except (Unreachable, OSError):
            # The storage may be back soon. The state may be half changed: Ray starts this actor anew, from the store.
            _LOG.exception("coordinator lost its store and starts anew")
            time.sleep(RESTART_AFTER_S)
            os._exit(1)
        except Exception as error:  # noqa: BLE001  (whoever asks is told; what runs is ended)
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
        looked_at = -math.inf
        every_s = OBEY_BUCKET_EVERY_S if medium_of(place(self._store_url)).is_remote else 0.0
        while True:
            with self._lock:
                if self._inbox:
                    self._take(self._coordinator.handle(self._inbox.popleft()))
                if time.monotonic() - looked_at > every_s:
                    self._take(self._coordinator.obey())
                    looked_at = time.monotonic()
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
        """Carry out instructions, those to start a training once a trainer is there."""
        for instruction in instructions:
            pack_id = instruction.pack_id
            match instruction:
                case StartTraining():
                    self._to_start.append(pack_id)
                case FinalisePack():
                    embedder = self._embedder_of.get(pack_id) or self._pool.embedder()
                    run_ids = [plan.run_id for plan in self._coordinator.packs[pack_id]]
                    call = embedder.finalise.remote(run_ids, self._config.recording.retain, self._me)
                    self._pending[call] = instruction
                case StopTraining() if pack_id in self._busy:
                    self._busy[pack_id].actor.stop.remote(pack_id)
                case StopTraining() if pack_id in self._to_start:
                    self._to_start.remove(pack_id)
                    self._take(self._coordinator.handle(TrainingStopped(pack_id)))

    def _start(self, pack_id: str) -> None:
        trainer = self._busy[pack_id] = self._pool.take()
        embedder = self._embedder_of[pack_id] = self._pool.embedder(trainer.node)
        _LOG.info("training placed", extra={**self._about(pack_id), "node": trainer.node})
        call = trainer.actor.train.remote(self._coordinator.packs[pack_id], embedder, self._me)
        self._pending[call] = StartTraining(pack_id)

    def _about(self, pack_id: str) -> dict[str, str]:
        """Return what a log line says of a pack."""
        return {"experiment": self._config.experiment.name, "run": pack_id}

    def _settle(self, call: Any, instruction: Instruction) -> None:
        pack_id = instruction.pack_id
        result, error = _outcome(call)
        if isinstance(instruction, StartTraining):
            self._pool.give_back(self._busy.pop(pack_id), is_alive=not isinstance(error, RayActorError))
        with self._lock:
            if error is not None:
                # Its embedder may be what was lost.
                self._embedder_of.pop(pack_id, None)
                _LOG.warning(
                    "worker failed", extra={**self._about(pack_id), "reason": " ".join(str(error).split())[:300]}
                )
                cause = error.cause if isinstance(error, RayTaskError) else None
                self._take(self._coordinator.fail(pack_id, cause or ConnectionError("the worker's process died")))
            elif isinstance(instruction, FinalisePack):
                self._embedder_of.pop(pack_id, None)
                _LOG.info("done", extra=self._about(pack_id))
                self._take(self._coordinator.handle(PackFinalised(pack_id)))
            else:
                ended = TrainingFinished if result == Outcome.FINISHED else TrainingStopped
                self._take(self._coordinator.handle(ended(pack_id)))


def _opened(store_url: str) -> Store:
    """Open a store, however long its bucket does not answer: an actor that cannot be made is not made again."""
    while True:
        try:
            return Store.open(store_url, writable=True)
        except Unreachable:
            _LOG.warning("store does not answer", exc_info=True)
            time.sleep(RESTART_AFTER_S)


def _set_up_logs(form: LogFormat | None) -> None:
    """Log to this process's file among Ray's logs."""
    set_up_logs(form or "text", node=ray.get_runtime_context().get_node_id())


def _outcome(call: Any) -> tuple[Any, RayTaskError | RayActorError | None]:
    """Return the result of a call that is over, or its error."""
    try:
        return ray.get(call), None
    except (RayTaskError, RayActorError) as error:
        return None, error
