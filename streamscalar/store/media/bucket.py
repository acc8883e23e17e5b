"""Stores in a bucket: objects are put under conditions, since a bucket has no renames and no locks.

Runs and stores become visible with their last object. Write-ahead files and the scratch lie on the writer's own disk
(the spool): other processes see a row when its segment is committed, and a writer that restarts on the same machine
recovers the rows of its spool.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zarr.storage import ObjectStore, StorePath

from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.store.media.bucket_fence import BucketFence
from streamscalar.store.media.files import (
    fsync_path,
    group_bytes,
    json_bytes,
    read_group,
    storage_errors,
    sweep,
)
from streamscalar.store.media.folder_fence import FolderFence
from streamscalar.store.media.medium import Medium, RunParts, Stream
from streamscalar.store.media.objects import N_PARALLEL, Changed, ObjectPath, fetch, remove
from streamscalar.store.media.publication import GrowingArray, Publication

_ATTEMPTS = 50


class Bucket(Medium[ObjectPath]):
    """The medium of stores in an object store."""

    is_remote = True
    marks_files = True

    def url(self, place: ObjectPath) -> str:
        """Return the URL."""
        return str(place)

    def resolved(self, place: ObjectPath) -> ObjectPath:
        """Return `place`, which is absolute."""
        return place

    def folder(self, place: ObjectPath) -> Path:
        """Raise `BadCall`."""
        raise BadCall(
            str(place),
            "must be a folder for this",
            "a URL",
            f"Copy the store to a folder, as with: aws s3 sync {place} FOLDER",
            Kind.CONFIG,
        )

    def is_there(self, place: ObjectPath) -> bool:
        """Return whether it is a whole bucket, or a prefix of objects."""
        # Listed even for a whole bucket: the error of a listing tells why access is denied.
        return not place.is_empty() or not place.key

    def is_empty(self, place: ObjectPath) -> bool:
        """Return whether no object has this prefix."""
        return place.is_empty()

    def free_bytes(self, place: ObjectPath) -> int | None:
        """Return `None`."""
        del place
        return None

    def warning(self, place: ObjectPath) -> str:
        """Return an empty text."""
        del place
        return ""

    def zarr_path(self, place: ObjectPath) -> StorePath:
        """Return a Zarr store over `obstore`."""
        return StorePath(ObjectStore(place.client), place.key)

    def make_folder(self, place: ObjectPath) -> None:
        """Do nothing: a bucket has no folders."""

    def write(self, place: ObjectPath, data: bytes) -> None:
        """Put an object unconditionally."""
        place.write_bytes(data)

    def create(self, place: ObjectPath, data: bytes) -> None:
        """Put an object that must be new."""
        place.create(data)

    def read_all(self, places: Iterable[ObjectPath]) -> list[bytes]:
        """Read objects concurrently."""
        return fetch(places)

    def remove(self, places: Iterable[ObjectPath]) -> None:
        """Delete objects in batches."""
        remove(places)

    def names(self, folder: ObjectPath) -> list[str]:
        """List the objects directly below a prefix."""
        return folder.names()

    def stamp(self, place: ObjectPath) -> tuple[Hashable, float] | None:
        """Return version and time of an object; one request."""
        found = place.stamp()
        return None if found is None else (tuple(found[0].values()), found[1])

    def entries_stamp(self, folder: ObjectPath) -> object:
        """Return a new object: a prefix has no version, and listing it is one request as well."""
        del folder
        return object()

    def create_store(self, root: ObjectPath, attributes: Mapping[str, Any]) -> None:
        """Put the group of the store, then that of its runs."""
        # A read, since the error of an existence check does not tell why access is denied.
        with contextlib.suppress(FileNotFoundError):
            (root / "zarr.json").read_bytes()
            return
        if not root.is_empty() and not (root / "zarr.json").exists():
            raise BadCall(
                str(root),
                "is not a streamscalar store, and not empty",
                fix="Choose another prefix with --store",
                kind=Kind.STORE_MISSING,
            )
        try:
            (root / "zarr.json").create(group_bytes(attributes))
        except FileExistsError:
            # Another process made its store meanwhile; the caller compares what it holds.
            return
        (root / "runs" / "zarr.json").write_bytes(group_bytes({}))

    def require_writable(self, root: ObjectPath) -> None:
        """Do nothing: only a write shows whether writes are allowed."""

    def stores_below(self, root: ObjectPath) -> list[ObjectPath]:
        """Return the prefixes directly below that hold a store."""
        return [root / name for name in root.folders() if (root / name / "zarr.json").exists()]

    def create_run(self, run: ObjectPath, parts: RunParts) -> None:
        """Put every part that is missing, and the run's own group last.

        An object that is there stays: another process may have made the run just now, and written rows to it.
        """
        if (run / "zarr.json").exists():
            return
        documents = {name: group_bytes(attributes) for name, attributes in parts.groups.items()}
        documents |= {name: json_bytes(document) for name, document in parts.arrays.items()}
        with ThreadPoolExecutor(N_PARALLEL) as pool:
            list(pool.map(lambda part: _create(run / part[0] / "zarr.json", part[1]), documents.items()))
        # The `id` distinguishes this run from one of the same name in a deleted store, whose rows may still be spooled.
        _create(run / "zarr.json", group_bytes({**parts.definition, "id": secrets.token_hex(8)}))

    def list_run(self, root: ObjectPath, run_id: str) -> None:
        """Replace the list of runs, under the condition that nothing else has."""
        path = root / "runs" / "order"
        for _ in range(_ATTEMPTS):
            try:
                data, version = path.read()
            except FileNotFoundError:
                data, version = b"", None
            listed = data.decode().split()
            if run_id in listed:
                return
            wanted = "".join(f"{run}\n" for run in [*listed, run_id]).encode()
            try:
                if version is None:
                    path.create(wanted)
                else:
                    path.replace(wanted, version)
            except (Changed, FileExistsError):
                continue
            return
        raise WorkFailed(str(path), "keeps changing while a run is added")

    def run_ids(self, root: ObjectPath) -> list[str]:
        """Return the listed runs; one request."""
        try:
            return (root / "runs" / "order").read_bytes().decode().split()
        except FileNotFoundError:
            return []

    def runs_stamp(self, root: ObjectPath) -> Hashable:
        """Return the stamps of the list and of the store; two requests."""
        store = self.stamp(root / "zarr.json")
        return None if store is None else (self.stamp(root / "runs" / "order"), store)

    def open_stream(self, group: ObjectPath, log: ObjectPath, spool: Path | None, context: str) -> "BucketStream":
        """Claim a stream by replacing its commit point."""
        del log
        return BucketStream(group, spool, context)

    def spool(self, root: ObjectPath, run_id: str, base: str | None) -> Path:
        """Return a folder on this machine that only this user can enter.

        Raises
        ------
        BadCall
            The folder belongs to another user, or cannot be made.
        """
        run = f"{run_id}-{read_group(root / 'runs' / run_id)['id']}"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        spools = Path(base).expanduser() if base else cache / "streamscalar" / "spool"
        folder = spools / hashlib.sha256(str(root).encode()).hexdigest()[:16]
        with storage_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise BadCall("store.spool", "must be yours", str(folder), "Choose another folder", Kind.CONFIG)
            folder.chmod(0o700)
            (folder / run).mkdir(exist_ok=True)
            # A durable row is lost with a folder whose own entry is not durable.
            for made in (folder, spools):
                fsync_path(made)
        return folder / run

    def readable_log(self, log: ObjectPath) -> None:
        """Return `None`: write-ahead files lie on the writer's machine."""

    def log_stamps(self, log: ObjectPath, suffixes: tuple[str, ...]) -> list[tuple[Hashable, float]]:
        """Return nothing: a log changes only where its writer is."""
        del log, suffixes
        return []

    def n_attempts(self, group: ObjectPath, log: ObjectPath) -> int:
        """Return the newest attempt, which the attributes of the group hold."""
        del log
        return int(read_group(group)["attempt"])


