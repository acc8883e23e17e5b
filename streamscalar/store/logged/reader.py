"""Read the logged values of a run: every value of every metric, with the step that it was given for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.missing import MISSING, is_missing
from streamscalar.store.logged.log import Entries, Series, ValuesLogReader
from streamscalar.store.media.files import json_bytes, read_group
from streamscalar.store.media.objects import Place
from streamscalar.store.schema import RunFiles

_ATTEMPTS = 100


class LoggedReader:
    """Reads the logged values of one run; every call returns the newest state.

    Parameters
    ----------
    files
        Parts of the run.
    log
        Folder of the write-ahead files; `None` where readers have none.
    prefix
        Reads the first rows of a small array, given its path in the run and their number.
    """

    def __init__(self, files: RunFiles[Place], log: Path | None, prefix: Callable[[str, int], NDArray[Any]]) -> None:
        self._files = files
        self._log = None if log is None else ValuesLogReader(log)
        self._prefix = prefix
        self._newest = Entries.joined([])
        self._n_published = 0

    def entries(self) -> Entries:
        """Return all entries in the order in which they were given: published, and acknowledged in the log.

        The same arrays may be returned again; do not change them.
        """
        for _ in range(_ATTEMPTS):
            before = read_group(self._files.weights)
            n = int(before.get("logged", 0))
            # Read after the number of entries: the list only grows.
            series = read_series(self._files) if n else ()
            tail = Entries.joined([])
            if self._log is not None and not before["complete"]:
                tail = self._log.entries(n, series)
                series = tail.series
                if read_group(self._files.weights) != before:
                    continue
            if (n, n + len(tail), series) != (self._n_published, len(self._newest), self._newest.series):
                # Kept, as a caller asks for one name after the other.
                columns = [self._prefix(f"logged/{name}", n) for name in ("steps", "series", "values")] if n else []
                whole = Entries.joined([*([Entries(series, *columns)] if n else []), tail])
                self._newest, self._n_published = Entries(series, whole.steps, whole.which, whole.values), n
            return self._newest
        raise WorkFailed("logged", "is published faster than it can be read", context=str(self._files.path))

    @property
    def held_bytes(self) -> int:
        """Bytes of the entries that are kept."""
        return sum(column.nbytes for column in self._newest.columns.values())

    def names(self) -> tuple[str, ...]:
        """Return the names of the metrics, in the order of their first value."""
        return tuple(dict.fromkeys(name for name, _ in self.entries().series))


def read_series(files: RunFiles[Place]) -> tuple[Series, ...]:
    """Return the published series.

    Raises
    ------
    WorkFailed
        They do not agree with their checksum.
    """
    try:
        found = read_group(files.logged)
        is_whole = found["crc32c"] == int(crc32c(json_bytes(found["series"])))
        series = tuple((str(name), int(replica)) for name, replica in found["series"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        is_whole = False
    if not is_whole:
        must, fix = "must agree with its checksum", "Run `streamscalar verify` to see what is left"
        raise WorkFailed(str(files.logged), must, fix=fix, kind=Kind.STORE_CORRUPT)
    return series


def by_step(entries: Entries, name: str, n_replicas: int) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Return one metric in the order of its steps.

    Parameters
    ----------
    entries
        All entries of the run.
    name
        Name of the metric.
    n_replicas
        Number of replicas R.

    Returns
    -------
    steps
        Shape (n,), int64, ascending: each step for which a value was given.
    values
        Shape (n, R), `MISSING` where a replica has none. Of several values for one step, the last one.
    n_moved
        Number of values that were given after one of the same or a later step.
    """
    own = [(index, replica) for index, (other, replica) in enumerate(entries.series) if other == name]
    parts = [(np.flatnonzero(entries.which == index), replica) for index, replica in own]
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(entries.steps[rows] for rows, _ in parts)]))
    values = np.full((len(steps), n_replicas), MISSING)
    n_moved = 0
    for rows, replica in parts:
        given = entries.steps[rows]
        n_moved += int((given[1:] <= np.maximum.accumulate(given)[:-1]).sum())
        # Of equal indices the last assignment counts.
        values[np.searchsorted(steps, given), replica] = entries.values[rows]
    return steps, values, n_moved


def aligned(
    row_steps: NDArray[np.int64], after: int, steps: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the newest value of a step since the row before, for each row.

    Parameters
    ----------
    row_steps
        Step of each row, shape (N,), ascending.
    after
        Steps up to this one belong to no row, such as those that a child run has in common with its parent.
    steps, values
        From `by_step`.

    Returns
    -------
    ndarray
        Shape (N, R), `MISSING` where there is none.
    """
    found = np.full((len(row_steps), values.shape[1]), MISSING)
    before = np.concatenate([[after], row_steps[:-1]])
    for replica in range(values.shape[1]):
        given = ~is_missing(values[:, replica])
        own_steps, own_values = steps[given], values[given, replica]
        newest = np.searchsorted(own_steps, row_steps, "right") - 1
        there = newest >= 0
        there[there] = own_steps[newest[there]] > before[there]
        found[there, replica] = own_values[newest[there]]
    return found


def unknown_metric(name: str, known: Sequence[str]) -> BadCall:
    """Return the error for a name that is none of the known ones."""
    more = f" and {len(known) - 20} others" if len(known) > 20 else ""
    return BadCall("metric", f"must be one of {', '.join(known[:20])}{more}", repr(name), kind=Kind.DATA)
