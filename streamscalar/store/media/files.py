"""Durable small files, and errors of the operating system as errors of this package."""

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.store.media.objects import Place

PARTIAL = ".partial"
"""Suffix of files and folders that are not complete yet; after a crash, they are leftovers."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_serial = itertools.count()
_waits: ContextVar[bool] = ContextVar("waits", default=True)


@contextlib.contextmanager
def storage_errors(path: Place) -> Iterator[None]:
    """Translate a full disk into `WorkFailed` and a forbidden write into `BadCall`; let other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise WorkFailed(
                str(path),
                "the disk, the quota or the file size limit is exhausted; every acknowledged row is kept",
                got=str(error.strerror),
                fix="Free space, or set recording.retain, then resume",
                kind=Kind.STORE_FULL,
            ) from error
        if error.errno in _READ_ONLY:
            raise BadCall(
                str(path),
                "must be writable",
                got=str(error.strerror),
                fix="Choose another place with store.url, or change its permissions",
                kind=Kind.STORE_READ_ONLY,
            ) from error
        raise


@contextlib.contextmanager
def waiting(for_disk: bool) -> Iterator[None]:
    """Set whether this thread waits for the disk; without waiting, files survive a crash of the process only."""
    before = _waits.set(for_disk)
    try:
        yield
    finally:
        _waits.reset(before)


def fsync_path(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk; nothing inside `waiting(False)`."""
    if not _waits.get():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_name(path: Path) -> Path:
    """Return a name in the folder of `path`, unique among the running processes, that `sweep` recognises."""
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_serial)}{PARTIAL}")


def write_durable(path: Path, data: bytes) -> None:
    """Replace a file atomically: at any time, and after a crash, readers find the old content or the new."""
    aside = partial_name(path)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            if _waits.get():
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_group(path: Path, attributes: Mapping[str, Any]) -> None:
    """Write the `zarr.json` of a Zarr v3 group with these attributes."""
    write_durable(path / "zarr.json", group_bytes(attributes))


def group_bytes(attributes: Mapping[str, Any]) -> bytes:
    """Return the `zarr.json` of a Zarr v3 group with these attributes."""
    return json_bytes({"zarr_format": 3, "node_type": "group", "attributes": plain(attributes)})


def read_group(path: Place) -> dict[str, Any]:
    """Return the attributes of a Zarr v3 group."""
    attributes: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())["attributes"]
    return attributes


def sweep(directory: Path) -> None:
    """Remove everything incomplete below `directory`, which a crash has left."""
    for leftover in list(directory.rglob(f"*{PARTIAL}")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Return `value` in types of JSON: arrays as lists, non-finite floats as the strings "nan", "inf", "-inf".

    Members of an `Enum` of text or numbers become their value: pickled as they are, they would import the package of
    their class in the process that reads them.

    Examples
    --------
    >>> import enum
    >>> Rate = enum.StrEnum("Rate", ["LINEAR"])
    >>> plain({"rate": Rate.LINEAR, "n": np.arange(2), "loss": float("nan")})
    {'rate': 'linear', 'n': [0, 1], 'loss': 'nan'}
    """
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return str(value)
    except Exception:  # noqa: BLE001  (an object of the user)
        return f"<{type(value).__name__}>"


def json_bytes(document: Any) -> bytes:
    """Return the canonical form of a JSON document: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
