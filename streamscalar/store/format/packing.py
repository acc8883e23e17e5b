"""Named arrays as bytes, for state that is written and read as a whole.

Rejected: pickle, which runs code when it is read; npz, whose archive has times in it, so that equal arrays give
different bytes.
"""

import json
import struct
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.store.media.files import json_bytes

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]

_LENGTH = struct.Struct("<I")


def pack(arrays: Arrays) -> bytes:
    """Return a header (names, types, shapes) and the little-endian bytes of each array, in the order of the names.

    Raises
    ------
    BadCall
        An array holds objects or strings.
    """
    header: list[tuple[str, str, tuple[int, ...]]] = []
    parts: list[bytes] = []
    for name in sorted(arrays):
        array = little_endian(arrays[name], name)
        header.append((name, array.dtype.str, array.shape))
        parts.append(array.tobytes())
    head = json_bytes(header)
    return b"".join([_LENGTH.pack(len(head)), head, *parts])


def unpack(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Inverse of `pack`; the arrays own their memory."""
    start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    arrays = {}
    for name, dtype, shape in json.loads(data[_LENGTH.size : start]):
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(data, np.dtype(dtype), count, start)
        arrays[name] = array.reshape(shape).copy()
        start += array.nbytes
    return arrays


def little_endian(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """Return a numeric array in little-endian byte order, without a copy where it already is.

    Raises
    ------
    BadCall
        The array holds objects or strings.
    """
    if array.dtype.kind not in "biufc":
        raise BadCall(f"array {name!r}", "must hold numbers", got=str(array.dtype), kind=Kind.DATA)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
