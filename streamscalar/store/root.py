"""The store of one experiment: its config, its provenance, and its runs."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from streamscalar.config import RunSetting
from streamscalar.errors import BadCall, Kind
from streamscalar.store.embedding_writer import EmbeddingWriter
from streamscalar.store.format.arrays import Codec, stored_document
from streamscalar.store.media.files import json_bytes, plain, read_group, storage_errors
from streamscalar.store.media.medium import Medium, RunParts
from streamscalar.store.media.objects import ObjectPath, Place
from streamscalar.store.media.opening import medium_of, place
from streamscalar.store.reader import RunReader
from streamscalar.store.requests import read_requests, write_request
from streamscalar.store.schema import LOGS, SCHEMA_VERSION, RunFiles, RunSpec, segment_rows
from streamscalar.store.wal import Fsync
from streamscalar.store.weights_writer import WeightsWriter
from streamscalar.types import RUN_ID_PATTERN, Layout

RUN_ID = re.compile(RUN_ID_PATTERN)
"""Names that a run may have: each is a folder name that cannot lead out of the store."""

OPEN_ENDED_ROWS = 128
"""Rows assumed of a run of unknown length when its segments are sized: 16 rows each where rows are small."""


class Store:
    """A store in a folder, or in a bucket of an object store; make one with `create` or `open`.

    Attributes
    ----------
    place : Path or ObjectPath
        Its folder, or its prefix in a bucket.
    medium : Medium
        The medium that it lies on.
    config : dict
        The config of the experiment, as JSON.
    provenance : dict
        Versions, device, seeds: everything that the bits depend on.
    """

    def __init__(self, where: Place) -> None:
        self.place = where
        self.medium: Medium[Any] = medium_of(where)
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
            The place holds something else or another config, or cannot be written.
        """
        where = place(path)
        attributes = {"schema_version": SCHEMA_VERSION, "config": config, "provenance": provenance}
        medium_of(where).create_store(where, attributes)
        store = cls.open(where, writable=True)
        _require_same(where, store.config, plain(config))
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str] | ObjectPath, writable: bool = False) -> Self:
        """Open an existing store; whether one in a bucket can be written, only the first write shows.

        Raises
        ------
        BadCall
            There is no store, a newer version wrote it, or it must be writable and is not.
        """
        store = cls(place(path))
        if writable:
            store.medium.require_writable(store.place)
        return store

    @property
    def url(self) -> str:
        """Argument of `open` on any machine that can reach the store: the absolute folder, or the URL."""
        return self.medium.url(self.place)

    @property
    def path(self) -> Path:
        """Its folder.

        Raises
        ------
        BadCall
            It lies in a bucket.
        """
        return self.medium.folder(self.place)

    def run_ids(self) -> list[str]:
        """Return the names of the runs in the order of their creation."""
        return self.medium.run_ids(self.place)

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
        """Make a run with all of its arrays, or nothing; an existing run stays as it is.

        `n_rows` is `None` where the number of rows is unknown; `parent` is the run and step of a fork.

        Raises
        ------
        BadCall
            The run exists with another definition, such as another device.
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
        run = self.place / "runs" / run_id
        arrays = {name: stored_document(document, self.medium) for name, document in spec.arrays().items()}
        self.medium.create_run(run, RunParts(spec.to_json(), spec.groups(), arrays, LOGS))
        _require_same_run(run, spec)
        self.medium.list_run(self.place, run_id)

    def reader(self, run_id: str, *, hash_weights: bool = True) -> RunReader:
        """Return a reader of one run; `hash_weights` as in `LogReader`."""
        return RunReader(self._run(run_id), hash_weights=hash_weights)

    def weights_writer(self, run_id: str, fsync: Fsync = "row", spool: str | None = None) -> WeightsWriter:
        """Return a new writer of a run's weights; it locks out every older one.

        `spool` is the folder on this machine for the write-ahead files of stores in buckets; by default, one in the
        user's cache.
        """
        run = self._run(run_id)
        return WeightsWriter(run, fsync, self.medium.spool(self.place, run_id, spool))

    def embedding_writer(self, run_id: str, fsync: Fsync = "row") -> EmbeddingWriter:
        """Return a new writer of a run's embedding; it locks out every older one."""
        return EmbeddingWriter(self._run(run_id), fsync)

    def set_status(self, run_id: str, **facts: Any) -> None:
        """Replace the small changing facts about a run."""
        path = self._run(run_id) / "status.json"
        with storage_errors(path):
            self.medium.write(path, json_bytes(plain(facts)))

    def status(self, run_id: str) -> dict[str, Any]:
        """Return the small changing facts about a run; empty where there are none."""
        return RunFiles(self._run(run_id)).status()

    def request(self, document: Mapping[str, Any]) -> None:
        """Write a request to the executor of the experiment, which reads it now or when it resumes."""
        write_request(self.place, self.medium, document)

    def requests(self, known: set[str]) -> list[dict[str, Any]]:
        """Return the requests whose names are not yet `known`, oldest first, and add their names to it."""
        return read_requests(self.place, self.medium, known)

    def _run(self, run_id: str) -> Place:
        path = self.place / "runs" / run_id
        # The name first: one with a slash or dots would lead out of the store.
        if not RUN_ID.fullmatch(run_id) or not (path / "zarr.json").exists():
            raise BadCall("run", f"must be a run of {self.place}", repr(run_id), kind=Kind.STORE_MISSING)
        return path


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


def _require_same(path: Place, stored: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    if stored != requested:
        raise BadCall(
            str(path),
            "holds another experiment",
            _first_difference(stored, requested),
            "Choose another folder with --store, or another experiment.name",
            Kind.STORE_OTHER_CONFIG,
        )


def _require_same_run(path: Place, spec: RunSpec) -> None:
    stored = RunFiles(path).spec()
    if stored != spec:
        raise BadCall(
            f"run {spec.run_id}",
            "must be continued as it was started",
            _first_difference(stored.to_json(), plain(spec.to_json())),
            "Resume it on the device and library versions that started it, or use a new store",
            Kind.STORE_OTHER_CONFIG,
        )


def _first_difference(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    differences = [f"{key}: stored {old}, requested {new}" for key, old, new in _differences(stored, requested, "")]
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more


def _differences(stored: Mapping[str, Any], given: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*stored, *given}):
        old, new = stored.get(key), given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
