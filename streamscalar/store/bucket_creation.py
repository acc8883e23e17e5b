"""Stores and runs as they are made in a bucket, where nothing can be renamed into place: the last object makes them."""

import contextlib
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.store.format.arrays import sharded
from streamscalar.store.media.files import group_bytes, json_bytes
from streamscalar.store.media.objects import N_PARALLEL, Changed, ObjectPath
from streamscalar.store.schema import RunSpec

_ATTEMPTS = 50


def create_store(root: ObjectPath, attributes: Mapping[str, Any]) -> None:
    """Make a store, with these attributes of its group, where there is none.

    Raises
    ------
    BadCall
        The prefix holds something else; or there is no such bucket, or it must not be written.
    """
    # Read, not looked for: an answer without content does not tell why it is refused.
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
        # Another process made its store meanwhile; whether it is the same one, the caller sees.
        return
    (root / "runs" / "zarr.json").write_bytes(group_bytes({}))


def create_run(root: ObjectPath, spec: RunSpec) -> None:
    """Make a run with all of its arrays where there is none; its own group, last, makes it.

    Whatever is there stays: the streams of a run that another process has just made may have rows already.
    """
    path = root / "runs" / spec.run_id
    if (path / "zarr.json").exists():
        return
    parts = {name: group_bytes(attributes) for name, attributes in spec.groups().items()}
    parts |= {name: json_bytes(sharded(document)) for name, document in spec.arrays().items()}
    with ThreadPoolExecutor(N_PARALLEL) as pool:
        list(pool.map(lambda part: _create(path / part[0] / "zarr.json", part[1]), parts.items()))
    # The `id` tells this run from one of the same name in a store that was deleted: its rows may still be spooled.
    _create(path / "zarr.json", group_bytes({**spec.to_json(), "id": secrets.token_hex(8)}))


def list_run(root: ObjectPath, run_id: str) -> None:
    """Add a run to the end of the order of runs, if it is not in it."""
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


def listed_runs(root: ObjectPath) -> list[str]:
    """Return the names of the runs in the order of their creation; one request."""
    try:
        return (root / "runs" / "order").read_bytes().decode().split()
    except FileNotFoundError:
        return []


def _create(path: ObjectPath, data: bytes) -> None:
    try:
        path.create(data)
    except FileExistsError:
        return
