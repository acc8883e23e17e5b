"""Two machines on this one: each a network of its own, joined by a wire. Needs root."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import pytest

REPOSITORY = Path(__file__).parents[2]
CONTAINER = Path(__file__).with_name("container.sh")
CONTAINER_USER = [
    *("setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups", "--no-new-privs"),
    *("--inh-caps=-all", "--bounding-set=-all", "env", "HOME=/mnt/home"),
]
START_S = 90.0
"""Seconds that a process may take to say its first word on a busy machine."""


@cache
def namespaces_are_allowed() -> bool:
    """Return whether this process may make networks, mounts and process trees of its own."""
    if os.geteuid() != 0:
        return False
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "wire0", "type", "veth"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_namespaces = pytest.mark.skipif(
    not namespaces_are_allowed(), reason="needs root and the right to make network and mount namespaces"
)


@dataclass
class Machine:
    """A machine in little: network, processes and mounts of its own.

    Attributes
    ----------
    address
        Its address.
    log_folder
        Where the output of its processes goes.
    environment
        Variables of its processes, beside those that every one has.
    binds
        What `container.sh` shows; then its processes run as in Kubernetes. By default they are root and see all.
    """

    address: str
    log_folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    binds: str | None = None
    _started: "list[tuple[subprocess.Popen[bytes], IO[bytes]]]" = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.binds is None:
            own = "mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs -o mode=1777 tmpfs /dev/shm"
            words = ["sh", "-c", f"{own} && exec sleep infinity"]
        else:
            words = ["sh", str(CONTAINER), self.binds, "sleep", "infinity"]
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        self._holder = subprocess.Popen([*namespaces, *words])
        self.pid = self._first_process()

    def start(self, command: str, until: str) -> Path:
        """Start a shell command that stays; return its log once that holds `until`."""
        log = self.log_folder / f"{self.address}-{len(self._started)}.log"
        output = log.open("wb")
        process = subprocess.Popen(self._inside(command), stdout=output, stderr=subprocess.STDOUT, env=self._environ())
        self._started.append((process, output))
        deadline = time.monotonic() + START_S
        while until not in log.read_text("utf-8", "replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command}\n{log.read_text('utf-8', 'replace')[-4000:]}")
            time.sleep(0.2)
        return log

    def run(self, command: str, timeout_s: float = 600.0) -> str:
        """Run a shell command to its end; return what it printed."""
        done = subprocess.run(
            self._inside(command), capture_output=True, text=True, timeout=timeout_s, check=False, env=self._environ()
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def stop(self) -> None:
        """End the machine: the first of its processes takes all others with it."""
        self._holder.kill()
        self._holder.wait()
        for process, output in self._started:
            process.wait()
            output.close()

    def _first_process(self) -> int:
        """Return the id, as seen from here, of the first process once its mounts are made."""
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for child in children.read_text("ascii").split():
                if Path(f"/proc/{child}/comm").read_text("ascii") == "sleep\n":
                    return int(child)
            time.sleep(0.02)
        raise AssertionError("unshare made no machine")

    def _environ(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        return {
            "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "MPLCONFIGDIR": "/tmp/matplotlib",
            **self.environment,
        }

    def _inside(self, command: str) -> list[str]:
        entered = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid"]
        if self.binds is not None:
            entered += CONTAINER_USER
        return [*entered, "bash", "-euo", "pipefail", "-c", f"cd\n{command}"]


@contextmanager
def two_machines(log_folder: Path, binds: str | None = None) -> Iterator[tuple[Machine, Machine]]:
    """Make two machines, 10.0.0.1 and 10.0.0.2, that reach each other and nothing else."""
    machines: list[Machine] = []
    try:
        machines += (Machine(f"10.0.0.{i}", log_folder, binds=binds) for i in (1, 2))
        first, second = (str(machine.pid) for machine in machines)
        _ip("link", "add", f"sa{first}", "netns", first, "type", "veth", "peer", "name", f"sb{second}", "netns", second)
        for machine, wire in zip(machines, (f"sa{first}", f"sb{second}"), strict=True):
            for words in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"{machine.address}/24", "dev", wire),
                ("link", "set", wire, "up"),
                # Leads nowhere, but Ray finds its own address by what a way out would use.
                ("route", "add", "default", "dev", wire),
            ):
                _ip(*words, within=machine.pid)
        yield machines[0], machines[1]
    finally:
        for machine in machines:
            machine.stop()


def _ip(*words: str, within: int | None = None) -> None:
    place = [] if within is None else ["nsenter", f"--target={within}", "--net"]
    subprocess.run([*place, "ip", *words], check=True)
