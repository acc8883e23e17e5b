"""The Ray executor: a local cluster that ends with the command, or an existing one.

On an existing cluster the coordinator outlives the process that started the experiment; `attach` finds it by the store.
"""

import hashlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import AuthenticationError, GetTimeoutError, RayActorError, RaySystemError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from streamscalar.config import Config
from streamscalar.config.log_settings import log_format
from streamscalar.config.models import ClusterSection
from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.protocol.progress import Snapshot
from streamscalar.runtime.ray.actors import POLL_S, CoordinatorActor
from streamscalar.runtime.ray.pool import n_fitting
from streamscalar.runtime.ray.token import adopt_token, protect_token
from streamscalar.store import Store

Executor = Callable[[Store, Callable[[Snapshot], None]], Snapshot]
"""Carries out the missing work of a store and returns the last snapshot."""

NAMESPACE = "streamscalar"
HEAD = "node:__internal_head__"
"""Resource of the head node of a cluster."""
CALL_TIMEOUT_S = 10.0
"""Timeout of one call of a coordinator."""
PATIENCE_S = 120.0
"""Seconds without an answer after which a cluster counts as lost; a coordinator moves to another node in less."""
HEAD_PATIENCE_S = 15.0
"""The same if no process listens at the address of the head."""
CANCEL_PATIENCE_S = 30.0


@contextmanager
def ray_executor(config: Config) -> Iterator[Executor]:
    """Connect to an existing cluster, or start a local one that ends with the context; yield an executor.

    Raises
    ------
    BadCall
        `cluster.address` does not answer, or this machine has too few resources for one trainer.
    """
    with _connected(config.cluster.address):
        if config.cluster.address is None:
            _require_room(config.cluster)

        def run(store: Store, on_snapshot: Callable[[Snapshot], None]) -> Snapshot:
            coordinator = _coordinator(config, store)
            try:
                return _watch(coordinator, on_snapshot, config.cluster.address, cancels=True)
            finally:
                ray.kill(coordinator)

        yield run


def attach(store: Store, address: str, on_snapshot: Callable[[Snapshot], None]) -> Snapshot | None:
    """Follow the experiment of `store` on the cluster at `address` to its end; an interrupt leaves it running.

    Returns its last snapshot; `None` if the cluster has no coordinator of this store.
    """
    with _connected(address):
        try:
            coordinator = ray.get_actor(_name(store), NAMESPACE)
        except ValueError:
            return None
        return _watch(coordinator, on_snapshot, address, cancels=False)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


class _Host:
    """Holds an object in a process of the cluster."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._held = build()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call one of its methods."""
        return getattr(self._held, name)(*arguments)


def hosted(build: Callable[[], Any], address: str) -> Callable[..., Any]:
    """Create an object in a process of the cluster at `address`; return a function that calls its methods by name.

    The function raises what the method raised, and `ConnectionError` if the process died. The process ends with this
    one.

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
        protect_token()
        # Without this, Ray listens on all interfaces; `_node_ip_address` does not accept a loopback address.
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            ray.init(include_dashboard=False, **quiet)
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = True
        return
    adopt_token()
    host, _, port = address.rpartition(":")
    fix = "Start one with `ray start --head`, or leave the address out for a local one"
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=5).close()
            fix = "Set RAY_AUTH_TOKEN, and run this on one of its nodes; `streamscalar doctor` shows details"
        ray.init(address=address, **quiet)
    except (OSError, ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        raise BadCall(
            "cluster.address",
            "must be the address of a running Ray cluster",
            f"{address} ({' '.join(str(error).split())[:120]})",
            fix,
            Kind.CLUSTER,
        ) from None


def _require_room(cluster: ClusterSection) -> None:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    resources = nodes[0]["Resources"]
    if n_fitting([resources], cluster) < 1:
        raise BadCall(
            "cluster.cpus_per_trainer, cluster.gpus_per_trainer",
            "must fit the resources of this machine",
            f"{cluster.cpus_per_trainer:g} CPUs and {cluster.gpus_per_trainer:g} GPUs, but it has "
            f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}",
            kind=Kind.CLUSTER,
        )


def _name(store: Store) -> str:
    return f"coordinator-{hashlib.sha256(store.url.encode()).hexdigest()[:16]}"


def _coordinator(config: Config, store: Store) -> Any:
    # On the head if the driver runs there: the head sees the store, and its loss ends the cluster anyway. Elsewhere
    # the coordinator must be free to move. (Ray ignores a soft affinity of an actor without CPUs.)
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    is_head = any(HEAD in node["Resources"] for node in nodes if node["NodeID"] == here)
    return (
        ray.remote(CoordinatorActor)
        .options(
            name=_name(store),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached" if config.cluster.address else None,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=8,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False) if is_head else "DEFAULT",
        )
        .remote(log_format(), config, store.url)
    )


def _watch(
    coordinator: Any, on_snapshot: Callable[[Snapshot], None], address: str | None, *, cancels: bool
) -> Snapshot:
    """Poll until the experiment is over. With `cancels`, the first interrupt cancels it and waits for current rows.

    Raises
    ------
    WorkFailed
        The coordinator did not answer for `PATIENCE_S`, or the head of the cluster is gone.
    """
    deadline = math.inf
    answered_at = time.monotonic()
    last: Snapshot | None = None
    while True:
        try:
            last = ray.get(coordinator.snapshot.remote(), timeout=CALL_TIMEOUT_S)
            answered_at = time.monotonic()
            on_snapshot(last)
            if last.is_over or answered_at > deadline:
                return last
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            if deadline < math.inf or not cancels:
                if last is None:
                    raise
                return last
            deadline = time.monotonic() + CANCEL_PATIENCE_S
            coordinator.cancel.remote()
        except (RayActorError, GetTimeoutError, RaySystemError) as error:
            silent_s = time.monotonic() - answered_at
            if silent_s > PATIENCE_S or (silent_s > HEAD_PATIENCE_S and not _answers(address)):
                raise WorkFailed(
                    "cluster",
                    f"has not answered for {silent_s:.0f} s; every acknowledged row is kept",
                    " ".join(str(error).split())[:120],
                    "Go on with `streamscalar resume`, on this cluster or a new one",
                    Kind.CLUSTER,
                ) from None
            time.sleep(POLL_S)


def _answers(address: str | None) -> bool:
    host, _, port = (address or "").rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True
