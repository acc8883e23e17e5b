"""Stores in a folder: files are renamed into place, and a lock on a file admits one writer to each stream."""

import errno
import os
import shutil
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore, StorePath

from streamscalar.errors import BadCall, Kind
from streamscalar.store.media.files import (
    PARTIAL,
    fsync_path,
    json_bytes,
    partial_name,
    read_group,
    storage_errors,
    sweep,
    write_durable,
    write_group,
)
from streamscalar.store.media.filesystem import filesystem_of, require_usable
from streamscalar.store.media.folder_fence import FolderFence, exclusive
from streamscalar.store.media.medium import Medium, RunParts, Stream
from streamscalar.store.media.publication import GrowingArray, Publication


class Folder(Medium[Path]):
    """The medium of stores on a file system."""

    is_remote = False
    marks_files = False

    def url(self, place: Path) -> str:
        """Return the absolute path."""
        return str(place.resolve())

    def resolved(self, place: Path) -> Path:
        """Return the absolute path."""
        return place.resolve()

    def folder(self, place: Path) -> Path:
        """Return `place`."""
        return place

    def is_there(self, place: Path) -> bool:
        """Return whether it is a folder."""
        return place.is_dir()

    def is_empty(self, place: Path) -> bool:
        """Return whether it is missing, or a folder without entries."""
        return not place.exists() or (place.is_dir() and not any(place.iterdir()))

    def free_bytes(self, place: Path) -> int | None:
        """Return the free bytes of the disk under the nearest folder that exists."""
        nearest = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
        if not nearest.is_dir():
            return None
        space = os.statvfs(nearest)
        return space.f_bavail * space.f_frsize

    def warning(self, place: Path) -> str:
        """Return what the file system does not guarantee."""
        return filesystem_of(place).promise

    def zarr_path(self, place: Path) -> StorePath:
        """Return a local Zarr store."""
        return StorePath(LocalStore(place))

    def make_folder(self, place: Path) -> None:
        """Make a folder and its parents."""
        place.mkdir(parents=True, exist_ok=True)

    def write(self, place: Path, data: bytes) -> None:
        """Write a file aside and rename it."""
        write_durable(place, data)

    def create(self, place: Path, data: bytes) -> None:
        """Write a new file, and its folder."""
        place.parent.mkdir(exist_ok=True)
        write_durable(place, data)

    def read_all(self, places: Iterable[Path]) -> list[bytes]:
        """Read one file after the other."""
        return [path.read_bytes() for path in places]

    def remove(self, places: Iterable[Path]) -> None:
        """Unlink files."""
        for path in places:
            path.unlink(missing_ok=True)

    def names(self, folder: Path) -> list[str]:
        """List a folder, without files that are still being written."""
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if not entry.name.endswith(PARTIAL))
        except FileNotFoundError:
            return []

    def stamp(self, place: Path) -> tuple[Hashable, float] | None:
        """Return time and inode of a file."""
        try:
            facts = place.stat()
        except FileNotFoundError:
            return None
        return (facts.st_mtime_ns, facts.st_ino), facts.st_mtime

    def entries_stamp(self, folder: Path) -> object:
        """Return the stamp of the folder itself, which changes with its entries."""
        return self.stamp(folder)

    def create_store(self, root: Path, attributes: Mapping[str, Any]) -> None:
        """Make a store next to its final path, and rename it."""
        require_usable(root)
        if (root / "zarr.json").exists():
            return
        if not self.is_empty(root):
            raise BadCall(
                str(root),
                "is not a streamscalar store, and not empty",
                fix="Choose another folder with --store",
                kind=Kind.STORE_MISSING,
            )
        aside = partial_name(root.absolute())
        with storage_errors(root):
            try:
                (aside / "runs").mkdir(parents=True)
                write_group(aside / "runs", {})
                write_group(aside, attributes)
                aside.replace(root)
                fsync_path(root.absolute().parent)
            except OSError as error:
                # Another process made its store meanwhile; the caller compares what it holds.
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and (root / "zarr.json").exists():
                    return
                if not isinstance(error, NotADirectoryError):
                    raise
                raise BadCall(
                    str(root), "cannot be made", str(error), "Choose another folder with --store", Kind.STORE_MISSING
                ) from None
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def require_writable(self, root: Path) -> None:
        """Raise `BadCall` for a read-only folder."""
        if not os.access(root, os.W_OK):
            raise BadCall(
                str(root),
                "must be writable",
                "a read-only folder",
                "Choose another place with --store, or change its permissions",
                Kind.STORE_READ_ONLY,
            )

    def stores_below(self, root: Path) -> list[Path]:
        """Return the folders directly below that hold a store."""
        return [path.parent for path in sorted(root.glob("*/zarr.json"))]

    def create_run(self, run: Path, parts: RunParts) -> None:
        """Make a run next to its final path, and rename it, under the lock of all runs."""
        runs = run.parent
        with storage_errors(runs), exclusive(runs / "lock"):
            if run.exists():
                return
            aside = partial_name(run)
            try:
                for name in (*parts.logs, *parts.groups, *parts.arrays):
                    (aside / name).mkdir(parents=True, exist_ok=True)
                for name, attributes in parts.groups.items():
                    write_group(aside / name, attributes)
                for name, document in parts.arrays.items():
                    (aside / name / "zarr.json").write_bytes(json_bytes(document))
                write_group(aside, parts.definition)
                aside.replace(run)
                fsync_path(runs)
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def list_run(self, root: Path, run_id: str) -> None:
        """Rewrite the list of runs, under the lock of all runs."""
        runs = root / "runs"
        with storage_errors(runs), exclusive(runs / "lock"):
            listed = _listed(runs)
            if run_id not in listed:
                write_durable(runs / "order", "".join(f"{run}\n" for run in [*listed, run_id]).encode())

    def run_ids(self, root: Path) -> list[str]:
        """Return the listed runs that have a folder, then the folders that are not listed."""
        runs = root / "runs"
        listed = _listed(runs)
        with os.scandir(runs) as entries:
            there = {entry.name for entry in entries if entry.is_dir() and not entry.name.endswith(PARTIAL)}
        return [run for run in listed if run in there] + sorted(there - set(listed))

    def runs_stamp(self, root: Path) -> Hashable:
        """Return the stamps of the list and of the folder of runs."""
        runs = self.stamp(root / "runs")
        return None if runs is None else (self.stamp(root / "runs" / "order"), runs)

    def open_stream(self, group: Path, log: Path, spool: Path | None, context: str) -> "FolderStream":
        """Claim a stream by its lock."""
        del spool
        return FolderStream(group, log, context)

    def spool(self, root: Path, run_id: str, base: str | None) -> None:
        """Return `None`: the log lies in the run."""

    def readable_log(self, log: Path) -> Path | None:
        """Return `log`."""
        return log

    def log_stamps(self, log: Path, suffixes: tuple[str, ...]) -> list[tuple[Hashable, float]]:
        """Return name, size and time of each file."""
        found: list[tuple[Hashable, float]] = []
        with os.scandir(log) as entries:
            for entry in entries:
                if entry.name.endswith(suffixes):
                    facts = entry.stat()
                    found.append(((entry.name, facts.st_size), facts.st_mtime))
        return found

    def n_attempts(self, group: Path, log: Path) -> int:
        """Return the newest attempt, which the lock file holds."""
        del group
        try:
            return int((log / "lock").read_bytes() or 0)
        except FileNotFoundError:
            return 0


