"""Runs that stay open between requests."""

import threading
from collections import OrderedDict

from streamscalar.experiment import Run
from streamscalar_services.api.watch.entries import Entry

MOST_OPEN = 256
"""Maximum number of runs kept open."""


class Readers:
    """Runs opened for reading; the least recently used are closed when their series exceed the memory limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._runs: OrderedDict[str, tuple[Run, threading.Lock]] = OrderedDict()
        self._guard = threading.Lock()

    def take(self, entry: Entry) -> tuple[Run, threading.Lock]:
        """Return a run and the lock to hold while it is read, as a reader is not thread-safe."""
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
