"""All runs below a folder, or a prefix in a bucket, kept up to date by looking at the few files that change.

Readers of a store never write. A look at a run that did not move is three calls to the file system, or three requests;
one that moved costs its newest row. Runs that have ended are looked at in turns.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from streamscalar.analysis.run import Glance
from streamscalar.config import RunSetting
from streamscalar.errors import BadCall, Kind, StreamscalarError
from streamscalar.experiment import Experiment
from streamscalar.store import Place, RunReader, Store, Unreachable, medium_of
from streamscalar.store.change_stamps import list_stamp, n_attempts, run_stamp
from streamscalar.store.schema import RunFiles, RunSpec
from streamscalar.types import REFERENCE
from streamscalar_services.api.schemas import State
from streamscalar_services.api.watch.totals import Backlog, Counts, Tally

_log = logging.getLogger(__name__)

ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled"})
ENDED_PER_LOOK = 200
"""Ended runs looked at again each time: one may be resumed, or its experiment deleted."""
ENDED_PER_LOOK_BUCKET = 20
"""As many in a bucket, where each look is billed."""
N_LOOKS = 32
"""Runs looked at side by side in a bucket, where a look waits and computes little."""
Each: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""`map`, one by one or side by side."""
DISCOVER_EVERY_S = 5.0
"""Seconds between two searches for new stores."""
CLOCK_SLACK_S = 30.0
"""Seconds by which the clock of the file system may differ from ours."""


@dataclass(slots=True)
class Entry:
    """What is known of a run; small, as there may be many thousands.

    Attributes
    ----------
    id
        `<experiment>:<run id>`.
    source
        Its experiment.
    run_id, setting, n_planned, parent
        As defined in the store.
    layout
        Equal for runs of one parameter layout.
    segment_rows
        Rows written at once.
    row_bytes
        Raw bytes of one row: the weights of all replicas.
    phase, reason
        What its coordinator or tracker last said.
    n_rows, n_embedded, n_bases, step, loss, accuracy
        How far it is; the metrics are those of the reference.
    n_attempts
        Trainers, or trackers, that have begun to write it.
    counted
        What the tally has of it; `None` where what it has was there before the service looked.
    has_exact, is_complete
        Whether the exact embedding, and all rows, are there.
    updated_at
        Seconds since 1970.
    glance, curve, explained_variance
        Exponent and regime; (steps, values, rows) of the thinned scalar; `None` until analysed.
    glanced, glanced_at
        Rows embedded and whether exactly, when it was analysed; seconds of the monotonic clock.
    features
        Shape of the scalar, by name.
    n_alerts
        Alerts so far.
    """

    id: str
    source: "Source"
    run_id: str
    setting: RunSetting
    n_planned: int | None
    parent: tuple[str, int] | None
    layout: int
    segment_rows: int
    row_bytes: int
    counted: Counts | None
    phase: str = ""
    reason: str = ""
    n_rows: int = 0
    n_embedded: int = 0
    n_bases: int = 0
    n_attempts: int = 0
    step: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    has_exact: bool = False
    is_complete: bool = False
    updated_at: float = 0.0
    glance: Glance | None = None
    glanced: tuple[int, bool] = (0, False)
    glanced_at: float = 0.0
    curve: tuple[list[int], list[float], int] | None = None
    explained_variance: float | None = None
    features: dict[str, float] = field(default_factory=dict)
    n_alerts: int = 0
    _seen: object = None
    _reader: RunReader | None = None

    @property
    def path(self) -> Place:
        """Where it is stored."""
        return self.source.store.place / "runs" / self.run_id

    @property
    def is_tracked(self) -> bool:
        """Whether a user's own loop trains it."""
        return self.setting.is_tracked

    def state(self, now: float, silent_after_s: float) -> State:
        """Return where it stands."""
        if self.phase == "failed" or self.phase == "cancelled":
            return "failed" if self.phase == "failed" else "cancelled"
        if self.has_exact:
            return "done"
        if now - self.updated_at > silent_after_s:
            return "silent"
        if self.is_complete:
            return "trained"
        return "waiting" if self.phase == "waiting" else "training"

    @property
    def n_to_embed(self) -> int:
        """Rows that its embedder is behind; none once nobody will embed them."""
        return 0 if self.phase in ("failed", "cancelled") else max(0, self.n_rows - self.n_embedded)

    def look(self) -> bool:
        """Take up what changed on disk; return whether anything did."""
        seen, updated_at = run_stamp(self.path, is_complete=self.is_complete)
        if seen == self._seen:
            return False
        reader = self._reader or self.source.store.reader(self.run_id, hash_weights=False)
        newest = reader.newest()
        status = self.source.store.status(self.run_id)
        self.phase, self.reason = str(status.get("phase", "")), str(status.get("reason", ""))
        self.is_complete, self.has_exact = reader.is_complete, reader.embedding.has_exact
        self.n_embedded, self.n_bases = reader.embedding.n_rows, reader.embedding.n_bases
        self.n_attempts = n_attempts(self.path)
        if newest is not None:
            self.n_rows, self.step = newest.n_rows, newest.step
            own = {name: float(values[REFERENCE]) for name, values in newest.metrics.items()}
            self.loss, self.accuracy = own.get("loss"), own.get("accuracy")
        self.updated_at = updated_at
        # A live run keeps its reader, which remembers the rows of the log that it has seen.
        self._reader = None if self.is_complete else reader
        self._seen = seen
        return True

    def count(self, tally: Tally) -> None:
        """Have what it gained since the last call counted."""
        now = (self.n_rows, self.n_bases, self.n_attempts)
        tally.take(self.counted, now, self.row_bytes)
        self.counted = now


