"""One publication: files written aside, moved into place, and made visible by one last attribute write.

Encoding and writing take long and happen in a scratch directory without any lock. Then, under the stream's fence:
move the files into place, let the array shapes follow, write the new length (an atomic rename), each step durable
before the next. A crash at any point leaves the old length, which hides whatever was moved; a fenced writer moves
nothing. Scratch is named after the attempt, and swept when the next writer opens.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from streamscalar.store.arrays import StoredArray
from streamscalar.store.fence import Fence
from streamscalar.store.files import PARTIAL, fsync_path, storage_errors, write_group


class Publication:
    """What becomes visible together. A context manager: leaving it removes the scratch.

    Parameters
    ----------
    log
        Directory of the stream's lock, for the scratch; on the file system of `group`.
    group
        Zarr group whose attributes hold the stream's length.
    fence
        The writer's right to write.
    """

    def __init__(self, log: Path, group: Path, fence: Fence) -> None:
        self._scratch = log / f"scratch-{fence.attempt}{PARTIAL}"
        self._group = group
        self._fence = fence
        self._moves: list[tuple[Path, Path]] = []
        self._lengths: list[tuple[StoredArray, int]] = []

    def __enter__(self) -> Self:
        shutil.rmtree(self._scratch, ignore_errors=True)
        with storage_errors(self._group):
            self._scratch.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def put(self, array: StoredArray, first: int, values: NDArray[Any]) -> None:
        """Write whole chunks of an array that already has its metadata in place."""
        target = self._scratch / f"{len(self._lengths)}"
        self._guarded(target.mkdir)
        names: list[str] = []
        self._guarded(lambda: names.extend(array.put(target, first, values)))
        self._moves += [(target / name, array.path / name) for name in names]
        self._lengths.append((array, first + len(values)))

    def put_file(self, path: Path, data: bytes) -> None:
        """Write a plain file."""
        aside = self._scratch / path.name

        def write() -> None:
            aside.write_bytes(data)
            fsync_path(aside)

        self._guarded(write)
        self._moves.append((aside, path))

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Put everything in place and make it visible with the new attributes of the stream's group.

        Raises
        ------
        Fenced
            A newer attempt owns the stream; nothing was changed.
        WorkFailed
            The disk is full; nothing became visible.
        """
        with storage_errors(self._group), self._fence.held():
            for aside, path in self._moves:
                aside.replace(path)
            for directory in {path.parent for _, path in self._moves}:
                fsync_path(directory)
            for array, n_rows in self._lengths:
                array.write_shape(n_rows)
            write_group(self._group, attributes)

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            with storage_errors(self._group):
                write()
        except FileNotFoundError:
            # A newer attempt sweeps the scratch of older ones.
            self._fence.check()
            raise
