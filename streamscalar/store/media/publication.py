"""A publication: files that become visible together, by one last write of a stream's attributes.

Encoding and writing take long and happen in a scratch folder without any lock. The commit then puts the files in
place and writes the new length. A crash before that leaves the old length, which hides the new files. The scratch is
named after the attempt, and the next writer removes it when it opens the stream.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from numpy.typing import NDArray

from streamscalar.store.media.files import PARTIAL, storage_errors
from streamscalar.store.media.objects import Place

Written = TypeVar("Written")


class GrowingArray(Protocol):
    """An array that grows by whole files, such as `streamscalar.store.format.arrays.StoredArray`."""

    @property
    def path(self) -> Any:
        """Place of the array."""
        ...

    @property
    def document(self) -> dict[str, Any]:
        """Its `zarr.json`."""
        ...

    def put(self, aside: Path, first: int, values: NDArray[Any]) -> dict[str, Path]:
        """Encode rows from `first` on into files whose paths begin with `aside`; return them by name."""
        ...

    def with_shape(self, n_rows: int) -> dict[str, Any]:
        """Return the metadata of the array with `n_rows` rows."""
        ...

    def marked(self, data: bytes, mark: bytes) -> bytes:
        """Return the bytes of one of its files with a writer's mark in them."""
        ...


class Publication(ABC):
    """Files that become visible together. A context manager: leaving it removes the scratch.

    Parameters
    ----------
    log
        Folder for the scratch; on the file system of the store where that is a folder.
    named
        The place to name in messages about a full disk.
    attempt
        Number of the writer.
    """

    def __init__(self, log: Path, named: Place, attempt: int) -> None:
        self._scratch = log / f"scratch-{attempt}{PARTIAL}"
        self._named = named
        self._moves: list[tuple[Path, Any, GrowingArray | None]] = []
        self._lengths: list[tuple[GrowingArray, int]] = []

    def __enter__(self) -> Self:
        shutil.rmtree(self._scratch, ignore_errors=True)
        with storage_errors(self._named):
            self._scratch.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def put(self, array: GrowingArray, first: int, values: NDArray[Any]) -> None:
        """Write whole files of an array whose metadata is in place."""
        aside = self._scratch / f"{len(self._lengths)}"
        files = self._guarded(lambda: array.put(aside, first, values))
        self._moves += [(path, array.path / name, array) for name, path in files.items()]
        self._lengths.append((array, first + len(values)))

    def put_file(self, path: Place, data: bytes) -> None:
        """Write a plain file, under a name from `Stream.own_name`."""
        aside = self._scratch / path.name
        self._guarded(lambda: aside.write_bytes(data))
        self._moves.append((aside, path, None))

    @abstractmethod
    def end(self, array: GrowingArray, n_rows: int) -> None:
        """Declare that an array will not grow beyond `n_rows` rows."""

    @abstractmethod
    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Put everything in place and make it visible with the new attributes of the stream's group.

        Raises
        ------
        Fenced
            A newer attempt owns the stream; nothing was changed.
        WorkFailed
            The disk is full, or the bucket does not answer; nothing became visible.
        """

    @abstractmethod
    def _check(self) -> None:
        """Raise `Fenced` where a newer attempt exists."""

    def _guarded(self, write: Callable[[], Written]) -> Written:
        try:
            with storage_errors(self._named):
                return write()
        except FileNotFoundError:
            # A newer attempt removes the scratch of older ones.
            self._check()
            raise
