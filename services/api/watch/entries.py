"""Runs and experiments of the catalog: what is known of each, and how it is read from the store."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from streamscalar.analysis.run import Glance
from streamscalar.config import RunSetting
from streamscalar.experiment import Experiment
from streamscalar.missing import is_missing
from streamscalar.store import Place, RunReader, Store
from streamscalar.store.change_stamps import list_stamp, n_attempts, run_stamp
from streamscalar.store.schema import RunFiles, RunSpec
from streamscalar.types import REFERENCE
from streamscalar_services.api.schemas import State
from streamscalar_services.api.watch.totals import Backlog, Counts, Totals

Each: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""`map`, sequential or concurrent."""
CLOCK_SLACK_S = 30.0
"""Seconds by which the clock of the file system may differ from ours."""


@dataclass(slots=True)
class Entry:
    """The known facts of a run; small, as a catalog holds many thousands.

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
        Rows per segment.
    row_bytes
        Raw bytes of one row: the weights of all replicas.
    phase, reason
        Last status that its coordinator or tracker wrote.
    n_rows, n_embedded, n_bases, step, loss, accuracy
        Its progress; the metrics are those of the reference.
    n_attempts
        Trainers, or trackers, that have started to write it.
    counted
        The part of it in the totals; `None` if it existed before the service found it.
    has_exact, is_complete
        Whether the exact embedding, and all rows, are stored.
    updated_at
        Unix time of its newest row, in seconds.
    change_id
        Id of the poll that found its last change.
    glance, curve, explained_variance
        Exponent and regime; (steps, values, rows) of the thinned scalar; `None` until analysed.
    glanced, glanced_at
        Rows, and whether embedded exactly, when it was last analysed; monotonic time of that in seconds.
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
    change_id: str = ""
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
        """Folder of the run in the store."""
        return self.source.store.place / "runs" / self.run_id

    @property
    def is_tracked(self) -> bool:
        """Whether a training loop of the user writes it."""
        return self.setting.is_tracked

    def state(self, now: float, silent_after_s: float) -> State:
        """Return its state."""
        if self.phase == "failed" or self.phase == "cancelled":
            return "failed" if self.phase == "failed" else "cancelled"
        if self.has_exact or (self.is_complete and not self.n_rows):
            return "done"
        if now - self.updated_at > silent_after_s:
            return "silent"
        if self.is_complete:
            return "trained"
        return "waiting" if self.phase == "waiting" else "training"

    @property
    def n_to_embed(self) -> int:
        """Rows that are not embedded yet; 0 for a run that ended early, as they never will be."""
        return 0 if self.phase in ("failed", "cancelled") else max(0, self.n_rows - self.n_embedded)

    def poll(self) -> bool:
        """Read changes from the store; return whether there were any."""
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
            own = {name: values[REFERENCE] for name, values in newest.metrics.items()}
            # Where the newest row has none, the last one that was reported stays.
            known = {name: float(value) for name, value in own.items() if not is_missing(value)}
            self.loss, self.accuracy = known.get("loss", self.loss), known.get("accuracy", self.accuracy)
        self.updated_at = updated_at
        # A live run keeps its reader, which caches the rows of the log that it has read.
        self._reader = None if self.is_complete else reader
        self._seen = seen
        return True

    def count(self, totals: Totals) -> None:
        """Add its growth since the last call to the totals."""
        now = (self.n_rows, self.n_bases, self.n_attempts)
        totals.take(self.counted, now, self.row_bytes)
        self.counted = now


class Source:
    """One experiment.

    Attributes
    ----------
    name : str
        Name of its folder, which is its name in the API.
    experiment : Experiment
        The stored experiment.
    is_new : bool
        Whether it was created after the previous search for stores, so that all of its rows are new.
    backlog : Backlog
        Its runs that have not started.
    """

    def __init__(self, path: Place, new_since: float) -> None:
        self.name = path.name
        self.experiment = Experiment(Store.open(path))
        # A config that this version cannot read fails here, not at every request.
        self.config = self.experiment.config
        created = self.store.medium.stamp(path / "zarr.json")
        self.created_at = time.time() if created is None else created[1]
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
        """Whether training loops of users write its runs."""
        return bool(self.config.task.name == "tracked")

    def new_runs(self, each: Each) -> list[Entry]:
        """Return the runs that are new since the last call."""
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
