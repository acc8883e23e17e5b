"""Processes of this machine: which there are, and waiting for what they do."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamscalar.bench.scaling.hosts import descendants

POLL_S = 0.3


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 240.0) -> float:
    """Wait until a condition holds; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"{what} took more than {timeout_s:g} s"
        time.sleep(POLL_S)
    return time.monotonic() - began


def command_line(pid: int) -> str:
    """Return the words of a process, empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """Return whether a process is there, and no zombie."""
    return bool(command_line(pid))


def pids_of(kind: str) -> list[int]:
    """Return the processes below this one whose command line begins with `kind`; other tests run beside it."""
    return [pid for pid in descendants(os.getpid()) if command_line(pid).startswith(kind)]
