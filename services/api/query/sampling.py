"""Which rows of a long series are shown: points that never move as the series grows."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where an answer ended.

    Attributes
    ----------
    basis
        Basis of the coordinates, `-` for other series.
    stride
        Rows from one point to the next.
    row
        The last row that is a multiple of `stride`; the next answer repeats it, and replaces all from there on.
    """

    basis: str
    stride: int
    row: int

    def __str__(self) -> str:
        return f"{self.basis}.{self.stride}.{self.row}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `str`.

        Raises
        ------
        ValueError
            The text is no cursor.
        """
        basis, stride, row = text.split(".")
        cursor = cls(basis, int(stride), int(row))
        if cursor.stride < 1 or cursor.row < 0:
            raise ValueError(text)
        return cursor


@dataclass(frozen=True, slots=True)
class Sample:
    """Chosen rows, rising; `cursor` continues them, `is_reset` says that a given cursor did not hold any more."""

    rows: NDArray[np.int64]
    cursor: Cursor
    is_reset: bool


def sample(first: int, stop: int, max_points: int, basis: str = "-", cursor: Cursor | None = None) -> Sample:
    """Choose at most `max_points` + 1 of the rows `first:stop`: multiples of a power of two, and the newest.

    Examples
    --------
    >>> sample(0, 10, 5).rows.tolist()
    [0, 2, 4, 6, 8, 9]
    >>> sample(0, 12, 5).rows.tolist()
    [0, 4, 8, 11]
    """
    stride = 1
    while -(-(stop - first) // stride) > max_points:
        stride *= 2
    is_continued = cursor is not None and (cursor.basis, cursor.stride) == (basis, stride) and cursor.row < stop
    begin = cursor.row if cursor is not None and is_continued else first
    rows = np.arange(-(-begin // stride) * stride, stop, stride, dtype=np.int64)
    last = int(rows[-1]) if len(rows) else begin // stride * stride
    if stop > begin and (not len(rows) or last != stop - 1):
        rows = np.append(rows, stop - 1)
    return Sample(rows, Cursor(basis, stride, last), cursor is not None and not is_continued)
