"""Totals for Prometheus: growth of all runs since the service started, and runs that have not started."""

import logging
from collections.abc import Container

from streamscalar.config import Config, plan_packs
from streamscalar.store import Store

_log = logging.getLogger(__name__)

Counts = tuple[int, int, int]
"""Rows, basis versions, and attempts of a run."""


class Totals:
    """Sums over all runs that never decrease, even if a run or its store is deleted.

    They start at 0 with the service and add every increase. A sum over the stored runs would decrease with each
    deleted store, and Prometheus treats a decrease as a restart: it would count the remaining runs again.

    Attributes
    ----------
    n_rows, n_bytes, n_refits, n_restarts : int
        Rows that became readable, their raw bytes, basis versions, and attempts at a run after its first.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self.n_bytes = 0
        self.n_refits = 0
        self.n_restarts = 0

    def take(self, before: Counts | None, now: Counts, row_bytes: int) -> None:
        """Add the growth of a run; `before` is `None` if the run existed before the service found it.

        Examples
        --------
        >>> totals = Totals()
        >>> for before, now in (((0, 0, 0), (8, 1, 1)), ((8, 1, 1), (4, 0, 2)), ((4, 0, 2), (6, 1, 2))):
        ...     totals.take(before, now, row_bytes=100)
        >>> totals.n_rows, totals.n_bytes, totals.n_refits, totals.n_restarts
        (10, 1000, 2, 1)
        """
        if before is None:
            return
        rows, refits, attempts = (max(0, new - old) for old, new in zip(before, now, strict=True))
        self.n_rows += rows
        self.n_bytes += rows * row_bytes
        self.n_refits += refits
        # The first attempt of a run is no restart.
        self.n_restarts += attempts - int(before[2] == 0 and attempts > 0)


class Backlog:
    """The runs of an experiment that have not started: planned or requested, and not cancelled.

    Parameters
    ----------
    store, config
        The experiment.

    Attributes
    ----------
    waiting : set of str
        Their names; empty for a finished experiment.
    """

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._seen: object = None
        self._known: set[str] = set()
        packs = [] if config.task.name == "tracked" else plan_packs(config)
        self._packs = {run.run_id: {other.run_id for other in pack} for pack in packs for run in pack}
        self.waiting = set(self._packs)

    def refresh(self, started: Container[str]) -> None:
        """Read new requests, and drop the runs that have started."""
        seen = self._store.medium.entries_stamp(self._store.place / "requests")
        if seen != self._seen:
            self._take_requests()
            self._seen = seen
        for run_id in [run_id for run_id in self.waiting if run_id in started]:
            self.waiting.discard(run_id)
            self._packs.pop(run_id, None)

    def _take_requests(self) -> None:
        for request in self._store.requests(self._known):
            try:
                if request["kind"] == "add":
                    self.waiting |= {str(run["run_id"]) for run in request["runs"]}
                else:
                    run_id = str(request["run_id"])
                    # The runs of a pack train together and end together.
                    self.waiting -= self._packs.get(run_id, {run_id})
            except (KeyError, TypeError):
                _log.warning("skipping a request of %s that cannot be read", self._store.url)
