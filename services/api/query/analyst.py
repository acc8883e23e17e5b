"""Analyses runs in the background, so that lists can show regime, exponent and curve of each without waiting for it.

One thread, which sleeps as long as it worked: it never takes more than half a core from those who ask. Runs that
somebody asked for lately come first.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.run import glance
from streamscalar.analysis.series import RunSeries
from streamscalar.errors import StreamscalarError
from streamscalar.experiment import Run
from streamscalar.numerics.series.shape import shape
from streamscalar.types import REFERENCE
from streamscalar_services.api.query.sampling import sample
from streamscalar_services.api.watch.alarms import Alarms
from streamscalar_services.api.watch.catalog import Entry

_log = logging.getLogger(__name__)

SPARK_POINTS = 32
"""Points of a curve in a list."""
MOST_OPEN = 256
"""Runs kept open for reading."""
GROWTH = 1.05
"""A live run is analysed again when it has this many times the rows; at the latest at its end."""
AGAIN_AFTER_S = 10.0
"""... or when it grew at all in so many seconds."""


class Readers:
    """Runs opened for reading, the least recently used closed where their series outgrow the memory they may hold."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._runs: OrderedDict[str, tuple[Run, threading.Lock]] = OrderedDict()
        self._guard = threading.Lock()

    def take(self, entry: Entry) -> tuple[Run, threading.Lock]:
        """Return a run and the lock to hold while it is read, as a reader serves one thread at a time."""
        with self._guard:
            found = self._runs.pop(entry.id, None)
            if found is None:
                found = entry.source.experiment.run(entry.run_id), threading.Lock()
            held = sum(run.held_bytes for run, _ in self._runs.values())
            while self._runs and (held > self._max_bytes or len(self._runs) >= MOST_OPEN):
                _, (oldest, _) = self._runs.popitem(last=False)
                held -= oldest.held_bytes
            self._runs[entry.id] = found
            return found


class Analyst:
    """Fills in what a list shows of each run, and has the alarms look at it."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._waiting: OrderedDict[str, Entry] = OrderedDict()
        self._later: OrderedDict[str, Entry] = OrderedDict()
        self._wake = threading.Condition()
        self._finished: deque[Entry] = deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="analyst", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End after the run at hand."""
        with self._wake:
            self._is_closed = True
            self._wake.notify_all()
        self._thread.join()

    def offer(self, entry: Entry) -> None:
        """Queue a run that moved, where it moved far enough to be analysed again."""
        if _is_due(entry):
            self._queue(entry, first=False)

    def want(self, entry: Entry) -> None:
        """Put a run that somebody looks at before the others."""
        if _is_due(entry):
            self._queue(entry, first=True)

    def take_finished(self) -> list[Entry]:
        """Return the runs analysed since the last call."""
        found = []
        while self._finished:
            found.append(self._finished.popleft())
        return found

    @property
    def n_waiting(self) -> int:
        """Runs that wait to be analysed, or to be searched for alerts."""
        return len(self._waiting) + len(self._later)

    def _queue(self, entry: Entry, *, first: bool) -> None:
        with self._wake:
            self._waiting[entry.id] = entry
            if first:
                self._waiting.move_to_end(entry.id, last=False)
            self._wake.notify_all()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self.n_waiting and not self._is_closed:
                    self._wake.wait()
                if self._is_closed:
                    return
            began = time.perf_counter()
            self.work_one()
            time.sleep(time.perf_counter() - began)

    def work_one(self) -> None:
        """Analyse the run that is next; where none waits, search one that has ended for its alerts."""
        with self._wake:
            is_first = bool(self._waiting)
            queue = self._waiting if is_first else self._later
            if not queue:
                return
            _, entry = queue.popitem(last=False)
        try:
            series = read(entry)
            if not len(series.steps):
                return
            if is_first:
                analyse(entry, series)
                self._finished.append(entry)
            if is_first and entry.has_exact and not self._alarms.is_watched(entry):
                # What ended before anybody looked is no news; thousands of such runs are listed sooner without.
                self._later[entry.id] = entry
            else:
                self._alarms.take(entry, series, read)
        except (OSError, StreamscalarError, ValueError) as error:
            _log.warning("run %s cannot be analysed: %s", entry.id, error)


def _is_due(entry: Entry) -> bool:
    n_rows, was_exact = entry.glanced
    if entry.has_exact != was_exact:
        return True
    if entry.n_embedded <= n_rows:
        return False
    return entry.n_embedded >= GROWTH * n_rows or time.monotonic() - entry.glanced_at > AGAIN_AFTER_S


def read(entry: Entry) -> RunSeries:
    """Return what is stored of a run now."""
    return entry.source.experiment.run(entry.run_id).series()


def analyse(entry: Entry, series: RunSeries) -> None:
    """Take up exponent, regime and curve of a run, from its series."""
    scalar = series.scores[:, REFERENCE, 0]
    found = shape(scalar)
    entry.glance = glance(series, entry.source.experiment.options)
    entry.features = {} if found is None else asdict(found)
    entry.curve = _curve(series.steps, scalar)
    entry.explained_variance = series.explained_variance
    entry.glanced = (len(series.steps), series.embedding_is_exact)
    entry.glanced_at = time.monotonic()


def _curve(steps: NDArray[np.int64], scalar: NDArray[np.float64]) -> tuple[list[int], list[float], int]:
    rows = sample(0, len(steps), SPARK_POINTS).rows
    return steps[rows].tolist(), scalar[rows].tolist(), len(steps)
