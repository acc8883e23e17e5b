"""The checks of `doctor` of a store, or of the place where one shall be. They leave nothing behind."""

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from streamscalar.doctor.checks import TIMEOUT_S, Finding, Probe, Verdict, answered
from streamscalar.errors import BadCall, Kind
from streamscalar.store import Store, medium_of, place
from streamscalar.store.media.files import PARTIAL
from streamscalar.store.media.filesystem import filesystem_of, locks_work

N_WRITES = 100
WRITE_BYTES = 4096
SLOW_S = 0.02
"""Median wait for the disk at which it, not the training, sets the pace of small runs."""
LEAST_FREE_BYTES = 100 * 2**20
LOW_FREE_BYTES = 2**30
OLD_S = 3600.0
"""Age at which something unfinished belongs to nobody who still works on it."""
SHOWN = 3


def store_checks(where: str) -> dict[str, Probe]:
    """Return the checks of a store by folder or URL; of a folder that is not there, those of the place it would take.

    Raises
    ------
    BadCall
        It is a file.
    """
    if medium_of(place(where)).is_remote:
        return {"store": lambda: _store(where), "runs": lambda: _runs(where)}
    path = Path(where).absolute()
    # What lies in a dead mount does not even say what it is.
    found = answered(lambda: nearest(path))
    if found is None:
        fix = "Look for a mount that hangs: findmnt, dmesg"
        hangs = Finding(Verdict.FAIL, f"{path} does not answer within {TIMEOUT_S:g} s", fix)
        return {"place": lambda: hangs}
    if not found.is_dir():
        raise BadCall("STORE", "must be a folder or a URL", f"a file, {found}", kind=Kind.CONFIG)
    checks: dict[str, Probe] = {
        "file system": lambda: _file_system(found),
        "free space": lambda: _free_space(found),
        "locks": lambda: _locks(found),
        "disk": lambda: _disk(found),
    }
    if found == path:
        checks |= {"store": lambda: _store(where), "leftovers": lambda: _leftovers(path), "runs": lambda: _runs(where)}
    else:
        nothing = Finding(Verdict.OK, f"nothing there yet; checked {found}, where it would be made")
        checks["store"] = lambda: nothing
    return checks


def nearest(path: Path) -> Path:
    """Return the path itself, or the nearest one above it that is there."""
    return next(entry for entry in (path, *path.parents) if entry.exists())


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """Make a folder there for the while of the block; its name is one that a store knows as rubbish."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", suffix=PARTIAL, dir=place) as folder:
        yield Path(folder)


def _file_system(place: Path) -> Finding:
    found = filesystem_of(place)
    kind = found.kind or "an unknown file system"
    if found.is_refused:
        return Finding(
            Verdict.FAIL,
            f"{kind}: {found.promise}",
            "Use a bucket directly (store.url=s3://bucket/prefix), or a local or network file system",
        )
    if found.kind in ("tmpfs", "ramfs"):
        return Finding(Verdict.WARN, f"{kind}: gone with the machine", "Keep stores on a disk")
    if found.promise:
        return Finding(Verdict.WARN, f"{kind}: {found.promise}", "See deploy/faults.md for what that means to a run")
    return Finding(Verdict.OK, f"{kind}, {'shared' if found.is_shared else 'local'}")


def _free_space(place: Path) -> Finding:
    space = os.statvfs(place)
    free = space.f_bavail * space.f_frsize
    found = f"{free / 2**30:.3g} GiB free of {space.f_blocks * space.f_frsize / 2**30:.3g}"
    if free < LEAST_FREE_BYTES:
        return Finding(Verdict.FAIL, found, "Free space, or choose another disk")
    if free < LOW_FREE_BYTES:
        return Finding(Verdict.WARN, found, "Free space, set recording.retain, or choose another disk")
    if space.f_files and not space.f_favail:
        return Finding(Verdict.FAIL, f"{found}, and no inode left", "Delete small files, or choose another disk")
    return Finding(Verdict.OK, found)


def _locks(place: Path) -> Finding:
    if locks_work(place):
        return Finding(Verdict.OK, "a lock here keeps another process out")
    fix = "Mount it with locks, or choose another place: without them two trainers may write one run"
    return Finding(Verdict.FAIL, "a lock here does not keep another process out, or nothing can be written", fix)


def _disk(place: Path) -> Finding:
    """Time what every recorded row waits for: a small write that has reached the disk."""
    waits = []
    with scratch(place) as folder, (folder / "row").open("wb", buffering=0) as file:
        for _ in range(N_WRITES):
            file.write(bytes(WRITE_BYTES))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            waits.append(time.perf_counter() - began)
    waits.sort()
    median, p99 = waits[len(waits) // 2], waits[math.ceil(0.99 * len(waits)) - 1]
    found = f"a write of 4 KiB reaches the disk in {1e3 * median:.3g} ms (p50), {1e3 * p99:.3g} ms (p99)"
    if median > SLOW_S:
        return Finding(
            Verdict.WARN, found, "Choose a faster disk, or store.fsync=segment where a power cut may take rows"
        )
    return Finding(Verdict.OK, found)


def _store(where: str) -> Finding:
    root = place(where)
    medium = medium_of(root)
    if not medium.is_remote and medium.is_empty(root):
        return Finding(Verdict.OK, "an empty folder, ready for a store")
    if not (root / "zarr.json").exists():
        stores = [path.name for path in medium.stores_below(root)]
        if stores:
            names = ", ".join(stores[:SHOWN]) + (", ..." if len(stores) > SHOWN else "")
            return Finding(Verdict.SKIPPED, f"a folder of {len(stores)} stores: {names}", "Name one of them")
    store = Store.open(where, writable=True)
    made_by = store.provenance.get("streamscalar", "an unknown version")
    return Finding(Verdict.OK, f"a store that this version reads and can write, made by streamscalar {made_by}")


def _leftovers(path: Path) -> Finding:
    folders = [path, path.parent, path / "runs"]
    now = time.time()
    old = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            own = f".{path.name}." if folder == path.parent else "."
            for entry in entries:
                is_unfinished = entry.name.startswith(own) and entry.name.endswith(PARTIAL)
                if is_unfinished and now - entry.stat().st_mtime > OLD_S:
                    old.append(Path(entry.path))
    if old:
        names = " ".join(str(found) for found in old[:SHOWN]) + (" ..." if len(old) > SHOWN else "")
        return Finding(
            Verdict.WARN,
            f"{len(old)} leftovers of processes that were killed: {names}",
            "Delete them once nobody makes a store or a run here; no reader looks at them",
        )
    return Finding(Verdict.OK, "nothing unfinished")


def _runs(where: str) -> Finding:
    try:
        store = Store.open(where)
    except BadCall:
        return Finding(Verdict.SKIPPED, "no store")
    phases: dict[str, int] = {}
    failed: list[tuple[str, str]] = []
    for run_id in store.run_ids():
        facts = store.status(run_id)
        phase = str(facts.get("phase") or "not concluded")
        phases[phase] = phases.get(phase, 0) + 1
        if phase == "failed":
            failed.append((run_id, str(facts.get("reason", ""))))
    found = f"{sum(phases.values())} runs: " + ", ".join(f"{n} {phase}" for phase, n in sorted(phases.items()))
    if failed:
        reasons = "; ".join(f"{run_id}: {reason}" for run_id, reason in failed[:SHOWN])
        more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        return Finding(
            Verdict.WARN, f"{found} ({reasons}{more})", f"Mend what they name, then: streamscalar resume {where}"
        )
    return Finding(Verdict.OK, found if phases else "no runs yet")
