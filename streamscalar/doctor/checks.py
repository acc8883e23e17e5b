"""What `doctor` finds: one sentence per check, each within a time, and the checks of the installation itself."""

import importlib.metadata
import json
import os
import platform
import stat
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from streamscalar.errors import StreamscalarError
from streamscalar.runtime.ray.token import token_file

TIMEOUT_S = 20.0
"""Seconds for one check; a file system or a node that does not answer by then hangs."""
PORT = 8870
FINEST_CLOCK_S = 1e-3


class Verdict(StrEnum):
    """What became of a check; only `FAIL` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, as one sentence, and what to do about it where it is not fine."""

    verdict: Verdict
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check that was made.

    Attributes
    ----------
    group
        `installation`, `store` or `cluster`.
    name
        What was checked.
    finding
        What was found.
    seconds
        How long it took.
    """

    group: str
    name: str
    finding: Finding
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "group": self.group,
            "name": self.name,
            "status": str(self.finding.verdict),
            "found": self.finding.found,
            "fix": self.finding.fix,
            "seconds": round(self.seconds, 3),
        }


Probe = Callable[[], Finding]
Result = TypeVar("Result")


def made(group: str, probes: Mapping[str, Probe], timeout_s: float = TIMEOUT_S) -> Iterable[Check]:
    """Yield each check once it is made; one that takes longer than `timeout_s` is left alone and counts as failed."""
    for name, probe in probes.items():
        began = time.monotonic()
        finding = _within(probe, timeout_s)
        yield Check(group, name, finding, time.monotonic() - began)


def _within(probe: Probe, timeout_s: float) -> Finding:
    def ask() -> Finding:
        try:
            return probe()
        except StreamscalarError as error:
            return Finding(Verdict.FAIL, f"{error.where}: {error.must}; {error.got}".rstrip("; "), error.fix)
        except Exception as error:  # noqa: BLE001  (what breaks a check is what it found)
            return Finding(Verdict.FAIL, f"{type(error).__name__}: {error}", "Mend what it names")

    found = answered(ask, timeout_s)
    hangs = f"no answer within {timeout_s:g} s"
    return found or Finding(Verdict.FAIL, hangs, "Look for a mount, a disk or a node that hangs")


def answered(call: Callable[[], Result], timeout_s: float = TIMEOUT_S) -> Result | None:
    """Return what a call returns, `None` where it takes longer; it is left alone then."""
    found: list[Result] = []
    # Python does not wait for such a thread at its end, so that one in a dead mount holds nothing up.
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else None


def worst(checks: Sequence[Check]) -> Verdict:
    """Return `fail` where a check failed, else `warn` where one warned, else `ok`."""
    verdicts = {check.finding.verdict for check in checks}
    return next((verdict for verdict in (Verdict.FAIL, Verdict.WARN) if verdict in verdicts), Verdict.OK)


def installation() -> dict[str, Probe]:
    """Return the checks of Python, packages, device, cores, clock, files and port of this machine."""
    return {
        "python": _python,
        "packages": _packages,
        "torch": _torch,
        "cores": _cores,
        "clock": _clock,
        "umask": _umask,
        "tokens": _tokens,
        "port": _port,
    }


def _python() -> Finding:
    version = platform.python_version()
    needed = str(importlib.metadata.metadata("streamscalar")["Requires-Python"])
    if version not in SpecifierSet(needed, prereleases=True):
        return Finding(Verdict.FAIL, f"Python {version}, where {needed} is needed", "Install another Python")
    return Finding(Verdict.OK, f"Python {version} ({needed})")


def _packages() -> Finding:
    wrong, n_needed = [], 0
    for text in importlib.metadata.requires("streamscalar") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        n_needed += 1
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} {version} instead of {needed.specifier}")
    if wrong:
        return Finding(Verdict.FAIL, "; ".join(wrong), "Run pip install --upgrade streamscalar")
    version = importlib.metadata.version("streamscalar")
    return Finding(Verdict.OK, f"streamscalar {version}, all of its {n_needed} packages in range")


def _torch() -> Finding:
    import torch

    version, built_for = torch.__version__, torch.version.cuda
    driver = _nvidia_driver()
    if built_for is None:
        if driver:
            fix = "Install the build of torch for CUDA to train on the GPU"
            return Finding(Verdict.WARN, f"torch {version} without CUDA, where NVIDIA driver {driver} runs", fix)
        return Finding(Verdict.OK, f"torch {version} without CUDA, and no NVIDIA driver")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        return Finding(Verdict.OK, f"torch {version}, {torch.cuda.device_count()} GPUs: {', '.join(sorted(names))}")
    if driver:
        fix = f"Install a driver for CUDA {built_for} or newer, or a torch for the driver that runs"
        return Finding(Verdict.WARN, f"torch {version} for CUDA {built_for} cannot use NVIDIA driver {driver}", fix)
    return Finding(Verdict.OK, f"torch {version} for CUDA {built_for}, and no NVIDIA driver: trains on the CPU")


def _nvidia_driver() -> str:
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split("\n")[0].split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def _cores() -> Finding:
    n_visible = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    found = f"{n_visible} of {os.cpu_count()} cores"
    if quota is not None:
        found += f", {quota:g} by the quota of the control group"
    if quota is not None and quota < n_visible:
        fix = "Start no more trainers than the quota holds: cluster.max_concurrent_runs, ray start --num-cpus"
        return Finding(Verdict.WARN, found, fix)
    return Finding(Verdict.OK, found)


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the cores that the control group of this process may use; `None` where nothing limits it."""
    for read in (_quota_v2, _quota_v1):
        try:
            return read(root)
        except (OSError, ValueError):
            continue
    return None


