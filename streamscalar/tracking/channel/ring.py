"""Slots of shared memory through which rows go from the training to its worker; no torch here."""

import contextlib
import mmap
import os
import tempfile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streamscalar.types import Layout

RING_BYTES = 32 * 2**20
"""Memory for rows on their way: enough to bridge the pauses in which a worker at the lowest priority does not run. A
row that finds no slot is dropped."""

MOST_SLOTS = 128
"""Slots at most: so many orders fit into the line, which therefore never makes the training wait."""

N_SLOTS = 4
N_LARGE_SLOTS = 2
LARGE_ROW_BYTES = 256 * 2**20
"""Rows have `N_SLOTS` slots at least, and from this size on `N_LARGE_SLOTS`."""

_HEADER_BYTES = 4096


def n_slots_for(layout: Layout) -> int:
    """Return how many slots a ring for rows of this layout has."""
    n_bytes = _row_bytes(layout)
    return N_LARGE_SLOTS if n_bytes >= LARGE_ROW_BYTES else max(N_SLOTS, min(MOST_SLOTS, RING_BYTES // n_bytes))


class Ring:
    """Slots for rows, and a few numbers of the worker's, in memory that both processes see and that has no name.

    What is in a slot survives the death of either process. Each number has one writer and is aligned, so it is never
    seen half written. A slot is filled before the order that tells of it is sent, and filled again only when `DONE`
    says that this order was carried out.

    Parameters
    ----------
    file
        Descriptor of the memory.
    layout
        Shape and type of a row.
    n_slots
        Number of slots.

    Attributes
    ----------
    file : int
        The descriptor, to be handed to the worker.
    rows : list of ndarray
        Slots, shape (R, P) each.
    worker_s : ndarray
        Shape (2,): CPU time of the workers so far, see `ROWS` and `OTHER`.
    counts : ndarray
        Shape (4,), int64, see `DONE` and the others.
    """

    ROWS, OTHER = range(2)
    """CPU time for storing and embedding rows; for beginning runs and all else."""

    DONE, STORED, LOST, SAID = range(4)
    """Orders carried out; rows among them; those of the rows that could not be stored; replies sent."""

    def __init__(self, file: int, layout: Layout, n_slots: int) -> None:
        self.file = file
        size = _HEADER_BYTES + n_slots * _row_bytes(layout)
        memory = mmap.mmap(file, size)
        self.worker_s: NDArray[np.float64] = np.frombuffer(memory, np.float64, 2)
        self.counts: NDArray[np.int64] = np.frombuffer(memory, np.int64, 4, 16)
        shape = (layout.n_replicas, layout.n_parameters)
        count = shape[0] * shape[1]
        self.rows: list[NDArray[Any]] = [
            np.frombuffer(memory, layout.dtype, count, _HEADER_BYTES + slot * _row_bytes(layout)).reshape(shape)
            for slot in range(n_slots)
        ]

    @classmethod
    def create(cls, layout: Layout) -> Self:
        """Make a ring, its memory reserved: a machine without room says so now and not while it is written.

        Raises
        ------
        OSError
            There is no room.
        """
        n_slots = n_slots_for(layout)
        size = _HEADER_BYTES + n_slots * _row_bytes(layout)
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("streamscalar-ring")
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        try:
            os.ftruncate(file, size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, size)
            ring = cls(file, layout, n_slots)
        except BaseException:
            os.close(file)
            raise
        for row in ring.rows:
            # The first touch of a page costs as much as copying it; none of them falls into the training.
            row[...] = 0
        return ring

    def close(self) -> None:
        """Close the descriptor; the memory goes when nobody looks at it any more."""
        with contextlib.suppress(OSError):
            os.close(self.file)


def _row_bytes(layout: Layout) -> int:
    n_bytes = layout.n_replicas * layout.n_parameters * np.dtype(layout.dtype).itemsize
    return -(-n_bytes // 64) * 64
