"""Background analysis, so that lists show the regime, exponent and curve of each run without computing them.

One thread, which sleeps as long as it worked and so never uses more than half a core. Runs that a client requested
recently come first.
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
from streamscalar.numerics.series.shape import shape
from streamscalar.types import REFERENCE
from streamscalar_services.api.query.sampling import sample
from streamscalar_services.api.watch.alarms import Alarms
from streamscalar_services.api.watch.entries import Entry

_log = logging.getLogger(__name__)

SPARK_POINTS = 32
"""Maximum number of points of a curve in a list."""
GROWTH = 1.05
"""A live run is analysed again when its number of rows has grown by this factor, and at its end."""
AGAIN_AFTER_S = 10.0
"""A live run with new rows is analysed again after this many seconds in any case."""


class Analyst:
    """Computes the regime, exponent and curve of each run, and applies the alert rules to it."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._waiting: OrderedDict[str, Entry] = OrderedDict()
        self._later: OrderedDict[str, Entry] = OrderedDict()
        self._wake = threading.Condition()
        self._finished: deque[Entry] = deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="analyst", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the current run."""
        with self._wake:
            self._is_closed = True
            self._wake.notify_all()
        self._thread.join()

    def offer(self, entry: Entry) -> None:
        """Queue a run with changes, if it has grown enough to be analysed again."""
        if _is_due(entry):
            self._queue(entry, first=False)

    def want(self, entry: Entry) -> None:
        """Queue a run that a client shows, before the others."""
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
        """Runs in the queue for analysis or for the alert rules."""
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
        """Analyse the next run; if there is none, apply the alert rules to one that had ended before its analysis."""
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
                # Alerts of runs that ended earlier are not urgent; without them thousands of runs are listed sooner.
                self._later[entry.id] = entry
            else:
                self._alarms.take(entry, series, read)
        except (OSError, StreamscalarError, ValueError) as error:
            _log.warning("run %s cannot be analysed: %s [change %s]", entry.id, error, entry.change_id)


def _is_due(entry: Entry) -> bool:
    n_rows, was_exact = entry.glanced
    if entry.has_exact != was_exact:
        return True
    if entry.n_embedded <= n_rows:
        return False
    return entry.n_embedded >= GROWTH * n_rows or time.monotonic() - entry.glanced_at > AGAIN_AFTER_S


def read(entry: Entry) -> RunSeries:
    """Return the stored series of a run."""
    return entry.source.experiment.run(entry.run_id).series()


def analyse(entry: Entry, series: RunSeries) -> None:
    """Compute exponent, regime and curve of a run from its series."""
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
