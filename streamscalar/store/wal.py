"""Write-ahead files of the weights stream, which make a row durable before its segment is sealed.

There is one file per attempt and segment, so that the file of a sealed segment can be deleted and the log never holds
more than about two segments. A frame is a header (magic, checksum of header and tail, lengths, row, step, sha256 of the
weights), the raw weights, and a tail (metrics, and at a key frame the trainer's state). The digest is stored
anyway, so it serves as the checksum of the weights. A frame is valid when both agree; a file is valid up to its
first invalid frame. Nothing is appended after an invalid frame: a new attempt starts a new file.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.store.format.packing import Arrays, pack, unpack
from streamscalar.store.media.files import fsync_path, storage_errors
from streamscalar.store.media.folder_fence import FolderFence

Fsync = Literal["row", "segment", "none"]

_MAGIC = b"SSW1"
_HEADER = struct.Struct("<4sIQQqq32s")
_CHECKED_FROM = 8
LOG_SUFFIX = ".wal"


@dataclass(frozen=True)
class Frame:
    """A valid frame, without its weights.

    Attributes
    ----------
    path, offset, n_bytes
        File, position and length of the frame.
    n_weights_bytes
        Length of the weights in it.
    row, step
        Row in the run, and optimiser step.
    sha256
        Digest of the raw little-endian weights.
    metrics
        Shape (n_metrics, R), float64, in the order of the run's metrics.
    """

    path: Path
    offset: int
    n_bytes: int
    n_weights_bytes: int
    row: int
    step: int
    sha256: bytes
    metrics: NDArray[np.float64]

    def weights(self, dtype: str, shape: tuple[int, int]) -> NDArray[Any] | None:
        """Read the weights again; `None` where they no longer agree with the digest."""
        with self.path.open("rb") as file:
            file.seek(self.offset + _HEADER.size)
            data = bytearray(file.read(self.n_weights_bytes))
        if hashlib.sha256(data).digest() != self.sha256:
            return None
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Read the trainer's state; empty where the row is no key frame."""
        with self.path.open("rb") as file:
            file.seek(self.offset + _HEADER.size + self.n_weights_bytes + self.metrics.nbytes)
            data = file.read(self.n_bytes - _HEADER.size - self.n_weights_bytes - self.metrics.nbytes)
        return unpack(data) if data else {}


class Log:
    """Appends frames for one attempt.

    Parameters
    ----------
    directory
        Directory of the stream's write-ahead files.
    fence
        The writer's right to write, checked for every row.
    fsync
        `row`: a row is on the disk when `append` returns; otherwise it survives a crash of its process only.
    """

    def __init__(self, directory: Path, fence: FolderFence, fsync: Fsync) -> None:
        self._directory = directory
        self._fence = fence
        self._fsync = fsync
        self._segment = -1
        self._file = -1
        self._end = 0

    def append(
        self,
        segment: int,
        row: int,
        step: int,
        weights: NDArray[Any],
        metrics: NDArray[np.float64],
        state: Arrays | None,
    ) -> bytes:
        """Write one row; return the sha256 of its weights.

        Raises
        ------
        Fenced
            A newer attempt owns the stream.
        WorkFailed
            The disk is full; the row is not there, and all rows before it are.
        """
        digest = sha256(weights)
        tail = metrics.tobytes() + (pack(state) if state is not None else b"")
        checked = _HEADER.pack(_MAGIC, 0, weights.nbytes, len(tail), row, step, digest)[_CHECKED_FROM:]
        head = _MAGIC + struct.pack("<I", zlib.crc32(tail, zlib.crc32(checked))) + checked
        with storage_errors(self._directory), self._fence.held():
            if segment != self._segment:
                self._begin(segment)
            try:
                _write_all(self._file, [head, weights.data.cast("B"), tail])
                if self._fsync == "row":
                    os.fdatasync(self._file)
            except OSError:
                # An unacknowledged row must not be found later, and the next row must follow the last valid one.
                os.ftruncate(self._file, self._end)
                os.lseek(self._file, self._end, os.SEEK_SET)
                raise
            if self._end == 0 and self._fsync == "row":
                fsync_path(self._directory)
            self._end += len(head) + weights.nbytes + len(tail)
        return digest

    def close(self) -> None:
        """Close the current file."""
        if self._file >= 0:
            os.close(self._file)
            self._file, self._segment = -1, -1

    def _begin(self, segment: int) -> None:
        self.close()
        path = self._directory / f"{self._fence.attempt:08d}-{segment:012d}{LOG_SUFFIX}"
        # The same segment may be opened again after a close: rows that this attempt wrote before stay.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = os.lseek(self._file, 0, os.SEEK_END)
        self._segment = segment


