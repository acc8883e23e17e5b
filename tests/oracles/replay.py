"""The codec of the store, number by number."""

import struct
from typing import Any

import numpy as np

_CODES = {"float32": ("<f", "<I", 32), "float64": ("<d", "<Q", 64)}


def rank(value: Any, dtype: str) -> int:
    """Return the bits of one float as an unsigned integer in which order is preserved (two's complement)."""
    _, integer, bits = _CODES[dtype]
    pattern = int(struct.unpack(integer, np.asarray(value, np.dtype(dtype).newbyteorder("<")).tobytes())[0])
    negative = pattern >> (bits - 1)
    return pattern ^ ((1 << (bits - 1)) - 1) if negative else pattern


def delta(now: Any, before: Any, dtype: str) -> int:
    """Return the zigzag delta of two floats: twice the signed difference, or minus twice less one."""
    bits = _CODES[dtype][2]
    difference = (rank(now, dtype) - rank(before, dtype)) % (1 << bits)
    signed = difference - (1 << bits) if difference >> (bits - 1) else difference
    return 2 * signed if signed >= 0 else -2 * signed - 1


def replay(start: Any, deltas: list[int], dtype: str) -> list[bytes]:
    """Return the bytes of the floats that follow `start`, one per delta."""
    _, integer, bits = _CODES[dtype]
    value, result = rank(start, dtype), []
    for folded in deltas:
        signed = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        value = (value + signed) % (1 << bits)
        negative = value >> (bits - 1)
        result.append(struct.pack(integer, value ^ ((1 << (bits - 1)) - 1) if negative else value))
    return result
