"""Slots of shared memory that pass rows from the training process to its worker; imports no torch."""

import contextlib
import mmap
import os
import tempfile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streamscalar.tracking.channel import values
from streamscalar.tracking.channel.values import ValueRing, value_bytes
from streamscalar.types import Layout

RING_BYTES = 32 * 2**20
"""Memory for rows in transit: enough for the pauses in which a worker at the lowest priority does not run. A row
that finds no free slot is dropped."""

MOST_SLOTS = 128
"""Maximum number of slots: two orders for each fit into the socket buffer, so sending never blocks the training."""

N_SLOTS = 4
N_LARGE_SLOTS = 2
LARGE_ROW_BYTES = 256 * 2**20
"""Size of a row from which a ring has `N_LARGE_SLOTS` slots; below, it has at least `N_SLOTS`."""

MOST_ROW_METRICS = 8
"""Maximum number of metrics that rows carry. Each has an array of its own, with a file and some waits for the disk in
every segment: 1,000 rows took 2 s with one metric, and 29 s with 32. Readers align the others to the rows."""

LEAST_VALUES = 2**9
"""Values in transit where memory, or the size of a file, is limited to less than `values.N_VALUES` take."""

_HEADER_BYTES = 4096


def n_slots_for(layout: Layout) -> int:
    """Return the number of slots of a ring for rows of this layout."""
    n_bytes = _row_bytes(layout)
    return N_LARGE_SLOTS if n_bytes >= LARGE_ROW_BYTES else max(N_SLOTS, min(MOST_SLOTS, RING_BYTES // n_bytes))


class Ring:
    """Slots for rows, a ring of values, and counters of the worker, in anonymous memory that both processes share.

    The slots survive the death of either process. Each counter has one writer and is aligned, so it is never read half
    written. A slot is filled before its order is sent, and filled again only after `DONE` counts that order.

    Parameters
    ----------
    file
        Descriptor of the memory.
    layout
        Shape and type of a row.
    n_slots
        Number of slots.
    n_values
        Number of values in transit.

    Attributes
    ----------
    file : int
        The descriptor, which the worker inherits.
    rows : list of ndarray
        Slots, shape (R, P) each.
    metrics : list of ndarray
        Metrics of the row in each slot, shape (`MOST_ROW_METRICS`, R), float64.
    values : ValueRing
        Values of metrics, apart from rows.
    worker_s : ndarray
        Shape (2,): CPU time of the workers so far in seconds, see `ROWS` and `OTHER`.
    counts : ndarray
        Shape (4,), int64, see `DONE` and the others.
    """

    ROWS, OTHER = range(2)
    """CPU time of storing and embedding rows; of everything else."""

    DONE, STORED, LOST, SAID = range(4)
    """Orders carried out; rows among them; rows that could not be stored; replies sent."""

    def __init__(self, file: int, layout: Layout, n_slots: int, n_values: int = values.N_VALUES) -> None:
        self.file = file
        start = _HEADER_BYTES + _aligned(value_bytes(n_values))
        memory = mmap.mmap(file, start + n_slots * _slot_bytes(layout))
        self.values = ValueRing(memory, _HEADER_BYTES, n_values)
        self.worker_s: NDArray[np.float64] = np.frombuffer(memory, np.float64, 2)
        self.counts: NDArray[np.int64] = np.frombuffer(memory, np.int64, 4, 16)
        shape = (layout.n_replicas, layout.n_parameters)
        self.rows: list[NDArray[Any]] = []
        self.metrics: list[NDArray[np.float64]] = []
        for slot in range(n_slots):
            offset = start + slot * _slot_bytes(layout)
            row = np.frombuffer(memory, layout.dtype, shape[0] * shape[1], offset)
            self.rows.append(row.reshape(shape))
            n = MOST_ROW_METRICS * shape[0]
            metrics = np.frombuffer(memory, np.float64, n, offset + _row_bytes(layout))
            self.metrics.append(metrics.reshape(MOST_ROW_METRICS, shape[0]))

    @classmethod
    def create(cls, layout: Layout) -> Self:
        """Create a ring and reserve its memory, so that a lack of memory is reported now.

        Raises
        ------
        OSError
            There is not enough memory.
        """
        n_slots = n_slots_for(layout)
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("streamscalar-ring")
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        try:
            try:
                n_values = _reserve(file, layout, n_slots, values.N_VALUES)
            except OSError:
                n_values = _reserve(file, layout, n_slots, LEAST_VALUES)
            ring = cls(file, layout, n_slots, n_values)
        except BaseException:
            os.close(file)
            raise
        for row in ring.rows:
            # The first write to a page costs as much as copying it, so it is done before the training.
            row[...] = 0
        return ring

    def close(self) -> None:
        """Close the descriptor; the memory is freed when no process maps it any more."""
        with contextlib.suppress(OSError):
            os.close(self.file)


def _row_bytes(layout: Layout) -> int:
    return _aligned(layout.n_replicas * layout.n_parameters * np.dtype(layout.dtype).itemsize)


def _slot_bytes(layout: Layout) -> int:
    return _row_bytes(layout) + _aligned(MOST_ROW_METRICS * layout.n_replicas * 8)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // 64) * 64


def _reserve(file: int, layout: Layout, n_slots: int, n_values: int) -> int:
    """Reserve the memory of a ring; return `n_values`."""
    size = _HEADER_BYTES + _aligned(value_bytes(n_values)) + n_slots * _slot_bytes(layout)
    os.ftruncate(file, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    return n_values
