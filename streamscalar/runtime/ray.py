"""The workers as Ray actors; the only module that imports ray.

A named coordinator actor owns the trainers and embedders and may restart: it rebuilds its state from the store.
Trainers push durable blocks to their run's embedder; at most two are in flight, which bounds memory.
"""

import hashlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from streamscalar.config import Config, RunPlan, plan_packs
from streamscalar.config.models import EmbeddingSection
from streamscalar.coordinator.coordinator import Coordinator
from streamscalar.errors import BadCall, Kind
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
from streamscalar.store import Fsync, Store
from streamscalar.workers.embedder import Embedder
from streamscalar.workers.trainer import Outcome, Trainer

Executor = Callable[[Store, Callable[[Snapshot], None]], Snapshot]
"""Carries out what a store lacks and returns the last snapshot."""

NAMESPACE = "streamscalar"
MAX_IN_FLIGHT = 2
"""Blocks pushed and not yet embedded, per trainer: one being embedded, one on its way."""
POLL_S = 0.25
CANCEL_PATIENCE_S = 30.0


class TrainerActor:
    """A trainer in a process of its own."""

    def __init__(self, store_path: str, config: Config) -> None:
        self._trainer = Trainer(store_path, config)
        self._stopped: set[str] = set()

    def train(self, pack: tuple[RunPlan, ...], embedder: Any, coordinator: Any) -> str:
        """Train a pack of runs, pushing their blocks to `embedder`; return the outcome."""
        in_flight: deque[Any] = deque()

        def sink(run_id: str, first_row: int, weights: NDArray[np.floating]) -> None:
            in_flight.append(embedder.embed.remote(run_id, first_row, weights, coordinator))
            if len(in_flight) > MAX_IN_FLIGHT:
                ray.get(in_flight.popleft())

        outcome = self._trainer.train(pack, sink, lambda: pack[0].run_id in self._stopped)
        ray.get(list(in_flight))
        return str(outcome)

    def stop(self, pack_id: str) -> None:
        """Let the training of `pack_id` end after the row it is at."""
        self._stopped.add(pack_id)


class EmbedderActor:
    """An embedder in a process of its own; its calls may repeat."""

    def __init__(self, store_path: str, section: EmbeddingSection, fsync: Fsync) -> None:
        self._embedder = Embedder(store_path, section, fsync)

    def embed(self, run_id: str, first_row: int, weights: NDArray[np.floating], coordinator: Any) -> None:
        """Embed a block and report it."""
        coordinator.report.remote(self._embedder.embed(run_id, first_row, weights))

    def finalise(self, run_ids: list[str], retain: str, coordinator: Any) -> None:
        """Store the exact solution of each run and report it."""
        for run_id in run_ids:
            coordinator.report.remote(self._embedder.finalise(run_id, retain))


class CoordinatorActor:
    """The coordinator and the thread that carries its instructions out."""

    def __init__(self, config: Config, store_path: str, n_trainers: int) -> None:
        self._config = config
        packs = plan_packs(config)
        self._coordinator = Coordinator(Store.open(store_path, writable=True), packs, n_trainers, config.n_rows)
        self._lock = threading.Lock()
        self._inbox: deque[CancelRequested] = deque()
        self._me = ray.get_runtime_context().current_actor
        cluster = config.cluster
        self._idle = [
            ray.remote(TrainerActor)
            .options(
                num_cpus=cluster.cpus_per_trainer,
                num_gpus=cluster.gpus_per_trainer,
                max_restarts=-1,
                max_concurrency=2,
            )
            .remote(store_path, config)
            for _ in range(n_trainers)
        ]
        self._embedders: list[Any] = [
            ray.remote(EmbedderActor)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote(store_path, config.embedding, config.store.fsync)
            for _ in range(cluster.n_embedders)
        ]
        self._embedder_of: dict[str, Any] = {}
        self._busy: dict[str, Any] = {}
        self._pending: dict[Any, Instruction] = {}
        threading.Thread(target=self._loop, daemon=True).start()

    def report(self, progress: RunProgress) -> None:
        """Take note of an embedded block."""
        with self._lock:
            self._coordinator.report(progress)

    def cancel(self) -> None:
        """Stop all runs after the row they are at."""
        self._inbox.append(CancelRequested())

    def snapshot(self) -> Snapshot:
        """Return the state of all runs."""
        with self._lock:
            return self._coordinator.snapshot()

    def _loop(self) -> None:
        with self._lock:
            instructions = self._coordinator.begin()
        while True:
            for instruction in instructions:
                self._carry_out(instruction)
            instructions = []
            with self._lock:
                if self._inbox:
                    instructions += self._coordinator.handle(self._inbox.popleft())
                instructions += self._coordinator.obey()
            if not self._pending:
                time.sleep(0 if instructions else POLL_S)
                continue
            ready, _ = ray.wait(list(self._pending), timeout=POLL_S)
            for reference in ready:
                instructions += self._settle(reference, self._pending.pop(reference))

    def _carry_out(self, instruction: Instruction) -> None:
        pack_id = instruction.pack_id
        pack = self._coordinator.packs[pack_id]
        match instruction:
            case StartTraining():
                self._busy[pack_id] = self._idle.pop()
                call = self._busy[pack_id].train.remote(pack, self._embedder(pack_id), self._me)
                self._pending[call] = instruction
            case FinalisePack():
                run_ids = [plan.run_id for plan in pack]
                call = self._embedder(pack_id).finalise.remote(run_ids, self._config.recording.retain, self._me)
                self._pending[call] = instruction
            case StopTraining() if pack_id in self._busy:
                self._busy[pack_id].stop.remote(pack_id)

    def _embedder(self, pack_id: str) -> Any:
        """Return the embedder of a pack: always the same one, as it holds the state of the pack's runs."""
        if pack_id not in self._embedder_of:
            self._embedder_of[pack_id] = self._embedders[len(self._embedder_of) % len(self._embedders)]
        return self._embedder_of[pack_id]

    def _settle(self, reference: Any, instruction: Instruction) -> list[Instruction]:
        pack_id = instruction.pack_id
        if isinstance(instruction, StartTraining):
            self._idle.append(self._busy.pop(pack_id))
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            with self._lock:
                return self._coordinator.fail(pack_id, error.cause or error)
        except RayActorError:
            with self._lock:
                return self._coordinator.fail(pack_id, ConnectionError("the worker's process died"))
        with self._lock:
            if isinstance(instruction, FinalisePack):
                return self._coordinator.handle(PackFinalised(pack_id))
            ended = TrainingFinished if result == Outcome.FINISHED else TrainingStopped
            return self._coordinator.handle(ended(pack_id))


