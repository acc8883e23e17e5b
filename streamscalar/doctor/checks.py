"""Checks of `doctor`: their results, the time limit of each, and the checks of the installation."""

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

from streamscalar.config.service import ADMIN_TOKEN_FILE, DEFAULT_PORT, READ_TOKEN_FILE, token_folder
from streamscalar.errors import StreamscalarError
from streamscalar.runtime.ray.token import token_file

TIMEOUT_S = 20.0
"""Time limit of one check; a file system or a node that does not answer by then is reported as hanging."""
FINEST_CLOCK_S = 1e-3


class CheckStatus(StrEnum):
    """Status of a check; only `FAIL` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found, in one sentence, and how to fix it if something is wrong."""

    status: CheckStatus
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check with its result.

    Attributes
    ----------
    group
        `installation`, `store` or `cluster`.
    name
        Name of the check.
    result
        What was found.
    seconds
        How long it took.
    """

    group: str
    name: str
    result: CheckResult
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "group": self.group,
            "name": self.name,
            "status": str(self.result.status),
            "found": self.result.found,
            "fix": self.result.fix,
            "seconds": round(self.seconds, 3),
        }


CheckFunction = Callable[[], CheckResult]
Result = TypeVar("Result")


def made(group: str, functions: Mapping[str, CheckFunction], timeout_s: float = TIMEOUT_S) -> Iterable[Check]:
    """Run the checks one after the other and yield each; one that takes longer than `timeout_s` fails."""
    for name, function in functions.items():
        began = time.monotonic()
        result = _within(function, timeout_s)
        yield Check(group, name, result, time.monotonic() - began)


def _within(function: CheckFunction, timeout_s: float) -> CheckResult:
    def ask() -> CheckResult:
        try:
            return function()
        except StreamscalarError as error:
            return CheckResult(CheckStatus.FAIL, f"{error.where}: {error.must}; {error.got}".rstrip("; "), error.fix)
        except Exception as error:  # noqa: BLE001  (an error in a check is its result)
            return CheckResult(CheckStatus.FAIL, f"{type(error).__name__}: {error}", "Fix the cause that it names")

    found = answered(ask, timeout_s)
    hangs = f"no answer within {timeout_s:g} s"
    return found or CheckResult(CheckStatus.FAIL, hangs, "Find the mount, disk or node that hangs")


def answered(call: Callable[[], Result], timeout_s: float = TIMEOUT_S) -> Result | None:
    """Return what a call returns; `None` if it takes longer than `timeout_s`, while it goes on in a thread."""
    found: list[Result] = []
    # A daemon thread: one that hangs in a dead mount does not keep the process alive.
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else None


def worst(checks: Sequence[Check]) -> CheckStatus:
    """Return `FAIL` if a check failed, else `WARN` if one warned, else `OK`."""
    statuses = {check.result.status for check in checks}
    return next((status for status in (CheckStatus.FAIL, CheckStatus.WARN) if status in statuses), CheckStatus.OK)


def installation() -> dict[str, CheckFunction]:
    """Return the checks of this machine: Python, packages, device, cores, clock, umask, tokens and port."""
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


def _python() -> CheckResult:
    version = platform.python_version()
    needed = str(importlib.metadata.metadata("streamscalar")["Requires-Python"])
    if version not in SpecifierSet(needed, prereleases=True):
        return CheckResult(CheckStatus.FAIL, f"Python {version}, but {needed} is required", "Install another Python")
    return CheckResult(CheckStatus.OK, f"Python {version} ({needed})")


def _packages() -> CheckResult:
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
        return CheckResult(CheckStatus.FAIL, "; ".join(wrong), "Run pip install --upgrade streamscalar")
    version = importlib.metadata.version("streamscalar")
    return CheckResult(CheckStatus.OK, f"streamscalar {version}, all of its {n_needed} packages in range")


def _torch() -> CheckResult:
    import torch

    version, built_for = torch.__version__, torch.version.cuda
    driver = _nvidia_driver()
    if built_for is None:
        if driver:
            fix = "Install the CUDA build of torch to train on the GPU"
            return CheckResult(
                CheckStatus.WARN, f"torch {version} without CUDA, although NVIDIA driver {driver} is installed", fix
            )
        return CheckResult(CheckStatus.OK, f"torch {version} without CUDA, and no NVIDIA driver")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        return CheckResult(
            CheckStatus.OK, f"torch {version}, {torch.cuda.device_count()} GPUs: {', '.join(sorted(names))}"
        )
    if driver:
        fix = f"Install a driver for CUDA {built_for} or newer, or a build of torch for the installed driver"
        return CheckResult(
            CheckStatus.WARN, f"torch {version} for CUDA {built_for} cannot use NVIDIA driver {driver}", fix
        )
    return CheckResult(
        CheckStatus.OK, f"torch {version} for CUDA {built_for}, and no NVIDIA driver: training runs on the CPU"
    )


def _nvidia_driver() -> str:
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split("\n")[0].split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def _cores() -> CheckResult:
    n_visible = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    found = f"{n_visible} of {os.cpu_count()} cores"
    if quota is not None:
        found += f", limited to {quota:g} by the control group"
    if quota is not None and quota < n_visible:
        fix = "Limit the number of trainers: cluster.max_concurrent_runs, or ray start --num-cpus"
        return CheckResult(CheckStatus.WARN, found, fix)
    return CheckResult(CheckStatus.OK, found)


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the number of cores that the control group allows this process; `None` if it sets no limit."""
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


def _clock() -> CheckResult:
    resolution = time.get_clock_info("monotonic").resolution
    if resolution > FINEST_CLOCK_S:
        fix = "Choose another clock source of the kernel: intervals are measured with this clock"
        return CheckResult(CheckStatus.WARN, f"the monotonic clock ticks every {resolution:g} s", fix)
    return CheckResult(CheckStatus.OK, f"monotonic to {resolution:g} s")


def _umask() -> CheckResult:
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o022 != 0o022:
        found = f"umask {mask:04o} lets others write what this user makes"
        return CheckResult(CheckStatus.WARN, found, "Set umask 022 in the systemd unit or the shell profile")
    return CheckResult(CheckStatus.OK, f"umask {mask:04o}")


def token_files() -> list[Path]:
    """Return the paths of the token files of this user: those of the service, and that of Ray."""
    return [token_folder() / READ_TOKEN_FILE, token_folder() / ADMIN_TOKEN_FILE, token_file()]


def _tokens() -> CheckResult:
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
        names = " ".join(str(path) for path, _ in open_ones)
        found = ", ".join(f"{path} has mode {mode:04o}" for path, mode in open_ones)
        return CheckResult(
            CheckStatus.FAIL,
            f"others may read a token: {found}",
            f"Run chmod 600 {names}; renew the tokens if others use this machine",
        )
    return CheckResult(
        CheckStatus.OK, f"{len(there)} token files, readable by their owner only" if there else "no token files yet"
    )


def _port() -> CheckResult:
    try:
        # Without proxies: one would answer for a port on which no program listens.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{DEFAULT_PORT}/health", timeout=5) as answer:
            if json.loads(answer.read(1000)) == {"status": "ok"}:
                return CheckResult(CheckStatus.OK, f"a streamscalar service answers on port {DEFAULT_PORT}")
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
            return CheckResult(CheckStatus.OK, f"port {DEFAULT_PORT} is free for streamscalar serve")
    fix = "Choose another port: streamscalar serve --port"
    return CheckResult(CheckStatus.WARN, f"another program answers on port {DEFAULT_PORT}", fix)
