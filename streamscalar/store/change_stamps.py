"""What tells that a store grew: a few small facts of a run, cheap enough to be asked for again and again.

In a folder they are times and sizes of files. In a bucket they are versions of objects, a request each, and every
request is waited for and billed: so ask side by side, and not every second.
"""

import os
from collections.abc import Hashable
from pathlib import Path

from streamscalar.store.media.files import read_group
from streamscalar.store.media.objects import ObjectPath, Place
from streamscalar.store.schema import RunFiles
from streamscalar.store.wal import LOG_SUFFIX


def stores_below(root: Place) -> list[Place]:
    """Return the stores right below a folder or a prefix, by name."""
    if isinstance(root, ObjectPath):
        return [root / name for name in root.folders() if (root / name / "zarr.json").exists()]
    return [path.parent for path in sorted(root.glob("*/zarr.json"))]


def stamp(path: Place) -> tuple[Hashable, float] | None:
    """Return what tells one content of a file from the next, and when it was written, in seconds since 1970."""
    if isinstance(path, ObjectPath):
        found = path.stamp()
        return None if found is None else (tuple(found[0].values()), found[1])
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return (facts.st_mtime_ns, facts.st_ino), facts.st_mtime


def list_stamp(store: Place) -> Hashable:
    """Return what changes when a run is made.

    Raises
    ------
    FileNotFoundError
        The store is gone.
    """
    order = stamp(store / "runs" / "order")
    # A folder lists its runs by what lies in it; a bucket has no folders, and the list alone.
    runs = stamp(store / "runs") if isinstance(store, Path) else stamp(store / "zarr.json")
    if runs is None:
        raise FileNotFoundError(str(store))
    return order, runs


def run_stamp(run: Place, *, is_complete: bool) -> tuple[Hashable, float]:
    """Return what changes whenever a row, a basis or the state of a run does, and when it last did.

    Raises
    ------
    FileNotFoundError
        The run is gone.
    """
    files = RunFiles(run)
    stamps = [stamp(part) for part in (files.weights / "zarr.json", files.embedding / "zarr.json", run / "status.json")]
    if stamps[0] is None:
        raise FileNotFoundError(str(run))
    found: list[Hashable] = [None if one is None else one[0] for one in stamps]
    times = [one[1] for one in stamps if one is not None]
    if isinstance(run, Path) and not is_complete:
        with os.scandir(RunFiles(run).weights_log) as entries:
            for entry in entries:
                if entry.name.endswith(LOG_SUFFIX):
                    facts = entry.stat()
                    found.append((entry.name, facts.st_size))
                    times.append(facts.st_mtime)
    return tuple(found), max(times)


def segment_written_at(run: Place, segment: int) -> float | None:
    """Return when a segment of the weights was sealed, in seconds since 1970; `None` where it is not."""
    found = stamp(RunFiles(run).weights / "steps" / f"c.{segment}")
    return None if found is None else found[1]


def n_attempts(run: Place) -> int:
    """Return how many writers of the weights there have been."""
    files = RunFiles(run)
    if isinstance(run, ObjectPath):
        return int(read_group(files.weights)["attempt"])
    try:
        return int((files.weights_log / "lock").read_bytes() or 0)
    except FileNotFoundError:
        return 0
