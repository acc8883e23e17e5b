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
from streamscalar.errors import StreamscalarError
from streamscalar.experiment import Run
from streamscalar.numerics.shape import shape
from streamscalar.types import REFERENCE
from streamscalar_services.api.catalog import Entry
from streamscalar_services.api.sampling import sample

_log = logging.getLogger(__name__)

SPARK_POINTS = 32
"""Points of a curve in a list."""
GROWTH = 1.1
"""A live run is analysed again when it has this many times the rows; at the latest at its end."""


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
            while self._runs and held > self._max_bytes:
                _, (oldest, _) = self._runs.popitem(last=False)
                held -= oldest.held_bytes
            self._runs[entry.id] = found
            return found


class Analyst:
    """Fills in what a list shows of each run."""

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._queued: set[str] = set()
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
        """Runs that wait to be analysed."""
        return len(self._waiting)

    def _queue(self, entry: Entry, *, first: bool) -> None:
        with self._wake:
            if entry.id in self._queued and not first:
                return
            self._queued.add(entry.id)
            if first:
                self._waiting.appendleft(entry)
            else:
                self._waiting.append(entry)
            self._wake.notify_all()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._is_closed:
                    self._wake.wait()
                if self._is_closed:
                    return
                entry = self._waiting.popleft()
                if entry.id not in self._queued:
                    continue
                self._queued.discard(entry.id)
            began = time.perf_counter()
            try:
                analyse(entry)
                self._finished.append(entry)
            except (OSError, StreamscalarError, ValueError) as error:
                _log.warning("run %s cannot be analysed: %s", entry.id, error)
            time.sleep(time.perf_counter() - began)


def _is_due(entry: Entry) -> bool:
    n_rows, was_exact = entry.glanced
    if entry.has_exact != was_exact:
        return True
    return entry.n_embedded > 0 and (n_rows == 0 or entry.n_embedded >= GROWTH * n_rows)


def analyse(entry: Entry) -> None:
    """Take up exponent, regime and curve of a run as it is now."""
    run = entry.source.experiment.run(entry.run_id)
    series = run.series()
    if not len(series.steps):
        return
    scalar = series.scores[:, REFERENCE, 0]
    found = shape(scalar)
    entry.glance = glance(series, entry.source.experiment.options)
    entry.features = {} if found is None else asdict(found)
    entry.curve = _curve(series.steps, scalar)
    entry.explained_variance = series.explained_variance
    entry.glanced = (len(series.steps), series.embedding_is_exact)


def _curve(steps: NDArray[np.int64], scalar: NDArray[np.float64]) -> tuple[list[int], list[float], int]:
    rows = sample(0, len(steps), SPARK_POINTS).rows
    return steps[rows].tolist(), scalar[rows].tolist(), len(steps)