@contextmanager
def ray_executor(config: Config) -> Iterator[Executor]:
    """Connect to an existing cluster, or start a local one that ends with the context; yield what runs a store on it.

    Raises
    ------
    BadCall
        `cluster.address` does not answer, or the cluster can never hold a trainer.
    """
    connected = not ray.is_initialized()
    if connected:
        _connect(config.cluster.address)
    try:
        n_trainers = _n_trainers(config)

        def run(store: Store, on_snapshot: Callable[[Snapshot], None]) -> Snapshot:
            coordinator = _coordinator(config, store, n_trainers)
            try:
                return _watch(coordinator, on_snapshot)
            finally:
                ray.kill(coordinator)

        yield run
    finally:
        if connected:
            ray.shutdown()


class _Host:
    """Holds an object in a process of the cluster."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._held = build()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call one of its methods."""
        return getattr(self._held, name)(*arguments)


def hosted(build: Callable[[], Any], address: str) -> Callable[..., Any]:
    """Make an object in a process of the cluster at `address`; return what calls its methods, by name and arguments.

    The call raises what the method raised, and `ConnectionError` where the process is gone. The process ends with
    this one.

    Raises
    ------
    BadCall
        The cluster does not answer.
    """
    if not ray.is_initialized():
        _connect(address)
    actor: Any = ray.remote(_Host).options(num_cpus=0).remote(build)

    def call(name: str, *arguments: Any) -> Any:
        try:
            return ray.get(actor.call.remote(name, *arguments))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except RayActorError as error:
            raise ConnectionError(" ".join(str(error).split())[:200]) from None

    return call


def _connect(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(include_dashboard=False, **quiet)
        return
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, **quiet)
    except (OSError, ConnectionError, RuntimeError, ValueError) as error:
        raise BadCall(
            "cluster.address",
            "must be the address of a running Ray cluster",
            f"{address} ({' '.join(str(error).split())[:120]})",
            "Start one with `ray start --head`, or leave the address out for a local one",
            Kind.CLUSTER,
        ) from None


def _n_trainers(config: Config) -> int:
    # Ray annotates this call in part, which counts as untyped.
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cluster = config.cluster
    fits = [
        int(resources.get(kind, 0) / share)
        for kind, share in (("CPU", cluster.cpus_per_trainer), ("GPU", cluster.gpus_per_trainer))
        if share
    ]
    most = min([*fits, len(plan_packs(config))])
    if most < 1:
        raise BadCall(
            "cluster.cpus_per_trainer, cluster.gpus_per_trainer",
            "must fit into the cluster",
            f"{cluster.cpus_per_trainer:g} CPUs and {cluster.gpus_per_trainer:g} GPUs, where it has "
            f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}",
            kind=Kind.CLUSTER,
        )
    return min(cluster.max_concurrent_runs or most, most)


def _coordinator(config: Config, store: Store, n_trainers: int) -> Any:
    name = f"coordinator-{hashlib.sha256(str(store.path.resolve()).encode()).hexdigest()[:16]}"
    return (
        ray.remote(CoordinatorActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached" if config.cluster.address else None,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=8,
        )
        .remote(config, str(store.path.resolve()), n_trainers)
    )


def _watch(coordinator: Any, on_snapshot: Callable[[Snapshot], None]) -> Snapshot:
    """Poll until all is over; an interrupt cancels once and waits for the rows in hand."""
    deadline: float | None = None
    last: Snapshot | None = None
    while True:
        try:
            last = ray.get(coordinator.snapshot.remote(), timeout=60)
            on_snapshot(last)
            if last.is_over or (deadline is not None and time.monotonic() > deadline):
                return last
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            if deadline is not None and last is not None:
                return last
            deadline = time.monotonic() + CANCEL_PATIENCE_S
            coordinator.cancel.remote()
        except (ActorUnavailableError, ActorDiedError):
            time.sleep(POLL_S)