class LogReader:
    """Finds the valid frames of a stream; caches those it has verified, as frames never change.

    Parameters
    ----------
    directory
        Directory of the write-ahead files.
    n_metrics, n_replicas
        Shape of the metrics in a frame.
    hash_weights
        Whether to compare the weights of a frame with their hash. A monitor of thousands of runs does not, as it would
        read every weight; after a power cut it may then count a row that was written only in part.
    """

    def __init__(self, directory: Path, n_metrics: int, n_replicas: int, *, hash_weights: bool = True) -> None:
        self._directory = directory
        self._hash_weights = hash_weights
        self._metrics_shape = (n_metrics, n_replicas)
        self._verified: dict[str, list[Frame]] = {}

    def frames(self, first: int, rows_per_segment: int) -> list[Frame]:
        """Return the valid frames of rows `first`, `first + 1`, ... up to the first that is missing.

        Where attempts overlap, the newest one's row counts.
        """
        found: dict[int, Frame] = {}
        names = list(segment_files(self._directory, first // rows_per_segment))
        self._verified = {name: self._verified[name] for name in names if name in self._verified}
        for name in names:
            for frame in self._file_frames(name):
                found[frame.row] = frame
        frames: list[Frame] = []
        while (row := first + len(frames)) in found:
            frames.append(found[row])
        return frames

    def forget(self) -> None:
        """Verify everything again at the next call."""
        self._verified = {}

    def _file_frames(self, name: str) -> list[Frame]:
        try:
            with (self._directory / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                # On a full disk, a writer removes its unacknowledged frame again.
                frames = [x for x in self._verified.get(name, []) if x.offset + x.n_bytes <= size]
                offset = frames[-1].offset + frames[-1].n_bytes if frames else 0
                while frame := self._frame(self._directory / name, file.fileno(), offset, size):
                    frames.append(frame)
                    offset += frame.n_bytes
        except FileNotFoundError:
            return []
        self._verified[name] = frames
        return frames

    def _frame(self, path: Path, file: int, offset: int, size: int) -> Frame | None:
        if size - offset < _HEADER.size:
            return None
        head = os.pread(file, _HEADER.size, offset)
        if len(head) < _HEADER.size:
            return None
        magic, crc, n_weights, n_tail, row, step, digest = _HEADER.unpack(head)
        n_bytes = _HEADER.size + n_weights + n_tail
        if magic != _MAGIC or offset + n_bytes > size:
            return None
        tail = _read(file, n_tail, offset + _HEADER.size + n_weights)
        if zlib.crc32(tail, zlib.crc32(head[_CHECKED_FROM:])) != crc:
            return None
        if self._hash_weights:
            weights = _read(file, n_weights, offset + _HEADER.size)
            if hashlib.sha256(weights).digest() != digest:
                return None
        n_metrics, n_replicas = self._metrics_shape
        metrics = np.frombuffer(tail, "<f8", n_metrics * n_replicas).reshape(self._metrics_shape)
        return Frame(path, offset, n_bytes, n_weights, row, step, digest, metrics)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_verified": {}}


def sha256(weights: NDArray[Any]) -> bytes:
    """Return the digest of the raw bytes of contiguous little-endian weights."""
    return hashlib.sha256(weights.data).digest()


def segment_files(directory: Path, first_segment: int) -> Iterator[str]:
    """Yield the names of write-ahead files of `first_segment` and later ones, older attempts first."""
    for name in sorted(entry.name for entry in directory.glob(f"*{LOG_SUFFIX}")):
        if _segment_of(name) >= first_segment:
            yield name


def remove_below(directory: Path, first_segment: int) -> None:
    """Delete the write-ahead files of segments before `first_segment`."""
    for path in directory.glob(f"*{LOG_SUFFIX}"):
        if _segment_of(path.name) < first_segment:
            path.unlink(missing_ok=True)


def _segment_of(name: str) -> int:
    return int(name.removesuffix(LOG_SUFFIX).split("-")[1])


def _read(file: int, n_bytes: int, offset: int) -> bytes:
    """Read up to `n_bytes`; the kernel returns at most 2 GiB per call."""
    parts = []
    while n_bytes:
        part = os.pread(file, n_bytes, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        n_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_all(file: int, buffers: Sequence[bytes | memoryview]) -> None:
    pending = [memoryview(buffer) for buffer in buffers if len(buffer)]
    while pending:
        written = os.writev(file, pending)
        while pending and written >= len(pending[0]):
            written -= len(pending.pop(0))
        if pending and written:
            pending[0] = pending[0][written:]
