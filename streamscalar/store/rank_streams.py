"""Streams of the ranks of a distributed training: hashes of their tensors, one file per rank.

```
<run>/ranks/<session>/<rank>.hashes
```

A session is one start of the job; its name begins with the time. Each file is appended by its rank alone. A frame is a
header (magic, checksum of the rest, length, kind) and its content: a description of the rank, as JSON, or the hashes of
one step. A file is valid up to its first invalid frame. A frame survives a crash of the process once it is written.
"""

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["parameter", "buffer", "overwritten"]
"""`overwritten` is a buffer that each forward pass starts with from rank 0."""

SUFFIX = ".hashes"

_MAGIC = b"SSR1"
_HEADER = struct.Struct("<4sIIB")
_CHECKED_FROM = 8
_STEP = struct.Struct("<qqd")
_DESCRIPTION, _HASHES = range(2)


@dataclass(frozen=True)
class Description:
    """What a rank compares.

    Attributes
    ----------
    rank, host
        Its rank, and the name of its machine.
    group
        Ranks that have to be equal to it, itself included.
    tensors
        Role of each tensor, by name, in the order of the hashes.
    """

    rank: int
    host: str
    group: tuple[int, ...]
    tensors: dict[str, Role]


@dataclass(frozen=True)
class HashedStep:
    """The hashes of one rank after one step.

    Attributes
    ----------
    about
        Description of the rank at that time.
    call
        Number of the call of `step`, from 1. Ranks are compared where call and step agree: a script that numbers the
        steps of its ranks differently is at different updates.
    step
        Training step.
    at
        Unix time in seconds.
    hashes
        Hash of each tensor, int64.
    """

    about: Description
    call: int
    step: int
    at: float
    hashes: NDArray[np.int64]


class RankWriter:
    """Appends to the stream of one rank.

    Parameters
    ----------
    folder
        Folder of the session, which exists.
    rank
        The rank.

    Raises
    ------
    OSError
        The file exists, or cannot be written.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(folder / f"{rank:06d}{SUFFIX}", flags, 0o644)
        self._end = 0

    def describe(self, about: Description) -> None:
        """Write what the hashes of the next steps belong to."""
        document = {"rank": about.rank, "host": about.host, "group": about.group, "tensors": about.tensors}
        self._append(_DESCRIPTION, json.dumps(document).encode())

    def append(self, call: int, step: int, hashes: NDArray[np.int64]) -> None:
        """Write the hashes of one step."""
        self._append(_HASHES, _STEP.pack(call, step, time.time()) + hashes.astype("<i8").tobytes())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, kind: int, content: bytes) -> None:
        rest = _HEADER.pack(_MAGIC, 0, len(content), kind)[_CHECKED_FROM:] + content
        frame = _MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest
        try:
            n_written = 0
            while n_written < len(frame):
                n_written += os.write(self._file, frame[n_written:])
        except OSError:
            # The next frame must follow the last whole one.
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(frame)


@dataclass
class _Stream:
    path: Path
    offset: int = 0
    about: Description | None = None

    def read(self) -> Iterator[HashedStep]:
        """Yield the steps that are new since the last call."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while frame := _frame(file):
                kind, content = frame
                self.offset += _HEADER.size + len(content)
                if kind == _DESCRIPTION:
                    self.about = _description(content)
                elif self.about is not None:
                    call, step, at = _STEP.unpack_from(content)
                    hashes = np.frombuffer(content, "<i8", offset=_STEP.size).astype(np.int64)
                    yield HashedStep(self.about, call, step, at, hashes)


def _frame(file: BinaryIO) -> tuple[int, bytes] | None:
    """Return the next frame; `None` where there is none, or not all of it yet."""
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        return None
    magic, crc, n_bytes, kind = _HEADER.unpack(head)
    if magic != _MAGIC:
        return None
    content = file.read(n_bytes)
    return (kind, content) if zlib.crc32(head[_CHECKED_FROM:] + content) == crc else None


def _description(content: bytes) -> Description:
    document = json.loads(content)
    return Description(document["rank"], document["host"], tuple(document["group"]), document["tensors"])


@dataclass
class SessionReader:
    """Reads the streams of one session while they grow.

    Attributes
    ----------
    folder
        Folder of the session.
    """

    folder: Path
    _streams: dict[str, _Stream] = field(default_factory=dict)

    def read(self) -> list[HashedStep]:
        """Return the steps that are new since the last call, those of one rank in order."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            self._streams.setdefault(path.name, _Stream(path))
        return [step for stream in self._streams.values() for step in stream.read()]


def sessions(ranks: Path) -> Sequence[Path]:
    """Return the folders of the sessions in the folder of the ranks of a run, oldest first."""
    try:
        return sorted(path for path in ranks.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
