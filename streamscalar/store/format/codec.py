"""Lossless integer deltas of floating-point weights.

Float subtraction is not invertible: `a + (b - a)` sometimes differs from `b` in its last bit. So every float is
mapped to the integer of the same rank (negative floats count downwards), integers are subtracted modulo 2^n, and
the signed differences are folded to unsigned ones (zigzag: 0, -1, 1, -2 become 0, 1, 2, 3), so that small moves
leave the high bits zero. Each step is a bijection on bit patterns, NaN payloads, infinities and -0 included.

Order-preserving integers of IEEE 754 numbers are common in radix sorting; zigzag is the signed-integer encoding of
Protocol Buffers.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

UNSIGNED: Mapping[str, np.dtype[Any]] = {"float32": np.dtype("<u4"), "float64": np.dtype("<u8")}
"""Type of the integers for each float type."""

Integers: TypeAlias = NDArray[np.unsignedinteger[Any]]
Floats: TypeAlias = NDArray[np.floating[Any]]


def ordered(weights: Floats) -> Integers:
    """Return the order-preserving integers of `weights`, two's complement in an unsigned type of the same size."""
    bits = weights.dtype.itemsize * 8
    signed = np.ascontiguousarray(weights).view(f"<i{bits // 8}")
    mask = signed >> (bits - 1)
    mask &= np.iinfo(signed.dtype).max
    mask ^= signed
    unsigned: Integers = mask.view(UNSIGNED[f"float{bits}"])
    return unsigned


def from_ordered(integers: Integers, dtype: DTypeLike) -> Floats:
    """Return the floats of `ordered` integers; the map is its own inverse."""
    floats = integers.view(np.dtype(dtype))
    return ordered(floats).view(np.dtype(dtype))


def encode(weights: Floats, previous: Floats | None) -> Integers:
    """Return the zigzag integer deltas of consecutive rows.

    Parameters
    ----------
    weights
        Rows, shape (S, R, P), float32 or float64.
    previous
        The row before the first, shape (R, P); `None` at the start of a run, whose first deltas are zeros.

    Returns
    -------
    Integers
        Shape (S, R, P), uint32 or uint64.
    """
    bits = weights.dtype.itemsize * 8
    deltas: Integers = np.empty(weights.shape, UNSIGNED[f"float{bits}"])
    before = None if previous is None else ordered(previous)
    # Row by row, so that a row stays in the processor's cache and the block is not copied.
    for row, out in zip(weights, deltas, strict=True):
        now = ordered(row)
        np.subtract(now, now if before is None else before, out=out)
        sign = out >> (bits - 1)
        np.negative(sign, out=sign)
        out <<= 1
        out ^= sign
        before = now
    return deltas


def decode(deltas: Integers, start: Integers, *, first_is_start: bool) -> Integers:
    """Return the ordered integers of consecutive rows from their deltas.

    Parameters
    ----------
    deltas
        Zigzag deltas, shape (S, R, P).
    start
        Ordered integers, shape (R, P): of the first row itself, or of the row before it.
    first_is_start
        Whether `start` is the first row (a key frame) and its delta is to be ignored.

    Returns
    -------
    Integers
        Shape (S, R, P); turn them into floats with `from_ordered`.
    """
    rows: Integers = np.bitwise_and(deltas, 1)
    np.negative(rows, out=rows)
    rows ^= deltas >> 1
    if first_is_start:
        rows[0] = start
    else:
        rows[0] += start
    for k in range(1, len(rows)):
        rows[k] += rows[k - 1]
    return rows