class FolderStream(Stream[Path]):
    """A stream on a file system.

    Parameters
    ----------
    group
        Zarr group of the stream.
    log
        Folder of its lock, its write-ahead files and its scratch.
    context
        Run and stream, for messages.
    """

    def __init__(self, group: Path, log: Path, context: str) -> None:
        self._group = group
        self.log = log
        with storage_errors(group):
            self.fence = FolderFence(log / "lock", context)
            sweep(log)
        self.attempt = self.fence.attempt

    def attributes(self) -> dict[str, Any]:
        """Read the attributes of the stream."""
        return read_group(self._group)

    def publication(self) -> "FolderPublication":
        """Return a new publication."""
        return FolderPublication(self.log, self._group, self.fence)

    def make_array(self, array: GrowingArray) -> None:
        """Write the metadata of an array."""
        path: Path = array.path
        with storage_errors(path), self.fence.held():
            path.mkdir(parents=True, exist_ok=True)
            write_durable(path / "zarr.json", json_bytes(array.document))
            fsync_path(path.parent)

    def make_group(self, path: Path, arrays: Iterable[str]) -> None:
        """Make the folders of a group and of its arrays."""
        with storage_errors(path), self.fence.held():
            for name in arrays:
                (path / name).mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True)
            write_group(path, {})
            fsync_path(path.parent)

    def own_name(self, name: str) -> str:
        """Return `name`: the lock keeps older writers from it."""
        return name

    def remove_others(self, folder: Path, prefix: str, keep: str) -> None:
        """Unlink the files whose names begin with `prefix`, except `keep`."""
        with self.fence.held():
            for path in folder.glob(f"{prefix}*"):
                if path.name != keep:
                    path.unlink(missing_ok=True)

    def close(self, *, is_complete: bool) -> None:
        """Do nothing."""


class FolderPublication(Publication):
    """A publication on a file system.

    Once all files are written, they are made durable together: waiting for each of a dozen small files before the next
    is written takes three times as long. Under the stream's lock they are then renamed into place, the new shapes of
    the arrays last, and once that is durable, the new length is written by an atomic rename. A writer that was locked
    out renames nothing.
    """

    def __init__(self, log: Path, group: Path, fence: FolderFence) -> None:
        super().__init__(log, group, fence.attempt)
        self._group = group
        self._fence = fence

    def end(self, array: GrowingArray, n_rows: int) -> None:
        """Do nothing: here the shapes follow every segment."""

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Rename everything into place and write the attributes."""
        moves = [(aside, path) for aside, path, _ in self._moves]
        for index, (array, n_rows) in enumerate(self._lengths):
            aside = self._scratch / f"{index}.json"
            self._guarded(partial(aside.write_bytes, json_bytes(array.with_shape(n_rows))))
            moves.append((aside, array.path / "zarr.json"))
        for aside, _ in moves:
            self._guarded(partial(fsync_path, aside))
        with storage_errors(self._group), self._fence.held():
            for aside, path in moves:
                aside.replace(path)
            for directory in {path.parent for _, path in moves}:
                fsync_path(directory)
            write_group(self._group, attributes)

    def _check(self) -> None:
        self._fence.check()


def _listed(runs: Path) -> list[str]:
    try:
        return (runs / "order").read_text("utf-8").split()
    except FileNotFoundError:
        return []
