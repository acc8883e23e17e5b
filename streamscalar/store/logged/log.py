"""Write-ahead files of the logged values, which make them durable before their chunk is published.

One file per attempt and chunk of `LOGGED_CHUNK` entries, in the folder of the write-ahead files of the rows. A frame is
a header (magic, checksum of all that follows it, index of the first entry, index of the first new series, lengths), the
new series as JSON, and the columns of the entries. A file is valid up to its first invalid frame. A new attempt
continues after the last valid entry, in a file of its own; where attempts overlap, the newer one counts.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamscalar.store.media.files import fsync_path, json_bytes, storage_errors
from streamscalar.store.media.folder_fence import FolderFence
from streamscalar.store.schema import LOGGED_CHUNK
from streamscalar.store.wal import Fsync

VALUES_SUFFIX = ".values"

Series: TypeAlias = tuple[str, int]
"""Name of a metric as given, and replica."""

_MAGIC = b"SSV1"
_HEADER = struct.Struct("<4sIQIII")
_CHECKED_FROM = 8
_COLUMNS: tuple[np.dtype[Any], ...] = (np.dtype("<i8"), np.dtype("<i4"), np.dtype("<f8"))
_ENTRY_BYTES = sum(column.itemsize for column in _COLUMNS)


@dataclass(frozen=True)
class Entries:
    """Logged values in the order in which they were given.

    Attributes
    ----------
    series
        The series of the run.
    steps
        Step of each entry, shape (n,), int64.
    which
        Index of its series, shape (n,), int32.
    values
        Its value, shape (n,), float64.
    """

    series: tuple[Series, ...]
    steps: NDArray[np.int64]
    which: NDArray[np.int32]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, part: slice) -> "Entries":
        return Entries(self.series, self.steps[part], self.which[part], self.values[part])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {"steps": self.steps, "which": self.which, "values": self.values}

    @classmethod
    def joined(cls, parts: "Sequence[Entries]") -> "Entries":
        """Return parts one after the other, with the series of the last."""
        if not parts:
            return cls((), *(np.empty(0, column) for column in _COLUMNS))
        columns = zip(*(part.columns.values() for part in parts), strict=True)
        return cls(parts[-1].series, *(np.concatenate(column) for column in columns))


class ValuesLog:
    """Appends frames for one attempt.

    Parameters
    ----------
    directory
        Directory of the stream's write-ahead files.
    fence
        The writer's right to write.
    fsync
        With `row`, entries are on the disk when `append` returns; otherwise they survive a crash of its process only.
    """

    def __init__(self, directory: Path, fence: FolderFence, fsync: Fsync) -> None:
        self._directory = directory
        self._fence = fence
        self._is_synced = fsync == "row"

    def append(self, first: int, entries: Entries, first_series: int) -> None:
        """Write the entries from index `first` of the run on; its series from `first_series` on are new.

        Raises
        ------
        Fenced
            A newer attempt owns the stream.
        WorkFailed
            The disk is full; of these entries whole chunks may be there.
        """
        with storage_errors(self._directory), self._fence.held():
            done = 0
            while done < len(entries):
                index = first + done
                part = entries[done : done + LOGGED_CHUNK - index % LOGGED_CHUNK]
                self._write(index // LOGGED_CHUNK, _frame(index, part, first_series))
                done += len(part)

    def _write(self, chunk: int, data: bytes) -> None:
        path = self._directory / f"{self._fence.attempt:08d}-{chunk:012d}{VALUES_SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            end = os.fstat(file).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(file, data[written:])
                if self._is_synced:
                    os.fdatasync(file)
            except OSError:
                # An unacknowledged entry must not be found later, and the next one must follow the last valid one.
                os.ftruncate(file, end)
                raise
            if end == 0 and self._is_synced:
                fsync_path(self._directory)
        finally:
            os.close(file)


class ValuesLogReader:
    """Finds the valid entries of the log; caches those it has verified, as frames never change.

    Parameters
    ----------
    directory
        Directory of the write-ahead files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, _Frames] = {}

    def paths(self) -> list[Path]:
        """Return the files, those of older attempts first."""
        return sorted(self._directory.glob(f"*{VALUES_SUFFIX}"))

    def entries(self, first: int, series: Sequence[Series]) -> Entries:
        """Return the entries from index `first` on, up to the first that is missing.

        Parameters
        ----------
        first
            Number of published entries.
        series
            Published series of the run; those of the log are added.
        """
        known, self._known = self._known, {}
        table = list(series)
        parts: list[Entries] = []
        n = first
        for path in self.paths():
            frames = self._known[path.name] = known.get(path.name, _Frames())
            frames.read(path)
            for frame in frames.found:
                stop = frame.first + len(frame.entries)
                # A part of a chunk may be published only at the end of the run, when the log is not read any more.
                if frame.first > n or frame.first_series > len(table):
                    break
                table[frame.first_series :] = frame.entries.series
                if stop <= first:
                    continue
                if frame.first < n:
                    parts = [Entries.joined(parts)[: max(0, frame.first - first)]]
                parts.append(frame.entries[max(0, first - frame.first) :])
                n = stop
        found = Entries.joined(parts)
        return Entries(tuple(table), found.steps, found.which, found.values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}


