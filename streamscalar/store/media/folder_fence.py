"""One writer per stream in a folder: a newer attempt locks every older one out."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from streamscalar.errors import Fenced, Kind

_WIDTH = 20


class FolderFence:
    """An attempt number, claimed as the newest, and the right to write while it is.

    The file holds the newest attempt. A claim locks it exclusively, and every write holds a shared lock, so that
    no write of an older attempt can follow the claim. The lock is advisory and ends with its process.

    Parameters
    ----------
    path
        The lock file; made where missing.
    context
        Run and stream, for messages.
    attempt
        Number of this attempt where it was claimed elsewhere already, as in a bucket.

    Attributes
    ----------
    attempt : int
        This attempt, one more than any before it unless it was given.
    before : int
        The newest attempt before it that used this file, 0 where there was none.

    Raises
    ------
    Fenced
        The given attempt is not the newest here.
    """

    def __init__(self, path: Path, context: str, attempt: int | None = None) -> None:
        self._path = path
        self._context = context
        with _locked(path, fcntl.LOCK_EX) as file:
            self.before = _newest(file)
            self.attempt = self.before + 1 if attempt is None else attempt
            if self.attempt <= self.before:
                raise fenced(context, self.attempt, self.before)
            os.pwrite(file, f"{self.attempt:0{_WIDTH}d}".encode(), 0)
            os.fsync(file)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the right to write; no newer attempt can be claimed meanwhile.

        Raises
        ------
        Fenced
            A newer attempt exists.
        """
        with _locked(self._path, fcntl.LOCK_SH) as file:
            newest = _newest(file)
            if newest != self.attempt:
                raise fenced(self._context, self.attempt, newest)
            yield

    def check(self) -> None:
        """Raise `Fenced` where a newer attempt exists."""
        with self.held():
            pass


def fenced(context: str, attempt: int, newest: int) -> Fenced:
    """Return the error that stops an older attempt."""
    return Fenced(
        "stream",
        f"attempt {attempt} must not write any more",
        got=f"attempt {newest} owns the stream",
        kind=Kind.FENCED,
        context=context,
    )


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes (and between threads) on a lock file."""
    with _locked(path, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _locked(path: Path, mode: int) -> Iterator[int]:
    # A separate descriptor for every use: locks belong to open files, so threads do not release each other's.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, mode)
        yield descriptor
    finally:
        os.close(descriptor)


def _newest(descriptor: int) -> int:
    return int(os.pread(descriptor, _WIDTH, 0) or b"0")