class Source:
    """One experiment.

    Attributes
    ----------
    name : str
        Name of its folder, by which it is asked for.
    experiment : Experiment
        The stored experiment.
    is_new : bool
        Whether it was made since the service last searched for stores, so that all it has is new.
    backlog : Backlog
        Its runs that nobody has begun.
    """

    def __init__(self, path: Place, new_since: float) -> None:
        self.name = path.name
        self.experiment = Experiment(Store.open(path))
        # A config that this version does not understand is noticed here, not at every request.
        self.config = self.experiment.config
        made = self.store.medium.stamp(path / "zarr.json")
        self.created_at = time.time() if made is None else made[1]
        self.is_new = self.created_at >= new_since - CLOCK_SLACK_S
        self.backlog = Backlog(self.store, self.config)
        self.runs: dict[str, Entry] = {}
        self._seen: object = None

    @property
    def store(self) -> Store:
        """Its store."""
        return self.experiment.store

    @property
    def is_tracked(self) -> bool:
        """Whether users' own loops train its runs."""
        return bool(self.config.task.name == "tracked")

    def new_runs(self, each: Each) -> list[Entry]:
        """Return runs that were not there at the last call."""
        seen = list_stamp(self.store.place)
        if seen == self._seen:
            return []
        counted = (0, 0, 0) if self.is_new or self._seen else None
        fresh = [run_id for run_id in self.store.run_ids() if run_id not in self.runs]
        found = []
        for spec in each(self._spec, fresh):
            entry = Entry(
                f"{self.name}:{spec.run_id}",
                self,
                spec.run_id,
                spec.setting,
                spec.n_planned,
                spec.parent,
                hash((spec.layout.layers, spec.layout.dtype)),
                spec.segment_rows,
                math.prod(spec.row_shape) * np.dtype(spec.layout.dtype).itemsize,
                counted,
            )
            self.runs[spec.run_id] = entry
            found.append(entry)
        self._seen = seen
        return found

    def _spec(self, run_id: str) -> RunSpec:
        return RunFiles(self.store.place / "runs" / run_id).spec()