class BucketStream(Stream[ObjectPath]):
    """A stream in a bucket.

    Parameters
    ----------
    group
        Zarr group of the stream.
    spool
        Folder on this machine for its write-ahead files and scratch; `None` for a temporary one.
    context
        Run and stream, for messages.
    """

    def __init__(self, group: ObjectPath, spool: Path | None, context: str) -> None:
        self._group = group
        self._fence = BucketFence(group, context)
        self.attempt = self._fence.attempt
        self.log = spool or Path(tempfile.mkdtemp(prefix="streamscalar-"))
        if spool is None:
            weakref.finalize(self, shutil.rmtree, self.log, ignore_errors=True)
        lock = self.log / "lock"
        with storage_errors(self.log):
            self.fence = FolderFence(lock, context, self.attempt)
            sweep(self.log)
            if self.fence.before != self._fence.before:
                # A writer on another machine came between: the rows of this spool may not be the stored ones.
                for path in self.log.iterdir():
                    if path != lock:
                        path.unlink(missing_ok=True)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes as this writer last wrote them: while it owns the stream, no other writer does."""
        return dict(self._fence.attributes)

    def publication(self) -> "BucketPublication":
        """Return a new publication."""
        return BucketPublication(self.log, self._fence)

    def make_array(self, array: GrowingArray) -> None:
        """Put the metadata of an array."""
        self._fence.put(array.path / "zarr.json", json_bytes(array.document))

    def make_group(self, path: ObjectPath, arrays: Iterable[str]) -> None:
        """Put the group; arrays need no folder."""
        del arrays
        (path / "zarr.json").write_bytes(json_bytes({"zarr_format": 3, "node_type": "group", "attributes": {}}))

    def own_name(self, name: str) -> str:
        """Return `name` with the attempt: no lock keeps an older writer from overwriting a shared name."""
        return f"{name}-{self.attempt}"

    def remove_others(self, folder: ObjectPath, prefix: str, keep: str) -> None:
        """Delete the objects whose names begin with `prefix`, except `keep`."""
        names = [name for name in folder.names() if name.startswith(prefix) and name != keep]
        # After the listing: either it holds no object of a newer attempt, or this check raises.
        self._fence.check()
        remove(folder / name for name in names)

    def close(self, *, is_complete: bool) -> None:
        """Remove the spool of a complete stream."""
        if is_complete:
            shutil.rmtree(self.log, ignore_errors=True)


class BucketPublication(Publication):
    """A publication in a bucket: one request for each file, concurrently, and one for the commit.

    The shapes of arrays follow only when a stream ends; otherwise they would cost one request per array and segment.
    """

    def __init__(self, log: Path, fence: BucketFence) -> None:
        super().__init__(log, log, fence.attempt)
        self._fence = fence
        self._ended: list[tuple[GrowingArray, int]] = []

    def end(self, array: GrowingArray, n_rows: int) -> None:
        """Write the shape of an array with this publication."""
        self._ended.append((array, n_rows))

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Put every file, then the shapes of arrays that end, then the attributes."""
        with storage_errors(self._named), ThreadPoolExecutor(N_PARALLEL) as pool:
            # `list` waits for all of them and raises the first error.
            list(pool.map(lambda move: self._upload(*move), self._moves))
            list(pool.map(lambda ended: self._write_shape(*ended), self._ended))
        self._fence.commit(attributes)

    def _upload(self, aside: Path, path: ObjectPath, array: GrowingArray | None) -> None:
        data = aside.read_bytes()
        self._fence.put(path, data if array is None else array.marked(data, self._fence.mark))

    def _write_shape(self, array: GrowingArray, n_rows: int) -> None:
        document = {**array.with_shape(n_rows), "attributes": {"writer": self._fence.mark.hex()}}
        self._fence.put(array.path / "zarr.json", json_bytes(document))

    def _check(self) -> None:
        self._fence.check()


def _create(path: ObjectPath, data: bytes) -> None:
    with contextlib.suppress(FileExistsError):
        path.create(data)
