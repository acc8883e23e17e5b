"""The catalog: all runs below a folder, or below a prefix in a bucket, kept up to date by polling.

Readers of a store never write. To poll a run without new rows takes three calls to the file system, or three requests;
one with new rows costs its newest row. Runs that have ended are polled in turns.
"""

import logging
import secrets
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from streamscalar.errors import BadCall, Kind, StreamscalarError
from streamscalar.store import Place, Unreachable, medium_of
from streamscalar_services.api.schemas import State
from streamscalar_services.api.watch.entries import Each, Entry, Source
from streamscalar_services.api.watch.totals import Totals

_log = logging.getLogger(__name__)

ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled"})
ENDED_PER_POLL = 200
"""Ended runs that are polled again each time: one may be resumed, or its experiment deleted."""
ENDED_PER_POLL_BUCKET = 20
"""The same in a bucket, where each request is billed."""
N_CONCURRENT = 32
"""Runs polled concurrently in a bucket, where a poll mostly waits."""
DISCOVER_EVERY_S = 5.0
"""Seconds between two searches for new stores."""


def _poll(entry: Entry) -> bool:
    """Return whether anything changed; a run that cannot be read stays listed as it was last read."""
    try:
        return entry.poll()
    except (OSError, StreamscalarError) as error:
        # A store that is being deleted loses its runs first.
        _log.warning("run %s cannot be read: %s", entry.id, error)
    return False


def require_stores(root: Place) -> None:
    """Raise `BadCall` if the place does not exist, so that it can neither be a store nor hold stores."""
    if not medium_of(root).is_there(root):
        raise BadCall(str(root), "must be a store or a folder of stores", "nothing there", kind=Kind.STORE_MISSING)


@dataclass(slots=True)
class Changes:
    """The result of one poll: new runs, and runs with changes.

    Attributes
    ----------
    id
        Links the changes to the events, alerts and log lines that follow from them.
    """

    id: str

    new: list[Entry] = field(default_factory=list)
    moved: list[Entry] = field(default_factory=list)


class Catalog:
    """The runs of one store, or of all stores in a folder.

    `refresh` must be called from one thread; everything else may be called from any thread.

    Attributes
    ----------
    totals : Totals
        Growth of all runs since the service started.
    """

    def __init__(self, root: Place) -> None:
        require_stores(root)
        self._medium = medium_of(root)
        self._root: Place = self._medium.resolved(root)
        is_remote = self._medium.is_remote
        self._each: Each = ThreadPoolExecutor(N_CONCURRENT, "poll").map if is_remote else map
        self._ended_per_poll = ENDED_PER_POLL_BUCKET if is_remote else ENDED_PER_POLL
        self._is_store = (root / "zarr.json").exists()
        self.sources: dict[str, Source] = {}
        self._broken: set[Place] = set()
        self._entries: dict[str, Entry] = {}
        self._live: dict[str, Entry] = {}
        self._ended: deque[Entry] = deque()
        self._discovered_at = -DISCOVER_EVERY_S
        self._new_since = time.time()
        self.totals = Totals()
        self._epoch = secrets.token_hex(4)
        self._n_polls = 0
        self._guard = threading.Lock()
        self.is_ready = False

    def entries(self) -> list[Entry]:
        """Return all runs, in the order of their discovery."""
        with self._guard:
            return list(self._entries.values())

    @property
    def n_not_started(self) -> int:
        """Runs planned or requested that have not started."""
        return sum(len(source.backlog.waiting) for source in list(self.sources.values()))

    def live(self) -> list[Entry]:
        """Return the runs that have not ended."""
        return list(self._live.values())

    def entry(self, run: str) -> Entry:
        """Return a run.

        Raises
        ------
        BadCall
            No run or experiment has that name.
        """
        found = self._entries.get(run)
        if found is None:
            raise BadCall("run", "must be one of the runs that /v1/runs lists", repr(run), kind=Kind.STORE_MISSING)
        return found

    def source(self, name: str) -> Source:
        """Return an experiment.

        Raises
        ------
        BadCall
            No run or experiment has that name.
        """
        found = self.sources.get(name)
        if found is None:
            must = "must be one of the experiments that /v1/experiments lists"
            raise BadCall("experiment", must, repr(name), kind=Kind.STORE_MISSING)
        return found

    def refresh(self) -> Changes:
        """Poll the stores and return the changes."""
        self._n_polls += 1
        changes = Changes(f"{self._epoch}-{self._n_polls}")
        self._discover()
        for source in list(self.sources.values()):
            try:
                changes.new += source.new_runs(self._each)
                source.backlog.refresh(source.runs)
            except OSError:
                self._forget(source)
        with self._guard:
            self._entries |= {entry.id: entry for entry in changes.new}
        self._live |= {entry.id: entry for entry in changes.new}
        fresh = {entry.id for entry in changes.new}
        for entry in changes.new:
            entry.change_id = changes.id
        turn = [self._ended.popleft() for _ in range(min(self._ended_per_poll, len(self._ended)))]
        polled = [*self._live.values(), *turn]
        for entry, has_changed in zip(polled, self._each(_poll, polled), strict=True):
            if has_changed:
                entry.change_id = changes.id
                entry.count(self.totals)
                if entry.id not in fresh:
                    changes.moved.append(entry)
            if entry.has_exact or entry.phase in ENDED:
                self._live.pop(entry.id, None)
                self._ended.append(entry)
            else:
                self._live[entry.id] = entry
        self.is_ready = True
        return changes

    def _discover(self) -> None:
        if time.monotonic() - self._discovered_at < DISCOVER_EVERY_S:
            return
        self._discovered_at = time.monotonic()
        new_since, self._new_since = self._new_since, time.time()
        for path in [self._root] if self._is_store else self._medium.stores_below(self._root):
            if path.name in self.sources or path in self._broken:
                continue
            try:
                self.sources[path.name] = Source(path, new_since)
            except Unreachable:
                raise
            except StreamscalarError as error:
                self._broken.add(path)
                _log.warning("%s is skipped: %s", path, error)

    def _forget(self, source: Source) -> None:
        _log.warning("%s no longer exists", source.store.url)
        self.sources.pop(source.name, None)
        with self._guard:
            for entry in source.runs.values():
                self._entries.pop(entry.id, None)
                self._live.pop(entry.id, None)
