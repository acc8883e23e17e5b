"""The pool of trainers and embedders on a Ray cluster whose nodes may join and leave.

A trainer is an actor that waits until Ray has the resources for it. So experiments queue while resources are short,
a node that joins is used within seconds, and an autoscaler sees the waiting actors as demand. A trainer that died is
not restarted but replaced, on any node with room.
"""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from streamscalar.config.models import ClusterSection

_LOG = logging.getLogger(__name__)

FILL_EVERY_S = 2.0
"""Interval of reading the nodes of the cluster."""
START_S = 10.0
"""Seconds without a trainer after which `shortage` reports it."""
TRAINERS_PER_EMBEDDER = 4
"""Trainers per embedder: as many as one keeps up with at a row per update of a small network (see `bench scaling`)."""
ANYWHERE = ""
"""Node of an embedder that Ray places."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A trainer that has started: its actor and its node."""

    actor: Any
    node: str


class Pool:
    """As many trainers as there is work and room for, and their embedders.

    Parameters
    ----------
    cluster
        Resources and maximum number of trainers.
    trainer, embedder
        Actor classes and their arguments. The method `place` of a trainer returns its node, and raises `UnfitNode` if
        the node cannot be used.
    """

    def __init__(
        self, cluster: ClusterSection, trainer: tuple[type, tuple[Any, ...]], embedder: tuple[type, tuple[Any, ...]]
    ) -> None:
        self._cluster = cluster
        self._trainer = trainer
        self._embedder = embedder
        self._joining: dict[Any, Any] = {}
        self._idle: list[Placed] = []
        self._busy: list[Placed] = []
        self._embedders: dict[tuple[str, int], Any] = {}
        self._n_chosen = 0
        self._unfit: dict[str, str] = {}
        self._lost = ""
        self._nodes: list[dict[str, Any]] = []
        self._read_at = -math.inf
        self._placed_at = time.monotonic()

    @property
    def n_placed(self) -> int:
        """Number of started trainers, busy or idle."""
        return len(self._idle) + len(self._busy)

    @property
    def n_idle(self) -> int:
        """Number of idle trainers."""
        return len(self._idle)

    @property
    def calls(self) -> list[Any]:
        """Calls that return when a trainer has started; pass them to `settle`."""
        return list(self._joining)

    @property
    def shortage(self) -> str:
        """What the pool waits for while no trainer has started; empty if one has."""
        if self.n_placed or not self._joining or time.monotonic() - self._placed_at < START_S:
            return ""
        shares = [(self._cluster.cpus_per_trainer, "CPU"), (self._cluster.gpus_per_trainer, "GPU")]
        share = " and ".join(f"{n:g} {kind}{'s' * (n > 1)}" for n, kind in shares if n)
        if self.hopeless or self._lost:
            return self.hopeless or self._lost
        if self._room():
            return f"waiting for {share} to become free"
        return f"waiting for a node with {share}"

    @property
    def hopeless(self) -> str:
        """Why no node of the cluster can be used; empty if one can, or if there is no node."""
        return "" if self.n_placed or self._room() else next(iter(self._unfit.values()), "")

    def fill(self, n_wanted: int) -> None:
        """Request more trainers, or end idle ones, for `n_wanted` packs; acts at most every `FILL_EVERY_S`."""
        now = time.monotonic()
        if now - self._read_at < FILL_EVERY_S:
            return
        self._read_at = now
        self._nodes = ray.nodes()  # type: ignore[no-untyped-call]
        self._forget_dead_nodes()
        if self.n_placed:
            self._placed_at = now
        limit = self._cluster.max_concurrent_runs
        most = min(n_wanted, self._room() + 1 if limit is None else limit)
        n_too_many = self.n_placed + len(self._joining) - most
        for _ in range(-n_too_many):
            self._request_trainer()
        for call in list(self._joining)[: max(0, n_too_many)]:
            ray.kill(self._joining.pop(call))
            n_too_many -= 1
        for _ in range(min(n_too_many, len(self._idle))):
            ray.kill(self._idle.pop().actor)

    def settle(self, call: Any) -> None:
        """Take over a trainer whose call returned; if its node cannot be used, end it and avoid the node."""
        actor = self._joining.pop(call)
        try:
            self._idle.append(Placed(actor, ray.get(call)))
            self._lost = ""
        except RayTaskError as error:
            if not isinstance(error.cause, UnfitNode):
                raise
            node, reason = error.cause.args
            if node not in self._unfit:
                _LOG.warning("node cannot be used", extra={"node": node, "reason": reason})
            self._unfit[node] = reason
            self._read_at = -math.inf
            ray.kill(actor)
        except RayActorError as error:
            # Its node may be gone, or unable to start the process: `fill` requests another trainer.
            self._lost = f"a trainer did not start: {' '.join(str(error).split())[:300]}"
            _LOG.warning("trainer did not start", extra={"reason": self._lost})

    def take(self) -> Placed:
        """Return an idle trainer and mark it as busy."""
        self._busy.append(self._idle.pop())
        return self._busy[-1]

    def give_back(self, trainer: Placed, *, is_alive: bool) -> None:
        """Return a trainer to the pool; one that died is replaced."""
        self._busy.remove(trainer)
        if is_alive:
            self._idle.append(trainer)
        else:
            self._read_at = -math.inf

    def embedder(self, node: str = ANYWHERE) -> Any:
        """Return an embedder, in turn: one on the node of the trainer, or any if `cluster.n_embedders` is set."""
        self._n_chosen += 1
        if self._cluster.n_embedders is not None:
            return self._embedder_at((ANYWHERE, self._n_chosen % self._cluster.n_embedders))
        if node == ANYWHERE:
            known = list(self._embedders) or [(ANYWHERE, 0)]
            return self._embedder_at(known[self._n_chosen % len(known)])
        resources = [it["Resources"] for it in self._nodes if it["NodeID"] == node]
        n_here = math.ceil(n_fitting(resources, self._cluster) / TRAINERS_PER_EMBEDDER)
        return self._embedder_at((node, self._n_chosen % max(1, n_here)))

    def close(self) -> None:
        """End all actors, which frees their resources."""
        trainers = [trainer.actor for trainer in (*self._idle, *self._busy)]
        for actor in [*self._joining.values(), *trainers, *self._embedders.values()]:
            ray.kill(actor)
        self._joining, self._idle, self._busy, self._embedders = {}, [], [], {}

    def _embedder_at(self, place: tuple[str, int]) -> Any:
        if place not in self._embedders:
            kind, arguments = self._embedder
            node, _ = place
            strategy = "SPREAD" if node == ANYWHERE else NodeAffinitySchedulingStrategy(node, soft=False)
            self._embedders[place] = (
                ray.remote(kind)
                .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=strategy)
                .remote(*arguments)
            )
        return self._embedders[place]

    def _request_trainer(self) -> None:
        kind, arguments = self._trainer
        actor: Any = (
            ray.remote(kind)
            .options(
                num_cpus=self._cluster.cpus_per_trainer,
                num_gpus=self._cluster.gpus_per_trainer,
                scheduling_strategy="SPREAD",
                label_selector={"ray.io/node-id": f"!in({','.join(self._unfit)})"} if self._unfit else None,
                max_concurrency=2,
            )
            .remote(*arguments)
        )
        self._joining[actor.get_ready.remote()] = actor

    def _forget_dead_nodes(self) -> None:
        alive = {node["NodeID"] for node in self._nodes if node["Alive"]}
        self._idle = [trainer for trainer in self._idle if trainer.node in alive]
        self._embedders = {place: it for place, it in self._embedders.items() if place[0] in {ANYWHERE, *alive}}
        self._unfit = {node: why for node, why in self._unfit.items() if node in alive}

    def _room(self) -> int:
        fit = [node for node in self._nodes if node["Alive"] and node["NodeID"] not in self._unfit]
        return n_fitting((node["Resources"] for node in fit), self._cluster)


class UnfitNode(Exception):
    """Raised by a trainer on a node that cannot be used; the arguments are the node and the reason."""


def n_fitting(nodes: Iterable[Mapping[str, float]], cluster: ClusterSection) -> int:
    """Return how many trainers fit on nodes with these resources, if nothing else runs there.

    >>> n_fitting([{"CPU": 2.0}, {"CPU": 3.0, "GPU": 1.0}], ClusterSection(gpus_per_trainer=0.25))
    3
    """
    shares = {"CPU": cluster.cpus_per_trainer, "GPU": cluster.gpus_per_trainer}
    needed = {kind: share for kind, share in shares.items() if share}
    if not needed:
        # Nothing is reserved: one trainer per CPU, because more would only compete.
        needed = {"CPU": 1.0}
    # A share such as a third does not divide evenly in binary.
    return sum(min(int(node.get(kind, 0) / share + 1e-9) for kind, share in needed.items()) for node in nodes)
