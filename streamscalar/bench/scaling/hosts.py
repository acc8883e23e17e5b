"""A Ray cluster of several hosts on one machine, each pinned to one core, and measurements of an experiment on it.

Each host is a raylet; the head provides no CPUs. Every cluster has its own ports, folder and token, and is ended by the
process ids that it started, so that no other Ray on the machine is affected.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PUSH_BYTES = 4 * 2**20
"""Size of the blocks that are sent to an actor."""
SAMPLE_S = 0.5
WORKER_PORTS = 200
"""Number of worker ports of one raylet; raylets on one machine need separate ranges."""
STARTED = "Ray runtime started."
DRIVER = "streamscalar.bench.scaling.driver"
"""Module of the driver; its command line is recognised by this name."""
ROLES = ("Trainer", "Embedder", "Coordinator")


@dataclass
class Cluster:
    """A running head, to which hosts can be added."""

    address: str
    environment: dict[str, str]
    folder: Path
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    @contextlib.contextmanager
    def host(self, core: int) -> Iterator[int]:
        """Add a host with one CPU, pinned with all of its workers to `core`; yield its process id."""
        with self.start(["--address", self.address, "--num-cpus", "1"], core) as process:
            yield process.pid

    @contextlib.contextmanager
    def start(self, options: Sequence[str], core: int | None) -> Iterator["subprocess.Popen[str]"]:
        """Start a node with these options of `ray start`, pinned to `core`; it ends with the context."""
        first = _free_ports(WORKER_PORTS)
        ports = ["--min-worker-port", str(first), "--max-worker-port", str(first + WORKER_PORTS - 1)]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        with subprocess.Popen(
            [*command, *ports, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        ) as process:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            try:
                _wait_for(process)
                yield process
            finally:
                end(process.pid)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start the head of a cluster; the cluster ends with the context."""
    # Ray creates sockets there, whose paths are limited to 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ss-", dir="/tmp"))
    port = _free_ports(2)
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    found = Cluster(f"127.0.0.1:{port}", environment, folder)
    head = ["--head", "--num-cpus", "0", "--port", str(port), "--ray-client-server-port", str(port + 1)]
    where = ["--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--temp-dir", str(folder)]
    try:
        with found.start([*head, *where], None) as process:
            found.processes.append(process)
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(n: int) -> int:
    """Return the first of `n` consecutive ports; only the first is checked to be free."""
    for _ in range(100):
        first = 20_000 + secrets.randbelow(12_000 - n)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", first))
            return first
    raise AssertionError("no free port")


def _wait_for(process: "subprocess.Popen[str]") -> None:
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if STARTED in line:
            # Later output must not fill the pipe.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return
    raise AssertionError("ray start failed: " + "".join(said)[-2000:])


def end(pid: int) -> None:
    """End a process and all of its descendants, by their ids."""
    family = [pid, *descendants(pid)]
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for one in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, sent)
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{one}").exists() for one in family[1:]) and time.monotonic() < deadline:
            time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below `pid`."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(stat.parent.name))
    found, new = [], [pid]
    while new:
        new = [child for one in new for child in children[one]]
        found += new
    return found


def cpu_s(pids: Sequence[int]) -> dict[str, float]:
    """Return the processor seconds of the processes `pids` and their descendants, by role."""
    ticks = os.sysconf("SC_CLK_TCK")
    total: dict[str, float] = defaultdict(float)
    for pid in {one for root in pids for one in (root, *descendants(root))}:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            role = next((role for role in ROLES if f"::{role}" in title), "driver" if DRIVER in title else "Ray")
            total[role] += (int(fields[11]) + int(fields[12])) / ticks
    return total


@dataclass(frozen=True)
class Drive:
    """Progress of one experiment: rows by time, and processor seconds of each role by time."""

    rows: list[tuple[float, int]]
    cpu: list[tuple[float, dict[str, float]]]

    def window(self, n_rows: int) -> tuple[float, float]:
        """Return the times at which 15 % and 75 % of the rows were stored; all hosts are busy in between."""
        began, ended = (next(t for t, n in self.rows if n >= share * n_rows) for share in (0.15, 0.75))
        return began, ended

    def rows_per_s(self, n_rows: int) -> float:
        """Return the rows per second within the window."""
        began, ended = self.window(n_rows)
        inside = [(t, n) for t, n in self.rows if began <= t <= ended]
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])

    def cores(self, n_rows: int) -> dict[str, float]:
        """Return the number of cores that each role kept busy within the window."""
        began, ended = self.window(n_rows)
        inside = [(t, shares) for t, shares in self.cpu if began <= t <= ended]
        (t0, first), (t1, last) = inside[0], inside[-1]
        # A process that started within the window has no value at its start.
        return {role: (last[role] - first.get(role, 0.0)) / (t1 - t0) for role in last}


def drive(job: Mapping[str, Any], environment: Mapping[str, str], roots: Sequence[int], core: int | None) -> Any:
    """Carry out a job in a driver process; return its result and samples of the processor seconds.

    `roots` are process ids whose processor time is counted too; the driver is pinned to `core`.
    """
    samples: list[tuple[float, dict[str, float]]] = []
    command = [sys.executable, "-m", DRIVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment)
    ) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        over = threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLE_S):
                samples.append((time.monotonic(), cpu_s([process.pid, *roots])))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            answer, _ = process.communicate(json.dumps(job))
        finally:
            over.set()
            sampler.join()
    if process.returncode:
        raise AssertionError(f"the driver failed: {process.returncode}")
    return json.loads(answer.splitlines()[-1]), samples
