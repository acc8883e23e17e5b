"""One publication: files written aside, moved into place, and made visible by one last attribute write.

Encoding and writing take long and happen in a scratch directory without any lock. Then, under the stream's fence:
move the files into place, let the array shapes follow, write the new length (an atomic rename), each step durable
before the next. A crash at any point leaves the old length, which hides whatever was moved; a fenced writer moves
nothing. Scratch is named after the attempt, and swept when the next writer opens.

In a bucket the files are put instead, side by side, and the length is written under the condition that the stream is
still the writer's own. There the shapes follow only when a stream ends: one request per array and segment otherwise.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from streamscalar.store.format.arrays import StoredArray
from streamscalar.store.media.bucket_fence import Claim
from streamscalar.store.media.files import PARTIAL, fsync_path, json_bytes, storage_errors, waiting, write_group
from streamscalar.store.media.folder_fence import Fence
from streamscalar.store.media.objects import N_PARALLEL, ObjectPath, Place


class Publication(ABC):
    """What becomes visible together. A context manager: leaving it removes the scratch.

    Parameters
    ----------
    log
        Directory of the stream's lock, for the scratch; on the file system of a group in a folder.
    group
        Zarr group whose attributes hold the stream's length.
    attempt
        Number of the writer.
    """

    def __init__(self, log: Path, group: Place, attempt: int) -> None:
        self._scratch = log / f"scratch-{attempt}{PARTIAL}"
        self._blamed: Place = group
        self._moves: list[tuple[Path, Place, StoredArray | None]] = []
        self._lengths: list[tuple[StoredArray, int]] = []

    def __enter__(self) -> Self:
        shutil.rmtree(self._scratch, ignore_errors=True)
        with storage_errors(self._blamed):
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
        self._moves += [(target / name, array.path / name, array) for name in names]
        self._lengths.append((array, first + len(values)))

    def put_file(self, path: Place, data: bytes) -> None:
        """Write a plain file, under a name that no other attempt uses in a bucket."""
        aside = self._scratch / path.name

        def write() -> None:
            aside.write_bytes(data)
            fsync_path(aside)

        self._guarded(write)
        self._moves.append((aside, path, None))

    @abstractmethod
    def end(self, array: StoredArray, n_rows: int) -> None:
        """Say that an array will not grow beyond `n_rows` rows."""

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

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            with storage_errors(self._blamed):
                write()
        except FileNotFoundError:
            # A newer attempt sweeps the scratch of older ones.
            self._check()
            raise


class FolderPublication(Publication):
    """A publication on a file system."""

    def __init__(self, log: Path, group: Path, fence: Fence) -> None:
        super().__init__(log, group, fence.attempt)
        self._folder = group
        self._fence = fence

    def end(self, array: StoredArray, n_rows: int) -> None:
        """Do nothing: here the shapes follow every segment."""

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Move everything into place and write the attributes."""
        moves = [(aside, Path(str(path))) for aside, path, _ in self._moves]
        with storage_errors(self._folder), self._fence.held():
            for aside, path in moves:
                aside.replace(path)
            for directory in {path.parent for _, path in moves}:
                fsync_path(directory)
            for array, n_rows in self._lengths:
                array.write_shape(n_rows)
            write_group(self._folder, attributes)

    def _check(self) -> None:
        self._fence.check()


class BucketPublication(Publication):
    """A publication in a bucket: one request for each file, and one for the commit."""

    def __init__(self, log: Path, group: ObjectPath, claim: Claim) -> None:
        super().__init__(log, group, claim.attempt)
        self._blamed = log
        self._claim = claim
        self._ended: list[tuple[StoredArray, int]] = []

    def put(self, array: StoredArray, first: int, values: NDArray[Any]) -> None:
        """Write whole chunks into the scratch; no need to wait for the disk, as they are put from there."""
        with waiting(False):
            super().put(array, first, values)

    def end(self, array: StoredArray, n_rows: int) -> None:
        """Have the shape of an array follow with this publication."""
        self._ended.append((array, n_rows))

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Put every file, then the shapes of arrays that end, then the attributes."""
        with storage_errors(self._blamed), ThreadPoolExecutor(N_PARALLEL) as pool:
            # `list` waits for all of them and raises the first error.
            list(pool.map(lambda move: self._upload(*move), self._moves))
            list(pool.map(lambda ended: self._write_shape(*ended), self._ended))
        self._claim.commit(attributes)

    def _upload(self, aside: Path, path: Place, array: StoredArray | None) -> None:
        assert isinstance(path, ObjectPath)
        data = aside.read_bytes()
        self._claim.put(path, data if array is None else array.marked(data, self._claim.mark))

    def _write_shape(self, array: StoredArray, n_rows: int) -> None:
        assert isinstance(array.path, ObjectPath)
        document = {**array.with_shape(n_rows), "attributes": {"writer": self._claim.mark.hex()}}
        self._claim.put(array.path / "zarr.json", json_bytes(document))

    def _check(self) -> None:
        self._claim.check()