def _look(entry: Entry) -> bool:
    """Return whether anything changed; a run that cannot be read stays listed as it was last read."""
    try:
        return entry.look()
    except (OSError, StreamscalarError) as error:
        # Whoever deletes a store deletes its runs first.
        _log.warning("run %s cannot be read: %s", entry.id, error)
    return False


def require_stores(root: Place) -> None:
    """Raise `BadCall` where nothing is that could be, or hold, a store."""
    if not medium_of(root).is_there(root):
        raise BadCall(str(root), "must be a store or a folder of stores", "nothing there", kind=Kind.STORE_MISSING)


@dataclass(slots=True)
class Changes:
    """What a look found: runs that were not there before, and runs that moved."""

    new: list[Entry] = field(default_factory=list)
    moved: list[Entry] = field(default_factory=list)


class Catalog:
    """The runs of one store, or of all stores of a folder.

    `refresh` is called from one thread; all else may be called from any.

    Attributes
    ----------
    tally : Tally
        What was added to them since.
    """

    def __init__(self, root: Place) -> None:
        require_stores(root)
        self._medium = medium_of(root)
        self._root: Place = self._medium.resolved(root)
        is_remote = self._medium.is_remote
        self._each: Each = ThreadPoolExecutor(N_LOOKS, "look").map if is_remote else map
        self._ended_per_look = ENDED_PER_LOOK_BUCKET if is_remote else ENDED_PER_LOOK
        self._is_store = (root / "zarr.json").exists()
        self.sources: dict[str, Source] = {}
        self._broken: set[Place] = set()
        self._entries: dict[str, Entry] = {}
        self._live: dict[str, Entry] = {}
        self._ended: deque[Entry] = deque()
        self._discovered_at = -DISCOVER_EVERY_S
        self._new_since = time.time()
        self.tally = Tally()
        self._guard = threading.Lock()
        self.is_ready = False

    def entries(self) -> list[Entry]:
        """Return all runs, in the order of their discovery."""
        with self._guard:
            return list(self._entries.values())

    @property
    def n_to_begin(self) -> int:
        """Runs planned or asked for that nobody has begun."""
        return sum(len(source.backlog.waiting) for source in list(self.sources.values()))

    def live(self) -> list[Entry]:
        """Return the runs that have not ended."""
        return list(self._live.values())

    def entry(self, run: str) -> Entry:
        """Return a run.

        Raises
        ------
        BadCall
            There is none of that name.
        """
        found = self._entries.get(run)
        if found is None:
            raise BadCall("run", "must be a run that is here, as /v1/runs lists it", repr(run), kind=Kind.STORE_MISSING)
        return found

    def source(self, name: str) -> Source:
        """Return an experiment.

        Raises
        ------
        BadCall
            There is none of that name.
        """
        found = self.sources.get(name)
        if found is None:
            must = "must be an experiment that is here, as /v1/experiments lists it"
            raise BadCall("experiment", must, repr(name), kind=Kind.STORE_MISSING)
        return found

    def refresh(self) -> Changes:
        """Look at the disk and return what changed."""
        changes = Changes()
        self._discover()
        for source in list(self.sources.values()):
            try:
                changes.new += source.new_runs(self._each)
                source.backlog.look(source.runs)
            except OSError:
                self._forget(source)
        with self._guard:
            self._entries |= {entry.id: entry for entry in changes.new}
        self._live |= {entry.id: entry for entry in changes.new}
        fresh = {entry.id for entry in changes.new}
        turn = [self._ended.popleft() for _ in range(min(self._ended_per_look, len(self._ended)))]
        looked = [*self._live.values(), *turn]
        for entry, has_moved in zip(looked, self._each(_look, looked), strict=True):
            if has_moved:
                entry.count(self.tally)
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
                _log.warning("%s is left out: %s", path, error)

    def _forget(self, source: Source) -> None:
        _log.warning("%s is gone", source.store.url)
        self.sources.pop(source.name, None)
        with self._guard:
            for entry in source.runs.values():
                self._entries.pop(entry.id, None)
                self._live.pop(entry.id, None)
