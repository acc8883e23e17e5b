"""The store of one experiment: its config, its provenance, and its runs."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from streamscalar.config import RunSetting
from streamscalar.errors import BadCall, Kind
from streamscalar.store.bucket_creation import create_run, create_store, list_run, listed_runs
from streamscalar.store.embedding_writer import EmbeddingWriter
from streamscalar.store.format.arrays import Codec
from streamscalar.store.media.files import (
    PARTIAL,
    fsync_path,
    json_bytes,
    partial_name,
    plain,
    read_group,
    storage_errors,
    write_durable,
    write_group,
)
from streamscalar.store.media.filesystem import require_usable
from streamscalar.store.media.folder_fence import exclusive
from streamscalar.store.media.objects import ObjectPath, Place, place
from streamscalar.store.reader import RunReader
from streamscalar.store.requests import read_requests, write_request
from streamscalar.store.schema import GROUPS, SCHEMA_VERSION, RunFiles, RunSpec, segment_rows
from streamscalar.store.streams import spool_folder
from streamscalar.store.wal import Fsync
from streamscalar.store.weights_writer import WeightsWriter
from streamscalar.types import Layout

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
"""What a run may be called: a name that is a folder and cannot lead anywhere else."""

OPEN_ENDED_ROWS = 128
"""Rows assumed of a run of unknown length when its segments are sized: 16 rows each where rows are small."""


class Store:
    """A store in a folder, or in a bucket of an object store; make one with `create` or `open`.

    Attributes
    ----------
    place : Path or ObjectPath
        Its folder, or its prefix in a bucket.
    config : dict
        The config of the experiment, as JSON.
    provenance : dict
        Versions, device, seeds: what the bits depend on.
    """

    def __init__(self, where: Place) -> None:
        self.place = where
        attributes = _attributes(where)
        self.config: dict[str, Any] = attributes["config"]
        self.provenance: dict[str, Any] = attributes["provenance"]

    @classmethod
    def create(
        cls, path: str | os.PathLike[str] | ObjectPath, config: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> Self:
        """Make a store in a folder or under a URL, or open the one that is there if its config is the same.

        Raises
        ------
        BadCall
            The place holds something else, another config, or cannot be written.
        """
        folder = place(path)
        if isinstance(folder, ObjectPath):
            create_store(folder, {"schema_version": SCHEMA_VERSION, "config": config, "provenance": provenance})
            store = cls(folder)
            _require_same(folder, store.config, plain(config))
            return store
        require_usable(folder)
        if (folder / "zarr.json").exists():
            store = cls.open(folder, writable=True)
            _require_same(folder, store.config, plain(config))
            return store
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadCall(
                str(folder),
                "is not a streamscalar store, and not empty",
                fix="Choose another folder with --store",
                kind=Kind.STORE_MISSING,
            )
        aside = partial_name(folder.absolute())
        with storage_errors(folder):
            try:
                (aside / "runs").mkdir(parents=True)
                write_group(aside / "runs", {})
                write_group(aside, {"schema_version": SCHEMA_VERSION, "config": config, "provenance": provenance})
                aside.replace(folder)
                fsync_path(folder.absolute().parent)
            except OSError as error:
                # Another process put its store in place between our look and our move.
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and (folder / "zarr.json").exists():
                    return cls.create(path, config, provenance)
                if not isinstance(error, NotADirectoryError):
                    raise
                raise BadCall(
                    str(folder), "cannot be made", str(error), "Choose another folder with --store", Kind.STORE_MISSING
                ) from None
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return cls(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | ObjectPath, writable: bool = False) -> Self:
        """Open a store that is there; one in a bucket shows at the first write whether it can be written.

        Raises
        ------
        BadCall
            The folder is no store, a newer version wrote it, or it cannot be written where it must be.
        """
        store = cls(place(path))
        if writable and isinstance(store.place, Path) and not os.access(store.place, os.W_OK):
            raise BadCall(
                str(path),
                "must be writable",
                "a read-only folder",
                "Choose another place with --store, or change its permissions",
                Kind.STORE_READ_ONLY,
            )
        return store

    @property
    def url(self) -> str:
        """What `open` takes on any machine that sees the store: the absolute folder, or the URL."""
        return str(self.place.resolve() if isinstance(self.place, Path) else self.place)

    @property
    def path(self) -> Path:
        """Its folder.

        Raises
        ------
        BadCall
            It lies in a bucket.
        """
        if isinstance(self.place, ObjectPath):
            raise BadCall(
                str(self.place),
                "must be a folder for this",
                "a URL",
                f"Copy the store to a folder, as with: aws s3 sync {self.place} FOLDER",
                Kind.CONFIG,
            )
        return self.place

    def run_ids(self) -> list[str]:
        """Return the names of the runs in the order of their creation."""
        if isinstance(self.place, ObjectPath):
            return listed_runs(self.place)
        runs = self.place / "runs"
        try:
            listed = (runs / "order").read_text("utf-8").split()
        except FileNotFoundError:
            listed = []
        there = {entry.name for entry in os.scandir(runs) if entry.is_dir() and not entry.name.endswith(PARTIAL)}
        return [run for run in listed if run in there] + sorted(there - set(listed))

    def add_run(
        self,
        run_id: str,
        *,
        setting: RunSetting,
        seed: int,
        layout: Layout,
        n_rows: int | None,
        metrics: Sequence[str],
        n_components: int,
        segment_rows: int | None,
        codec: Codec,
        parent: tuple[str, int] | None = None,
    ) -> None:
        """Make a run with all of its arrays, at once or not at all; a run that is there already stays.

        `n_rows` is `None` where nobody knows how many there will be; `parent` is the run and step of a fork.

        Raises
        ------
        BadCall
            The run is there and was defined otherwise, as by another device.
        """
        if not RUN_ID.fullmatch(run_id):
            must = "must be letters, digits and . _ + - (200 at most), the first a letter or digit"
            raise BadCall("run", must, repr(run_id), kind=Kind.CONFIG)
        spec = RunSpec(
            run_id,
            RunSetting.model_validate(plain(setting.to_json())),
            seed,
            layout,
            n_rows,
            tuple(metrics),
            n_components,
            segment_rows or _segment_rows(layout, n_rows),
            codec,
            parent,
        )
        if isinstance(self.place, ObjectPath):
            create_run(self.place, spec)
            _require_same_run(self.place / "runs" / run_id, spec)
            list_run(self.place, run_id)
            return
        runs = self.place / "runs"
        with storage_errors(runs), exclusive(runs / "lock"):
            if not (runs / run_id).exists():
                aside = partial_name(runs / run_id)
                try:
                    _build(aside, spec)
                    aside.replace(runs / run_id)
                    fsync_path(runs)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
            _require_same_run(runs / run_id, spec)
            listed = _listed(runs)
            if run_id not in listed:
                write_durable(runs / "order", "".join(f"{run}\n" for run in [*listed, run_id]).encode())

    def reader(self, run_id: str, *, hash_weights: bool = True) -> RunReader:
        """Return a reader of one run; `hash_weights` as in `LogReader`."""
        return RunReader(self._run(run_id), hash_weights=hash_weights)

    def weights_writer(self, run_id: str, fsync: Fsync = "row", spool: str | None = None) -> WeightsWriter:
        """Return a new writer of a run's weights; it locks out every older one.

        `spool` is where the write-ahead files of stores in buckets lie on this machine; by default the user's cache.
        """
        run = self._run(run_id)
        log = None
        if isinstance(self.place, ObjectPath) and isinstance(run, ObjectPath):
            log = spool_folder(self.place, f"{run_id}-{read_group(run)['id']}", spool)
        return WeightsWriter(run, fsync, log)

    def embedding_writer(self, run_id: str, fsync: Fsync = "row") -> EmbeddingWriter:
        """Return a new writer of a run's embedding; it locks out every older one."""
        return EmbeddingWriter(self._run(run_id), fsync)

    def set_status(self, run_id: str, **facts: Any) -> None:
        """Replace the small changing facts about a run."""
        path = self._run(run_id) / "status.json"
        data = json_bytes(plain(facts))
        if isinstance(path, ObjectPath):
            path.write_bytes(data)
            return
        with storage_errors(path):
            write_durable(path, data)

    def status(self, run_id: str) -> dict[str, Any]:
        """Return the small changing facts about a run; empty where nothing was said."""
        try:
            facts: dict[str, Any] = json.loads((self._run(run_id) / "status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return facts

    def request(self, document: Mapping[str, Any]) -> None:
        """Leave a wish for whoever runs the experiment, now or later."""
        write_request(self.place, document)

    def requests(self, known: set[str]) -> list[dict[str, Any]]:
        """Return the wishes whose names are not yet `known`, oldest first, and add their names to it."""
        return read_requests(self.place, known)

    def free_bytes(self) -> int:
        """Return the free bytes of the disk."""
        return shutil.disk_usage(self.path).free

    def _run(self, run_id: str) -> Place:
        path = self.place / "runs" / run_id
        # The name first: one with a slash or dots would lead out of the store.
        if not RUN_ID.fullmatch(run_id) or not (path / "zarr.json").exists():
            raise BadCall("run", f"must be a run of {self.place}", repr(run_id), kind=Kind.STORE_MISSING)
        return path


def _listed(runs: Path) -> list[str]:
    path = runs / "order"
    return path.read_text("utf-8").split() if path.exists() else []


def _segment_rows(layout: Layout, n_rows: int | None) -> int:
    itemsize = 4 if layout.dtype == "float32" else 8
    row_bytes = layout.n_replicas * layout.n_parameters * itemsize
    return segment_rows(OPEN_ENDED_ROWS if n_rows is None else n_rows, row_bytes)


def _attributes(path: Place) -> dict[str, Any]:
    try:
        attributes = read_group(path)
    except (OSError, ValueError, KeyError):
        attributes = {}
    version = attributes.get("schema_version")
    if not isinstance(version, int):
        raise BadCall(
            str(path), "is not a streamscalar store", fix="Make one with `streamscalar run`", kind=Kind.STORE_MISSING
        )
    if version > SCHEMA_VERSION:
        raise BadCall(
            str(path),
            f"must have schema version {SCHEMA_VERSION} or older",
            str(version),
            "Install a newer streamscalar",
            Kind.STORE_SCHEMA,
        )
    return attributes


def _build(path: Path, spec: RunSpec) -> None:
    for name in ("wal/weights", "wal/embedding", *GROUPS):
        (path / name).mkdir(parents=True, exist_ok=True)
    for name, attributes in spec.groups().items():
        write_group(path / name, attributes)
    for name, document in spec.arrays().items():
        (path / name).mkdir(parents=True)
        (path / name / "zarr.json").write_bytes(json_bytes(document))
    write_group(path, spec.to_json())


def _require_same(path: Place, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if stored != asked:
        raise BadCall(
            str(path),
            "holds another experiment",
            _first_difference(stored, asked),
            "Choose another folder with --store, or another experiment.name",
            Kind.STORE_OTHER_CONFIG,
        )


def _require_same_run(path: Place, spec: RunSpec) -> None:
    stored = RunFiles(path).spec()
    if stored != spec:
        raise BadCall(
            f"run {spec.run_id}",
            "must be continued as it was begun",
            _first_difference(stored.to_json(), plain(spec.to_json())),
            "Resume it on the device and library versions that began it, or take a new store",
            Kind.STORE_OTHER_CONFIG,
        )


def _first_difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    differences = [f"{key}: stored {old}, asked {new}" for key, old, new in _differences(stored, asked, "")]
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*stored, *asked}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
