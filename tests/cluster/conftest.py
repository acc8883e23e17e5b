"""A real cluster on one machine: hosts with their own addresses in network namespaces, joined by a switch.

The hosts share the file system, as hosts of a cluster share a mounted one. Links can be cut, processes killed.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

RAY_PORT = 6379
ADDRESSES = {"head": "10.77.0.1", "worker1": "10.77.0.2", "worker2": "10.77.0.3", "stranger": "10.77.0.9"}
GATEWAY = "10.77.0.254"


@pytest.fixture(autouse=True)
def _needs_namespaces() -> None:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 60.0) -> float:
    """Wait until a condition holds; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"{what} took more than {timeout_s:g} s"
        time.sleep(0.1)
    return time.monotonic() - began


class Process:
    """A command on a host, what it said on standard error, and how it ended."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background jobs ignore interrupts, and so would their children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.said = ""
        self.lines: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._hear, self._read)]
        for reader in self._readers:
            reader.start()

    def _hear(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def finish(self, timeout_s: float = 200.0) -> None:
        """Wait for its end, which must be a good one."""
        assert self._process.wait(timeout_s) == 0, self.said

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


@dataclass
class Host:
    """One host: a namespace of the network, and the processes started in it."""

    name: str
    namespace: str
    environment: dict[str, str]
    started: list[Process] = field(default_factory=list)

    @property
    def address(self) -> str:
        return ADDRESSES[self.name]

    def command(self, words: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *words]

    def run(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = self.command(words)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout_s)

    def start(self, *words: str) -> Process:
        """Start a command; it ends with the host."""
        self.started.append(Process(self.command(words), self.environment))
        return self.started[-1]

    def streamscalar(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "streamscalar", *words]

    def ray_start(self, *options: str, hidden: Path | None = None) -> None:
        """Let this host head a cluster or join one; its Ray does not see what is in the folder `hidden`."""
        ray = str(Path(sys.executable).with_name("ray"))
        words = [ray, "start", "--node-ip-address", self.address, "--disable-usage-stats"]
        words += ["--object-store-memory", "100000000", *options]
        if hidden is not None:
            # Every command of a namespace has mounts of its own.
            words = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden), *words]
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr

    def pids(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def pids_of(self, part: str) -> list[int]:
        """Return the processes here whose command line contains `part`."""
        return [pid for pid in self.pids() if part in command_line(pid)]

    def kill(self, pids: Sequence[int]) -> None:
        """SIGKILL processes."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """SIGKILL all that runs here."""
        while pids := self.pids():
            self.kill(pids)
            time.sleep(0.05)
        for process in self.started:
            process.close()

    def cut(self) -> None:
        """Pull its cable."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")

    def heal(self) -> None:
        ip("-n", self.namespace, "link", "set", "eth0", "up")


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    return bool(command_line(pid))


NODES = """
import sys, time
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
while True:
    print(*(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]), flush=True)
    time.sleep(0.2)
"""


class Nodes:
    """What the head of a cluster believes of its hosts, followed all the time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        wait_for("the list of nodes", lambda: process.lines)

    @property
    def alive(self) -> set[str]:
        return set(self._process.lines[-1].split())


@dataclass
class Hosts:
    """A head, two workers and a stranger, who has no token."""

    head: Host
    worker1: Host
    worker2: Host
    stranger: Host
    token: str
    folder: Path
    n_heads: int = 0

    @property
    def cluster(self) -> str:
        return f"{self.head.address}:{RAY_PORT}"

    @property
    def workers(self) -> tuple[Host, Host]:
        return self.worker1, self.worker2

    def start_head(self, *options: str) -> None:
        """Start a new Ray cluster without workers."""
        self.n_heads += 1
        # Ray's sockets lie in its folder, and a path to a socket holds 107 bytes.
        folder = f"/tmp/ss{os.getpid()}-{self.n_heads}"
        chosen = options or ("--include-dashboard", "false")
        self.head.ray_start("--head", "--port", str(RAY_PORT), "--num-cpus", "0", "--temp-dir", folder, *chosen)

    def start_worker(self, worker: Host, n_cpus: int = 1, n_gpus: int = 0, hidden: Path | None = None) -> None:
        size = ["--num-cpus", str(n_cpus), "--num-gpus", str(n_gpus)]
        worker.ray_start("--address", self.cluster, *size, hidden=hidden)

    def start_cluster(self) -> None:
        """Start Ray on the head and both workers; the second has room for the work of the first."""
        self.start_head()
        self.start_worker(self.worker1)
        self.start_worker(self.worker2, n_cpus=2)

    def follow_nodes(self) -> Nodes:
        return Nodes(self.head.start(sys.executable, "-c", NODES, self.cluster))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Four hosts on one network, nothing running."""
    mark = f"ss{os.getpid()}"
    token = secrets.token_hex(32)
    home = tmp_path / "home"
    home.mkdir()
    plain = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "STREAMSCALAR_"))},
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "OMP_NUM_THREADS": "1",
        "RAY_raylet_start_wait_time_s": "120",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SLOW_MS": "6",
    }
    switch = f"{mark}-switch"
    found = {
        name: Host(name, f"{mark}-{name}", plain if name == "stranger" else {**plain, "RAY_AUTH_TOKEN": token})
        for name in ADDRESSES
    }
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for index, host in enumerate(found.values()):
            ip("netns", "add", host.namespace)
            port = f"port{index}"
            ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            ip("-n", switch, "link", "set", port, "master", "br0")
            ip("-n", switch, "link", "set", port, "up")
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
            # Ray finds the address of its own host by the way out, which need not lead anywhere.
            ip("-n", host.namespace, "route", "add", "default", "via", GATEWAY)
        yield Hosts(found["head"], found["worker1"], found["worker2"], found["stranger"], token, tmp_path)
    finally:
        for host in found.values():
            host.close()
        for namespace in [*(host.namespace for host in found.values()), switch]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        for folder in Path("/tmp").glob(f"{mark}-*"):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(hosts: Hosts) -> Hosts:
    """Hosts that are a Ray cluster."""
    hosts.start_cluster()
    return hosts
