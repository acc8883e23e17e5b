"""Checks of `doctor` for a store, or for the folder where one is to be created. They leave no files behind."""

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from streamscalar.doctor.checks import TIMEOUT_S, CheckFunction, CheckResult, CheckStatus, answered
from streamscalar.errors import BadCall, Kind
from streamscalar.store import Store, medium_of, place
from streamscalar.store.media.files import PARTIAL
from streamscalar.store.media.filesystem import filesystem_of, locks_work

N_WRITES = 100
WRITE_BYTES = 4096
SLOW_S = 0.02
"""Median time of a write from which the disk, not the training, limits the speed of small runs."""
LEAST_FREE_BYTES = 100 * 2**20
LOW_FREE_BYTES = 2**30
OLD_S = 3600.0
"""Age from which an unfinished file counts as left behind by a killed process."""
SHOWN = 3


def store_checks(where: str) -> dict[str, CheckFunction]:
    """Return the checks of a store in a folder or at a URL; for a missing folder, those of its nearest parent.

    Raises
    ------
    BadCall
        `where` is a file.
    """
    if medium_of(place(where)).is_remote:
        return {"store": lambda: _store(where), "runs": lambda: _runs(where)}
    path = Path(where).absolute()
    # In a dead mount even a check of existence does not return.
    found = answered(lambda: nearest(path))
    if found is None:
        fix = "Find the mount that hangs: findmnt, dmesg"
        hangs = CheckResult(CheckStatus.FAIL, f"{path} does not answer within {TIMEOUT_S:g} s", fix)
        return {"place": lambda: hangs}
    if not found.is_dir():
        raise BadCall("STORE", "must be a folder or a URL", f"a file, {found}", kind=Kind.CONFIG)
    checks: dict[str, CheckFunction] = {
        "file system": lambda: _file_system(found),
        "free space": lambda: _free_space(found),
        "locks": lambda: _locks(found),
        "disk": lambda: _disk(found),
    }
    if found == path:
        checks |= {"store": lambda: _store(where), "leftovers": lambda: _leftovers(path), "runs": lambda: _runs(where)}
    else:
        nothing = CheckResult(CheckStatus.OK, f"does not exist yet; checked {found}, where it would be created")
        checks["store"] = lambda: nothing
    return checks


def nearest(path: Path) -> Path:
    """Return the path itself if it exists, else its nearest existing parent."""
    return next(entry for entry in (path, *path.parents) if entry.exists())


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """Create a temporary folder, with a name that stores treat as a leftover."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", suffix=PARTIAL, dir=place) as folder:
        yield Path(folder)


def _file_system(place: Path) -> CheckResult:
    found = filesystem_of(place)
    kind = found.kind or "an unknown file system"
    if found.is_refused:
        return CheckResult(
            CheckStatus.FAIL,
            f"{kind}: {found.promise}",
            "Use a bucket directly (store.url=s3://bucket/prefix), or a local or network file system",
        )
    if found.kind in ("tmpfs", "ramfs"):
        return CheckResult(
            CheckStatus.WARN, f"{kind}: its files are lost when the machine stops", "Keep stores on a disk"
        )
    if found.promise:
        return CheckResult(CheckStatus.WARN, f"{kind}: {found.promise}", "See deploy/faults.md for the consequences")
    return CheckResult(CheckStatus.OK, f"{kind}, {'shared' if found.is_shared else 'local'}")


def _free_space(place: Path) -> CheckResult:
    space = os.statvfs(place)
    free = space.f_bavail * space.f_frsize
    found = f"{free / 2**30:.3g} GiB free of {space.f_blocks * space.f_frsize / 2**30:.3g}"
    if free < LEAST_FREE_BYTES:
        return CheckResult(CheckStatus.FAIL, found, "Free space, or choose another disk")
    if free < LOW_FREE_BYTES:
        return CheckResult(CheckStatus.WARN, found, "Free space, set recording.retain, or choose another disk")
    if space.f_files and not space.f_favail:
        return CheckResult(
            CheckStatus.FAIL, f"{found}, and no inode left", "Delete small files, or choose another disk"
        )
    return CheckResult(CheckStatus.OK, found)


def _locks(place: Path) -> CheckResult:
    if locks_work(place):
        return CheckResult(CheckStatus.OK, "a lock here excludes other processes")
    fix = "Mount it with locks, or choose another folder: without locks two trainers may write the same run"
    return CheckResult(CheckStatus.FAIL, "a lock here does not exclude other processes, or no file can be written", fix)


def _disk(place: Path) -> CheckResult:
    """Measure the time of a small write with fdatasync, which every recorded row waits for."""
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
        return CheckResult(
            CheckStatus.WARN, found, "Choose a faster disk, or set store.fsync=segment if a power cut may lose rows"
        )
    return CheckResult(CheckStatus.OK, found)


def _store(where: str) -> CheckResult:
    root = place(where)
    medium = medium_of(root)
    if not medium.is_remote and medium.is_empty(root):
        return CheckResult(CheckStatus.OK, "an empty folder, ready for a store")
    if not (root / "zarr.json").exists():
        stores = [path.name for path in medium.stores_below(root)]
        if stores:
            names = ", ".join(stores[:SHOWN]) + (", ..." if len(stores) > SHOWN else "")
            return CheckResult(CheckStatus.SKIPPED, f"a folder of {len(stores)} stores: {names}", "Pass one of them")
    store = Store.open(where, writable=True)
    made_by = store.provenance.get("streamscalar", "an unknown version")
    return CheckResult(
        CheckStatus.OK, f"a store that this version can read and write, created by streamscalar {made_by}"
    )


def _leftovers(path: Path) -> CheckResult:
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
        return CheckResult(
            CheckStatus.WARN,
            f"{len(old)} leftovers of killed processes: {names}",
            "Delete them while no process creates a store or a run here; readers ignore them",
        )
    return CheckResult(CheckStatus.OK, "no leftovers")


def _runs(where: str) -> CheckResult:
    try:
        store = Store.open(where)
    except BadCall:
        return CheckResult(CheckStatus.SKIPPED, "no store")
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
        return CheckResult(
            CheckStatus.WARN, f"{found} ({reasons}{more})", f"Fix the causes, then run: streamscalar resume {where}"
        )
    return CheckResult(CheckStatus.OK, found if phases else "no runs yet")
