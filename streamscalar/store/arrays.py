"""Zarr arrays that grow along their first axis and never show a row that is not there.

The published length decides how many rows there are; the shape in an array's `zarr.json` only follows it. A writer
or reader opens an array with the shape it needs, in memory, and whole chunk files are put in place before the shape
on disk grows, and that before the length (see `streamscalar.store.publication`). So a plain Zarr reader may lag by
one segment but never meets the zeros that stand for a chunk not yet written.

Rejected: `zarr.Array.append` (grows the shape before it writes: after SIGKILL the newest row was silent zeros);
shapes of the planned size, with readers that trust the length alone (every other Zarr tool would show zeros).

Small series (bytes and a checksum) are written and read here by hand, in Zarr's format: a call into Zarr costs 1 to 2
ms, and a run has a dozen of them per segment. All else goes through Zarr.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec
from zarr.storage import LocalStore, MemoryStore, StorePath

from streamscalar.errors import Kind, WorkFailed
from streamscalar.store.files import fsync_path, json_bytes, write_durable

Codec = Literal["zstd", "lz4"]

_MAX_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class StoredArray:
    """One Zarr array in a directory of its own.

    Attributes
    ----------
    path
        Directory of the array.
    document
        Its `zarr.json`; only the shape in it changes over time.
    """

    path: Path
    document: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> "StoredArray":
        """Read the metadata of an array from disk."""
        return cls(path, json.loads((path / "zarr.json").read_bytes()))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return np.dtype(str(self.document["data_type"]))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.document["shape"][1:])

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of what one file holds: a shard where the array is sharded, else a chunk."""
        return tuple(self.document["chunk_grid"]["configuration"]["chunk_shape"])

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of the smallest piece that can be decoded alone."""
        outer = self.document["codecs"][0]
        if outer["name"] == "sharding_indexed":
            return tuple(outer["configuration"]["chunk_shape"])
        return self.grid

    def put(self, scratch: Path, first: int, values: NDArray[Any]) -> list[str]:
        """Encode whole chunks into files under `scratch`, durably; return their names.

        `first` is a multiple of the rows per file, and so is the number of rows, but for the last file of an array.
        """
        names = list(self.files(first, first + len(values)))
        if self._is_series:
            self._put_series(scratch, names, values)
        else:
            self._opened(scratch, first + len(values))[first:] = values
        for name in names:
            fsync_path(scratch / name)
        return names

    def write_shape(self, n_rows: int) -> None:
        """Let plain Zarr readers see `n_rows` rows."""
        write_durable(self.path / "zarr.json", json_bytes(self._with_shape(n_rows)))

    def read(self, first: int, stop: int, inner: tuple[slice, ...] = ()) -> NDArray[Any]:
        """Return rows `first:stop`, and of their other axes what `inner` selects.

        Raises
        ------
        WorkFailed
            A chunk is missing, or does not agree with its checksum.
        """
        if stop <= first or 0 in self.row_shape:
            empty = np.empty((max(0, stop - first), *self.row_shape), self.dtype)
            return empty[(slice(None), *inner)]
        try:
            if self._is_series:
                return self._read_series(first, stop)[(slice(None), *inner)]
            values = self._opened(self.path, stop)[(slice(first, stop), *inner)]
        except (ValueError, RuntimeError, IndexError) as error:
            raise self._corrupt(first, stop, str(error)) from error
        # Zarr answers a missing file with zeros. Looked for afterwards, so that a file removed meanwhile is noticed.
        for name in self.files(first, stop):
            if not (self.path / name).exists():
                raise self._corrupt(first, stop, f"{name} is missing")
        return np.asarray(values)

    def files(self, first: int, stop: int) -> Iterator[str]:
        """Yield the names of the chunk files that hold rows `first:stop`."""
        grid = self.grid
        inner = [range(-(-size // step)) for size, step in zip(self.row_shape, grid[1:], strict=True)]
        for index in product(range(first // grid[0], -(-stop // grid[0])), *inner):
            yield ".".join(["c", *map(str, index)])

    @property
    def _is_series(self) -> bool:
        """Whether a chunk file is whole rows as plain bytes and a checksum."""
        names = [codec["name"] for codec in self.document["codecs"]]
        return names == ["bytes", "crc32c"] and self.grid[1:] == tuple(max(1, size) for size in self.row_shape)

    def _put_series(self, scratch: Path, names: list[str], values: NDArray[Any]) -> None:
        n_rows = self.grid[0]
        for index, name in enumerate(names):
            chunk = np.zeros(self.grid, self.dtype.newbyteorder("<"))
            part = values[index * n_rows : (index + 1) * n_rows]
            chunk[: len(part), ...] = part.reshape(len(part), *self.row_shape)
            data = chunk.tobytes()
            (scratch / name).write_bytes(data + crc32c(data).to_bytes(4, "little"))

    def _read_series(self, first: int, stop: int) -> NDArray[Any]:
        chunks = []
        for name in self.files(first, stop):
            path = self.path / name
            if not path.exists():
                raise self._corrupt(first, stop, f"{name} is missing")
            data = path.read_bytes()
            if crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise self._corrupt(first, stop, f"{name} does not agree with its checksum")
            rows = np.frombuffer(data[:-4], self.dtype.newbyteorder("<")).reshape(-1, *self.grid[1:])
            chunks.append(rows[(slice(None), *map(slice, self.row_shape))])
        start = first // self.grid[0] * self.grid[0]
        values = np.concatenate(chunks)[first - start : stop - start]
        return values.astype(self.dtype)

    def _with_shape(self, n_rows: int) -> dict[str, Any]:
        return {**self.document, "shape": [n_rows, *self.row_shape]}

    def _opened(self, root: Path, n_rows: int) -> zarr.Array[Any]:
        metadata: Any = self._with_shape(n_rows)
        # Without write_empty_chunks a segment in which nothing moved would have no file, like a lost one.
        config: Any = {"write_empty_chunks": True}
        return zarr.Array(zarr.AsyncArray(metadata, StorePath(LocalStore(root)), config))

    def _corrupt(self, first: int, stop: int, got: str) -> WorkFailed:
        return WorkFailed(
            str(self.path),
            f"rows {first} to {stop - 1} cannot be read",
            got=got,
            fix="Run `streamscalar verify` to see what is left",
            kind=Kind.STORE_CORRUPT,
        )


@lru_cache(maxsize=256)
def trajectory_document(shape: tuple[int, int], dtype: str, n_rows: int, chunk: int, codec: Codec) -> dict[str, Any]:
    """Return the metadata of an array (row, replica, parameter): one file per `n_rows` rows.

    Within a file, `chunk` parameters of one replica stand together with time varying fastest, so that neighbours are
    alike and a range of parameters can be read alone.
    """
    n_replicas, n_parameters = shape
    width = -(-n_parameters // chunk) * chunk
    size = np.dtype(dtype).itemsize
    return _document(
        shape=(0, n_replicas, n_parameters),
        dtype=dtype,
        shards=(n_rows, n_replicas, width),
        chunks=(n_rows, 1, chunk),
        filters=[TransposeCodec(order=(1, 2, 0))],
        compressors=[BloscCodec(cname=codec, clevel=1, shuffle="bitshuffle", typesize=size), Crc32cCodec()],
    )


@lru_cache(maxsize=256)
def series_document(row_shape: tuple[int, ...], dtype: str, n_rows: int) -> dict[str, Any]:
    """Return the metadata of an array of small rows, `n_rows` of them to a file, uncompressed with a checksum."""
    chunks = (n_rows, *(max(1, size) for size in row_shape))
    return _document(
        shape=(0, *row_shape), dtype=dtype, shards=None, chunks=chunks, filters=[], compressors=[Crc32cCodec()]
    )


@lru_cache(maxsize=256)
def block_document(row_shape: tuple[int, ...], dtype: str, codec: Codec) -> dict[str, Any]:
    """Return the metadata of an array of large rows, compressed, each row in files of at most 64 MiB."""
    chunk = [1, *(max(1, size) for size in row_shape)]
    itemsize = np.dtype(dtype).itemsize
    while np.prod(chunk, dtype=np.int64) * itemsize > _MAX_CHUNK_BYTES:
        longest = int(np.argmax(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    compressors = [BloscCodec(cname=codec, clevel=1, shuffle="bitshuffle", typesize=itemsize), Crc32cCodec()]
    return _document(
        shape=(0, *row_shape),
        dtype=dtype,
        shards=None,
        chunks=tuple(chunk),
        filters=[],
        compressors=compressors,
    )


def _document(
    *,
    shape: tuple[int, ...],
    dtype: str,
    shards: tuple[int, ...] | None,
    chunks: tuple[int, ...],
    filters: list[TransposeCodec],
    compressors: list[Any],
) -> dict[str, Any]:
    memory: Any = {}
    zarr.create_array(
        MemoryStore(memory),
        shape=shape,
        dtype=dtype,
        shards=shards,
        chunks=chunks,
        filters=filters,
        serializer=BytesCodec(),
        compressors=compressors,
        fill_value=0,
        # Every chunk file beside the metadata: one directory to wait for, not one per segment.
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    document: dict[str, Any] = json.loads(memory["zarr.json"].to_bytes())
    return document