def remove_published(directory: Path, n_published: int, *, complete: bool) -> None:
    """Delete the write-ahead files whose entries are all published."""
    first_kept = -(-n_published // LOGGED_CHUNK) if complete else n_published // LOGGED_CHUNK
    for path in directory.glob(f"*{VALUES_SUFFIX}"):
        if int(path.name.removesuffix(VALUES_SUFFIX).split("-")[1]) < first_kept:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Frame:
    first: int
    first_series: int
    entries: Entries


class _Frames:
    """The valid frames of a file, and where the next one begins."""

    def __init__(self) -> None:
        self.found: list[_Frame] = []
        self._end = 0

    def read(self, path: Path) -> None:
        """Read what was appended since the last call."""
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._end:
                    # On a full disk, a writer removes its unacknowledged frame again.
                    self.found, self._end = [], 0
                file.seek(self._end)
                data = file.read()
        except FileNotFoundError:
            return
        new = []
        offset = 0
        while found := _parsed(data, offset):
            new.append(found[0])
            offset = found[1]
        self._end += offset
        if new:
            # Joined, as a training that logs one value at a time leaves thousands of small frames.
            self.found = _joined([*self.found, *new])


def _frame(first: int, entries: Entries, first_series: int) -> bytes:
    new = json_bytes(entries.series[first_series:])
    columns = b"".join(
        column.astype(dtype, copy=False).tobytes()
        for column, dtype in zip(entries.columns.values(), _COLUMNS, strict=True)
    )
    checked = _HEADER.pack(_MAGIC, 0, first, first_series, len(entries), len(new))[_CHECKED_FROM:] + new + columns
    return _MAGIC + struct.pack("<I", zlib.crc32(checked)) + checked


def _parsed(data: bytes, offset: int) -> tuple[_Frame, int] | None:
    """Return the frame at an offset and where it ends; `None` where there is no valid one."""
    if len(data) - offset < _HEADER.size:
        return None
    magic, crc, first, first_series, n, n_bytes = _HEADER.unpack_from(data, offset)
    start = offset + _HEADER.size
    end = start + n_bytes + n * _ENTRY_BYTES
    if magic != _MAGIC or end > len(data) or zlib.crc32(memoryview(data)[offset + _CHECKED_FROM : end]) != crc:
        return None
    new = tuple((str(name), int(replica)) for name, replica in json.loads(data[start : start + n_bytes]))
    columns: list[Any] = []
    position = start + n_bytes
    for column in _COLUMNS:
        columns.append(np.frombuffer(data, column, n, position))
        position += n * column.itemsize
    return _Frame(first, first_series, Entries(new, *columns)), end


def _joined(frames: list[_Frame]) -> list[_Frame]:
    """Return the same entries in few frames: those that follow each other become one."""
    groups: list[list[_Frame]] = []
    for frame in frames:
        before = groups[-1][-1] if groups else None
        follows = (
            before is not None
            and frame.first == before.first + len(before.entries)
            and frame.first_series == before.first_series + len(before.entries.series)
        )
        if follows:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    result = []
    for group in groups:
        found = Entries.joined([frame.entries for frame in group])
        new = tuple(one for frame in group for one in frame.entries.series)
        result.append(
            _Frame(group[0].first, group[0].first_series, Entries(new, found.steps, found.which, found.values))
        )
    return result