def _quota_v2(root: Path) -> float:
    most, period = (root / "cpu.max").read_text().split()
    return int(most) / int(period)


def _quota_v1(root: Path) -> float | None:
    most = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
    return most / int((root / "cpu" / "cpu.cfs_period_us").read_text()) if most > 0 else None


def _clock() -> Finding:
    resolution = time.get_clock_info("monotonic").resolution
    if resolution > FINEST_CLOCK_S:
        fix = "Choose another clock source of the kernel; intervals are measured with this one"
        return Finding(Verdict.WARN, f"the monotonic clock ticks every {resolution:g} s", fix)
    return Finding(Verdict.OK, f"monotonic to {resolution:g} s")


def _umask() -> Finding:
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o022 != 0o022:
        found = f"umask {mask:04o} lets others write what this user makes"
        return Finding(Verdict.WARN, found, "Run umask 022 before, in the unit or the profile")
    return Finding(Verdict.OK, f"umask {mask:04o}")


def token_files() -> list[Path]:
    """Return where the tokens of this user's services, and of Ray, lie or would lie."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "streamscalar"
    return [home / "token", home / "admin-token", token_file()]


def _tokens() -> Finding:
    open_ones = []
    there = []
    for path in token_files():
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            continue
        there.append(path)
        if mode & 0o077:
            open_ones.append((path, mode))
    if open_ones:
        found = ", ".join(f"{path} has mode {mode:04o}" for path, mode in open_ones)
        return Finding(
            Verdict.FAIL,
            f"others may read a token: {found}",
            f"Run chmod 600 {' '.join(str(path) for path, _ in open_ones)}; make new ones if others use this machine",
        )
    return Finding(Verdict.OK, f"{len(there)} token files, for their owner alone" if there else "no token files yet")


def _port() -> Finding:
    try:
        # No proxy: it would answer for a port that nobody holds.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{PORT}/health", timeout=5) as answer:
            if json.loads(answer.read(1000)) == {"status": "ok"}:
                return Finding(Verdict.OK, f"a streamscalar service answers on port {PORT}")
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
            return Finding(Verdict.OK, f"port {PORT} is free for streamscalar serve")
    fix = "Take another: streamscalar serve --port"
    return Finding(Verdict.WARN, f"another program answers on port {PORT}", fix)
