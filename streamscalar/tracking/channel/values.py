"""Values of metrics on their way from the training process to its worker, in shared memory; imports no torch."""

import mmap
import struct
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_VALUES = 2**20
"""Values in transit: a second or two of a training that logs as fast as it can. One that finds no room is dropped."""

_ENTRY = struct.Struct("<qIId")
_ENTRY_BYTES = _ENTRY.size
_pack_into = _ENTRY.pack_into
_ENTRY_TYPE = np.dtype([("step", "<i8"), ("which", "<u4"), ("run", "<u4"), ("value", "<f8")])
_NAME = struct.Struct("<II")
_NAME_BYTES_PER_VALUE = 2
_COUNTER_BYTES = 128


def value_bytes(n_values: int) -> int:
    """Return the bytes of memory for this many values and the names of their series."""
    return _COUNTER_BYTES + n_values * (_ENTRY.size + _NAME_BYTES_PER_VALUE)


class ValueRing:
    """A ring of values, and a list of the series that they belong to, which only grows.

    The training process adds values, and the worker takes them. A value is written before it is counted, and its room
    is used again only after the worker has counted it as taken. So each value survives the death of either process,
    and a new worker begins with the first one that was not taken. Each counter has one writer.

    Parameters
    ----------
    memory
        Shared memory of a `Ring`.
    start
        Offset of the values in it.
    n_values
        Number of values that fit.

    Attributes
    ----------
    run : int
        Number of the run that added values belong to, from 1; each child run has the next one.
    n_dropped : int
        Number of values that found no room.
    counts : memoryview
        See `SENT` and the others.
    """

    SENT, NAMED = 0, 1
    """Values added, and bytes of the list of series; written by the training process."""

    TAKEN, LOST, RUN, BASE = 8, 9, 10, 11
    """Values taken; those of them that could not be stored; the run that the worker writes to, 0 before the first;
    and the number of the value that has index 0 in that run, negative where the run had values before. Written by the
    worker."""

    def __init__(self, memory: mmap.mmap, start: int, n_values: int) -> None:
        self._memory = memory
        self._start = start + _COUNTER_BYTES
        self.n_values = n_values
        self.counts = memoryview(memory)[start : start + _COUNTER_BYTES].cast("q")
        self._entries: NDArray[Any] = np.frombuffer(memory, _ENTRY_TYPE, n_values, self._start)
        self._names_start = self._start + n_values * _ENTRY.size
        self._names_size = n_values * _NAME_BYTES_PER_VALUE
        self._known: defaultdict[int, dict[str, int]] = defaultdict(dict)
        self._n_series = 0
        self._series: list[tuple[str, int]] = []
        self._n_read = 0
        self._n_sent = self._n_woken = self._n_before = 0
        self._limit = n_values
        self.run = 1
        self.n_dropped = 0

    # In the training process.

    def put(self, step: int, name: str, replica: int, value: float) -> bool:
        """Add a value without waiting; return whether there was room for it."""
        which = self._known[replica].get(name, -1)
        if which < 0:
            which = self._add_series(name, replica)
        n = self._n_sent
        if which < 0 or (n == self._limit and not self._has_room()):
            self.n_dropped += 1
            return False
        _pack_into(self._memory, self._start + n % self.n_values * _ENTRY_BYTES, step, which, self.run, value)
        self._n_sent = self.counts[ValueRing.SENT] = n + 1
        return True

    def needs_wake(self) -> bool:
        """Return whether so many values were added since the last time that the worker should take them now."""
        if self._n_sent - self._n_woken < self.n_values // 4:
            return False
        self._n_woken = self._n_sent
        return True

    def next_run(self) -> None:
        """Let the values that follow belong to the next run."""
        self.run += 1
        self._n_before = self._n_sent

    @property
    def has_values_of_run(self) -> bool:
        """Whether values were added that belong to the current run."""
        return self._n_sent > self._n_before

    @property
    def n_sent(self) -> int:
        """Number of values added."""
        return self._n_sent

    def _has_room(self) -> bool:
        self._limit = self.counts[ValueRing.TAKEN] + self.n_values
        return self._n_sent < self._limit

    def _add_series(self, name: str, replica: int) -> int:
        """Return the index of a new series; -1 where the list is full."""
        data = name.encode("utf-8", "surrogatepass")
        end = self.counts[ValueRing.NAMED]
        if end + _NAME.size + len(data) > self._names_size:
            return -1
        start = self._names_start + end
        self._memory[start : start + _NAME.size + len(data)] = _NAME.pack(len(data), replica) + data
        self.counts[ValueRing.NAMED] = end + _NAME.size + len(data)
        self._n_series += 1
        return self._known[replica].setdefault(name, self._n_series - 1)

    # In the worker.

    @property
    def n_waiting(self) -> int:
        """Number of values that are not taken."""
        return self.counts[ValueRing.SENT] - self.counts[ValueRing.TAKEN]

    def begin(self, run: int, n_before: int) -> None:
        """Let the values of a run follow, which has `n_before` values already."""
        self.counts[ValueRing.BASE] = self.counts[ValueRing.TAKEN] - n_before
        self.counts[ValueRing.RUN] = run

    def waiting(self) -> tuple[int, NDArray[Any]]:
        """Return the values of the run that wait, and the index in the run of the first of them.

        Returns
        -------
        first
            Index in the run.
        entries
            Structured array with fields `step`, `which` (index in `series`) and `value`.
        """
        taken = self.counts[ValueRing.TAKEN]
        n = self.n_waiting
        begin = taken % self.n_values
        entries = np.concatenate([self._entries[begin : begin + n], self._entries[: max(0, begin + n - self.n_values)]])
        later = np.flatnonzero(entries["run"] != self.counts[ValueRing.RUN])
        return taken - self.counts[ValueRing.BASE], entries[: later[0]] if len(later) else entries

    def series(self) -> tuple[tuple[str, int], ...]:
        """Return name and replica of each series so far; read after `waiting`."""
        end = self.counts[ValueRing.NAMED]
        while self._n_read < end:
            start = self._names_start + self._n_read
            n_bytes, replica = _NAME.unpack_from(self._memory, start)
            start += _NAME.size
            self._series.append((self._memory[start : start + n_bytes].decode("utf-8", "surrogatepass"), replica))
            self._n_read += _NAME.size + n_bytes
        return tuple(self._series)

    def take(self, n: int, *, is_lost: bool = False) -> None:
        """Count the first `n` values that wait as stored, or as lost."""
        if is_lost:
            self.counts[ValueRing.LOST] += n
            self.counts[ValueRing.BASE] += n
        self.counts[ValueRing.TAKEN] += n
