"""Stamps that change when a store grows, cheap enough to be polled.

In a folder they are times and sizes of files. In a bucket they are versions of objects, and each costs a request, which
takes tens of milliseconds and is billed: poll less often there, and concurrently.
"""

from collections.abc import Hashable

from streamscalar.store.logged.log import VALUES_SUFFIX
from streamscalar.store.media.objects import Place
from streamscalar.store.media.opening import medium_of
from streamscalar.store.schema import RunFiles
from streamscalar.store.wal import LOG_SUFFIX


def list_stamp(store: Place) -> Hashable:
    """Return what changes when a run is made.

    Raises
    ------
    FileNotFoundError
        The store is gone.
    """
    found = medium_of(store).runs_stamp(store)
    if found is None:
        raise FileNotFoundError(str(store))
    return found


def run_stamp(run: Place, *, is_complete: bool) -> tuple[Hashable, float]:
    """Return what changes with a row, a logged value, a basis or the state of a run, and the time of the last change.

    Raises
    ------
    FileNotFoundError
        The run is gone.
    """
    files: RunFiles[Place] = RunFiles(run)
    medium = files.medium
    parts = (files.weights / "zarr.json", files.embedding / "zarr.json", run / "status.json")
    stamps = [medium.stamp(part) for part in parts]
    if stamps[0] is None:
        raise FileNotFoundError(str(run))
    if not is_complete:
        stamps += medium.log_stamps(files.weights_log, (LOG_SUFFIX, VALUES_SUFFIX))
    return tuple(None if one is None else one[0] for one in stamps), max(one[1] for one in stamps if one is not None)


def segment_written_at(run: Place, segment: int) -> float | None:
    """Return when a segment of the weights was sealed, in seconds since 1970; `None` where it is not."""
    files: RunFiles[Place] = RunFiles(run)
    found = files.medium.stamp(files.weights / "steps" / f"c.{segment}")
    return None if found is None else found[1]


def n_attempts(run: Place) -> int:
    """Return the number of writers that the weights have had."""
    files: RunFiles[Place] = RunFiles(run)
    return files.medium.n_attempts(files.weights, files.weights_log)
