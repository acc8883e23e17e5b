"""Zarr arrays that grow along their first axis and never show a row that is not written yet.

The published length determines the number of rows; the shape in an array's `zarr.json` follows it. A writer
or reader opens an array with the shape it needs, in memory, and whole chunk files are put in place before the shape
on disk grows, and that before the length (see `streamscalar.store.media.publication`). So a plain Zarr reader may lag
by one segment but never reads the zeros that Zarr returns for a missing chunk.

Rejected: `zarr.Array.append` (grows the shape before it writes: after SIGKILL the newest row was silent zeros);
shapes of the planned size, with readers that trust the length alone (every other Zarr tool would show zeros).

Small series (bytes and a checksum) are encoded and decoded here, in Zarr's format: a call of Zarr takes 1 to 2 ms, and
a run has a dozen of them per segment. All other arrays go through Zarr.

In a bucket every array is sharded, small series with one chunk per shard. No reader interprets the bytes between the
chunks of a shard and its index, so each writer puts its mark there: see `streamscalar.store.media.bucket_fence`.
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
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
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, StorePath

from streamscalar.errors import Kind, WorkFailed
from streamscalar.store.media.medium import Medium
from streamscalar.store.media.objects import Place

Codec = Literal["zstd", "lz4"]

_MAX_CHUNK_BYTES = 64 * 2**20
_ENTRY = struct.Struct("<QQ")
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class StoredArray:
    """One Zarr array.

    Attributes
    ----------
    path
        Folder of the array, or its prefix in a bucket.
    document
        Its `zarr.json`; only the shape in it changes over time.
    medium
        The medium of `path`.
    """

    path: Place
    document: dict[str, Any]
    medium: Medium[Any]

    @classmethod
    def load(cls, path: Place, medium: Medium[Any]) -> "StoredArray":
        """Read the metadata of an array."""
        return cls(path, json.loads((path / "zarr.json").read_bytes()), medium)

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
        """Shape of the rows in one file: a shard where the array is sharded, else a chunk."""
        return tuple(self.document["chunk_grid"]["configuration"]["chunk_shape"])

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of the smallest piece that can be decoded alone."""
        outer = self.document["codecs"][0]
        if outer["name"] == "sharding_indexed":
            return tuple(outer["configuration"]["chunk_shape"])
        return self.grid

    def put(self, aside: Path, first: int, values: NDArray[Any]) -> dict[str, Path]:
        """Encode whole chunks into files whose paths begin with `aside`; return them by name.

        `first` is a multiple of the rows per file, and so is the number of rows, but for the last file of an array.
        """
        names = list(self.files(first, first + len(values)))
        if self._is_series:
            files = {name: aside.with_name(f"{aside.name}-{name}") for name in names}
            self._put_series(list(files.values()), values)
            return files
        self._opened(StorePath(LocalStore(aside)), first + len(values))[first:] = values
        return {name: aside / name for name in names}

    def with_shape(self, n_rows: int) -> dict[str, Any]:
        """Return the metadata of the array with `n_rows` rows."""
        return {**self.document, "shape": [n_rows, *self.row_shape]}

    def marked(self, data: bytes, mark: bytes) -> bytes:
        """Return the bytes of a shard with `mark` where no reader reads; of any other file, `data` itself."""
        if not self._is_sharded:
            return data
        n_chunks = math.prod(-(-outer // inner) for outer, inner in zip(self.grid, self.chunk, strict=True))
        index = len(data) - n_chunks * _ENTRY.size - _CHECKSUM_BYTES
        return data[:index] + mark + data[index:]

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
            if self.medium.is_remote and all(part == slice(None) for part in inner):
                return self._read_whole(first, stop)
            values = self._opened(self.medium.zarr_path(self.path), stop)[(slice(first, stop), *inner)]
        except (ValueError, RuntimeError, IndexError) as error:
            raise self._corrupt(first, stop, str(error)) from error
        # Zarr returns zeros for a missing file. Checked afterwards, so that a file removed meanwhile is noticed.
        for name in self.files(first, stop):
            if not (self.path / name).exists():
                raise self._corrupt(first, stop, f"{name} is missing")
        return np.asarray(values)

    def _read_whole(self, first: int, stop: int) -> NDArray[Any]:
        """Read whole files, one request each; parts of a file would take one for the index and one for each chunk."""
        names = list(self.files(first, stop))
        make = default_buffer_prototype().buffer.from_bytes
        memory: Any = dict(zip(names, map(make, self._contents(names, first, stop)), strict=True))
        array = self._opened(StorePath(MemoryStore(memory)), stop)
        return np.asarray(array[first:stop])

    def files(self, first: int, stop: int) -> Iterator[str]:
        """Yield the names of the chunk files that hold rows `first:stop`."""
        grid = self.grid
        inner = [range(-(-size // step)) for size, step in zip(self.row_shape, grid[1:], strict=True)]
        for index in product(range(first // grid[0], -(-stop // grid[0])), *inner):
            yield ".".join(["c", *map(str, index)])

    @property
    def _is_series(self) -> bool:
        """Whether a file holds whole rows as plain bytes and a checksum, perhaps with the index of a shard."""
        codecs = self.document["codecs"]
        if self._is_sharded and self.chunk == self.grid:
            codecs = codecs[0]["configuration"]["codecs"]
        names = [codec["name"] for codec in codecs]
        return names == ["bytes", "crc32c"] and self.grid[1:] == tuple(max(1, size) for size in self.row_shape)

    @property
    def _is_sharded(self) -> bool:
        return bool(self.document["codecs"][0]["name"] == "sharding_indexed")

    def _put_series(self, files: Sequence[Path], values: NDArray[Any]) -> None:
        n_rows = self.grid[0]
        for index, file in enumerate(files):
            part = values[index * n_rows : (index + 1) * n_rows]
            chunk = np.ascontiguousarray(part.reshape(len(part), *self.row_shape), self.dtype.newbyteorder("<"))
            if chunk.shape != self.grid:
                padded = np.zeros(self.grid, chunk.dtype)
                padded[tuple(map(slice, chunk.shape))] = chunk
                chunk = padded
            # Without a copy: the rotation of a large model takes gigabytes.
            data = chunk.reshape(-1).view(np.uint8)
            checksum = crc32c(data).to_bytes(_CHECKSUM_BYTES, "little")
            size = data.nbytes + _CHECKSUM_BYTES
            entry = _with_checksum(_ENTRY.pack(0, size)) if self._is_sharded else b""
            with file.open("wb") as out:
                out.write(data.data)
                out.write(checksum + entry)

    def _read_series(self, first: int, stop: int) -> NDArray[Any]:
        chunks = []
        names = list(self.files(first, stop))
        for name, stored in zip(names, self._contents(names, first, stop), strict=True):
            data = stored
            if self._is_sharded:
                entry = _without_checksum(data[-_ENTRY.size - _CHECKSUM_BYTES :])
                start, n_bytes = (0, 0) if entry is None else _ENTRY.unpack(entry)
                data = data[start : start + n_bytes]
            values_bytes = _without_checksum(data)
            if values_bytes is None:
                raise self._corrupt(first, stop, f"{name} does not agree with its checksum")
            rows = np.frombuffer(values_bytes, self.dtype.newbyteorder("<")).reshape(-1, *self.grid[1:])
            chunks.append(rows[(slice(None), *map(slice, self.row_shape))])
        start = first // self.grid[0] * self.grid[0]
        values = np.concatenate(chunks)[first - start : stop - start]
        return values.astype(self.dtype)

    def _contents(self, names: list[str], first: int, stop: int) -> list[bytes]:
        try:
            return self.medium.read_all(self.path / name for name in names)
        except FileNotFoundError as error:
            raise self._corrupt(first, stop, f"{Path(str(error.filename)).name} is missing") from error

    def _opened(self, path: StorePath, n_rows: int) -> zarr.Array[Any]:
        metadata: Any = self.with_shape(n_rows)
        # Without write_empty_chunks a segment in which nothing moved would have no file, as if it were lost.
        config: Any = {"write_empty_chunks": True}
        return zarr.Array(zarr.AsyncArray(metadata, path, config))

    def _corrupt(self, first: int, stop: int, got: str) -> WorkFailed:
        return WorkFailed(
            str(self.path),
            f"rows {first} to {stop - 1} cannot be read",
            got=got,
            fix="Run `streamscalar verify` to see what is left",
            kind=Kind.STORE_CORRUPT,
        )


def stored_document(document: dict[str, Any], medium: Medium[Any]) -> dict[str, Any]:
    """Return the metadata of an array as it is stored on a medium."""
    return sharded(document) if medium.marks_files else document


def sharded(document: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of the same array with each of its files as a shard; of a sharded one, `document` itself."""
    if document["codecs"][0]["name"] == "sharding_indexed":
        return document
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    configuration = {
        "chunk_shape": document["chunk_grid"]["configuration"]["chunk_shape"],
        "codecs": document["codecs"],
        "index_codecs": index,
        "index_location": "end",
    }
    return {**document, "codecs": [{"name": "sharding_indexed", "configuration": configuration}]}


def _with_checksum(data: bytes) -> bytes:
    checksum: int = crc32c(data)
    return data + checksum.to_bytes(_CHECKSUM_BYTES, "little")


def _without_checksum(data: bytes) -> bytes | None:
    """Return the bytes before a checksum; `None` where the two do not agree."""
    content = data[:-_CHECKSUM_BYTES]
    return content if crc32c(content) == int.from_bytes(data[-_CHECKSUM_BYTES:], "little") else None


@lru_cache(maxsize=256)
def trajectory_document(shape: tuple[int, int], dtype: str, n_rows: int, chunk: int, codec: Codec) -> dict[str, Any]:
    """Return the metadata of an array (row, replica, parameter): one file per `n_rows` rows.

    Within a file, `chunk` parameters of one replica are contiguous with time varying fastest, so that neighbours are
    similar and a range of parameters can be read alone.
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
def column_document(dtype: str, n_rows: int, codec: Codec) -> dict[str, Any]:
    """Return the metadata of an array of numbers, `n_rows` of them to a file, compressed with a checksum."""
    itemsize = np.dtype(dtype).itemsize
    compressors = [BloscCodec(cname=codec, clevel=1, shuffle="bitshuffle", typesize=itemsize), Crc32cCodec()]
    return _document(shape=(0,), dtype=dtype, shards=None, chunks=(n_rows,), filters=[], compressors=compressors)


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
        # Every chunk file is in the folder of the metadata: one folder to sync, not one per segment.
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    document: dict[str, Any] = json.loads(memory["zarr.json"].to_bytes())
    return document
