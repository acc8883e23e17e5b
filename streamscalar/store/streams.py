"""Where the single writer of a stream works: on a folder, or on a bucket with a folder of its own beside it.

Both answer the same calls, so that the writers (`weights`, `embedding`) do not know which it is. On a bucket the log
and the scratch lie on the writer's own disk (the spool): a row is acknowledged to others when its segment is committed,
and a writer that is started again on the same machine takes up the rows of its spool.
"""

import hashlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, Protocol

from streamscalar.errors import BadCall, Kind
from streamscalar.store import wal
from streamscalar.store.format.arrays import StoredArray
from streamscalar.store.media.bucket_fence import Claim
from streamscalar.store.media.files import (
    fsync_path,
    json_bytes,
    read_group,
    storage_errors,
    sweep,
    write_durable,
    write_group,
)
from streamscalar.store.media.folder_fence import Fence
from streamscalar.store.media.objects import ObjectPath, Place, remove
from streamscalar.store.media.publication import BucketPublication, FolderPublication, Publication


class Stream(Protocol):
    """One stream of one run, claimed for one writer; every older writer is locked out."""

    @property
    def attempt(self) -> int:
        """Number of this writer."""
        ...

    @property
    def log(self) -> Path:
        """Folder of the write-ahead files."""
        ...

    @property
    def fence(self) -> Fence:
        """Right to write to the log."""
        ...

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the stream: its commit point."""
        ...

    def publication(self) -> Publication:
        """Return a new publication, to be used as a context manager."""
        ...

    def make_array(self, array: StoredArray) -> None:
        """Put the metadata of an array in place."""
        ...

    def make_group(self, path: Place) -> None:
        """Put a group without attributes in place."""
        ...

    def remove_others(self, folder: Place, pattern: str, keep: str) -> None:
        """Delete the files of a folder whose names begin with `pattern`, but for `keep`."""
        ...

    def close(self, *, is_complete: bool) -> None:
        """Let go of what only this writer needs; the log stays unless the stream is complete."""
        ...


class FolderStream:
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
            self.fence = Fence(log / "lock", context)
            sweep(log)
        self.attempt: int = self.fence.attempt

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the stream."""
        return read_group(self._group)

    def publication(self) -> Publication:
        """Return a new publication."""
        return FolderPublication(self.log, self._group, self.fence)

    def make_array(self, array: StoredArray) -> None:
        """Put the metadata of an array in place."""
        path = Path(str(array.path))
        with storage_errors(path), self.fence.held():
            path.mkdir(parents=True, exist_ok=True)
            write_durable(path / "zarr.json", json_bytes(array.document))
            fsync_path(path.parent)

    def make_group(self, path: Place) -> None:
        """Put a group without attributes in place."""
        folder = Path(str(path))
        with storage_errors(folder), self.fence.held():
            folder.mkdir(exist_ok=True)
            write_group(folder, {})
            fsync_path(folder.parent)

    def remove_others(self, folder: Place, pattern: str, keep: str) -> None:
        """Delete the files of a folder whose names begin with `pattern`, but for `keep`."""
        with self.fence.held():
            for path in Path(str(folder)).glob(f"{pattern}*"):
                if path.name != keep:
                    path.unlink(missing_ok=True)

    def close(self, *, is_complete: bool) -> None:
        """Do nothing."""


class BucketStream:
    """A stream in a bucket.

    Parameters
    ----------
    group
        Zarr group of the stream.
    log
        Folder on this machine for its write-ahead files and scratch; `None` for a scratch that nobody needs later.
    context
        Run and stream, for messages.
    """

    def __init__(self, group: ObjectPath, log: Path | None, context: str) -> None:
        self._group = group
        self._claim = Claim(group, context)
        self.attempt: int = self._claim.attempt
        self.log = log or Path(tempfile.mkdtemp(prefix="streamscalar-"))
        if log is None:
            weakref.finalize(self, shutil.rmtree, self.log, ignore_errors=True)
        with storage_errors(self.log):
            self.fence = Fence(self.log / "lock", context, self.attempt)
            sweep(self.log)
        if self.fence.before != self._claim.before:
            # Another machine has written since: what it may have done with the rows that follow is not known here.
            wal.remove_all(self.log)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes as this writer knows them: while it owns the stream, nobody else changes them."""
        return dict(self._claim.attributes)

    def publication(self) -> Publication:
        """Return a new publication."""
        return BucketPublication(self.log, self._group, self._claim)

    def make_array(self, array: StoredArray) -> None:
        """Put the metadata of an array in place."""
        self._claim.put(_objects(array.path) / "zarr.json", json_bytes(array.document))

    def make_group(self, path: Place) -> None:
        """Put a group without attributes in place."""
        (_objects(path) / "zarr.json").write_bytes(_EMPTY_GROUP)

    def remove_others(self, folder: Place, pattern: str, keep: str) -> None:
        """Delete the objects below a prefix whose names begin with `pattern`, but for `keep`."""
        prefix = _objects(folder)
        names = [name for name in prefix.names() if name.startswith(pattern) and name != keep]
        # After the look: whatever a newer attempt wrote is not among them, or this one is stopped here.
        self._claim.check()
        remove(prefix / name for name in names)

    def close(self, *, is_complete: bool) -> None:
        """Remove what is left on this machine of a complete stream."""
        if is_complete:
            shutil.rmtree(self.log, ignore_errors=True)


_EMPTY_GROUP = json_bytes({"zarr_format": 3, "node_type": "group", "attributes": {}})


def open_stream(group: Place, log: Path | None, context: str) -> Stream:
    """Claim a stream for a new writer; `log` as in `BucketStream`."""
    if isinstance(group, ObjectPath):
        return BucketStream(group, log, context)
    assert log is not None
    return FolderStream(group, log, context)


def spool_folder(store: ObjectPath, run: str, base: str | None) -> Path:
    """Return the folder on this machine for the log of a run in a bucket; only this user can enter it.

    Parameters
    ----------
    store
        The store.
    run
        Name of the run, and what tells it from a former one of that name.
    base
        Folder for the spools of all stores; `None` for the user's cache.

    Raises
    ------
    BadCall
        The folder belongs to another user, or cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(base).expanduser() if base else cache / "streamscalar" / "spool"
    folder = root / hashlib.sha256(str(store).encode()).hexdigest()[:16]
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise BadCall("store.spool", "must be yours", str(folder), "Choose another folder", Kind.CONFIG)
        folder.chmod(0o700)
        (folder / run).mkdir(exist_ok=True)
        # A row on the disk is of no use in a folder that is not.
        for made in (folder, root):
            fsync_path(made)
    return folder / run


def _objects(path: Place) -> ObjectPath:
    assert isinstance(path, ObjectPath)
    return path
