"""Samples of long series: points that never move while the series grows."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.missing import is_missing
from streamscalar.types import json_float

Numbers = list[Any]
"""Floats in the form of the documents."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The end of an answer.

    Attributes
    ----------
    basis
        Basis of the coordinates; of a metric the number of values that changed earlier points; `-` for other series.
    stride
        Rows from one point to the next.
    row
        The last row that is a multiple of `stride`; the next answer replaces the points from there on.
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
            The text is not a cursor.
        """
        basis, stride, row = text.split(".")
        cursor = cls(basis, int(stride), int(row))
        if cursor.stride < 1 or cursor.row < 0:
            raise ValueError(text)
        return cursor


@dataclass(frozen=True, slots=True)
class Sample:
    """Chosen rows, rising; `cursor` continues them, `is_reset` means that the given cursor was outdated."""

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


class Window:
    """The requested part of a series.

    Parameters
    ----------
    first_step, last_step
        Both inclusive; `None` for all.
    max_points
        Maximum number of points.
    cursor
        Cursor of the previous answer.

    Raises
    ------
    BadCall
        The cursor is invalid.
    """

    def __init__(self, first_step: int | None, last_step: int | None, max_points: int, cursor: str | None) -> None:
        self._first_step = first_step
        self._last_step = last_step
        self.max_points = max_points
        try:
            self.cursor = None if cursor is None else Cursor.parse(cursor)
        except ValueError:
            raise BadCall("cursor", "must be one from an earlier answer", str(cursor)[:80], kind=Kind.CONFIG) from None

    def rows(self, steps: NDArray[np.int64]) -> tuple[int, int]:
        """Return the range of rows, first and stop."""
        first = 0 if self._first_step is None else int(np.searchsorted(steps, self._first_step, "left"))
        stop = len(steps) if self._last_step is None else int(np.searchsorted(steps, self._last_step, "right"))
        return first, max(first, stop)


def numbers(values: NDArray[np.floating]) -> Numbers:
    """Return floats in the form of the documents, null for what was not reported; fast where all are finite."""
    found: Numbers = values.tolist()
    if np.isfinite(values).all():
        return found
    missing = is_missing(values.astype(np.float64, copy=False)).tolist()
    return [None if is_absent else json_float(value) for value, is_absent in zip(found, missing, strict=True)]
