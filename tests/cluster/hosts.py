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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.processes import command_line, wait_for

RAY_PORT = 6379
ADDRESSES = {"head": "10.77.0.1", "worker1": "10.77.0.2", "worker2": "10.77.0.3", "stranger": "10.77.0.9"}
GATEWAY = "10.77.0.254"
REPOSITORY = Path(__file__).parents[2]
NETWORKS = count(1)
"""Networks of this process, one after the other."""
FAST_HEALTH_CHECKS = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000"}
"""Lets the head give up a host that does not answer within 5 seconds; Ray's own settings take a minute."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


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

    def finish(self, timeout_s: float = 600.0) -> None:
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

    def follow(self, cluster: str) -> Process:
        """Start a process that prints the hosts of a cluster; see `Nodes`."""
        return self.start(sys.executable, "-c", NODES, cluster)

    def pids(self) -> list[int]:
        """Return the processes here."""
        own = Path("/run/netns", self.namespace).stat().st_ino
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "ns" / "net").stat().st_ino == own:
                    found.append(int(entry.name))
        return found

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
        self.started.clear()

    def cut(self) -> None:
        """Pull its cable."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")

    def heal(self) -> None:
        ip("-n", self.namespace, "link", "set", "eth0", "up")


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
    """A head, two workers and a stranger, who has no token.

    Attributes
    ----------
    folder
        Where they keep files, outside the tests' own folders.
    mark
        What their names begin with, unique on this machine.
    released
        A file: once it is there, trainings are no longer slow.
    nodes
        What the head knows of its hosts, from `start_cluster` on.
    """

    head: Host
    worker1: Host
    worker2: Host
    stranger: Host
    token: str
    folder: Path
    mark: str
    released: Path
    n_heads: int = 0
    nodes: Nodes = field(init=False, repr=False)

    @property
    def cluster(self) -> str:
        return f"{self.head.address}:{RAY_PORT}"

    @property
    def workers(self) -> tuple[Host, Host]:
        return self.worker1, self.worker2

    @property
    def ray_folder(self) -> Path:
        """The folder of the newest head; Ray's sockets lie in it, and a path to a socket holds 107 bytes."""
        return Path(f"/tmp/{self.mark}-{self.n_heads}")

    def hold(self) -> None:
        """Make trainings slow from now on."""
        self.released.unlink(missing_ok=True)

    def release(self) -> None:
        """Let trainings go on at full speed."""
        self.released.touch()

    def start_head(self, *options: str) -> None:
        """Start a new Ray cluster without workers."""
        self.n_heads += 1
        chosen = options or ("--include-dashboard", "false")
        self.head.ray_start(
            "--head", "--port", str(RAY_PORT), "--num-cpus", "0", "--temp-dir", str(self.ray_folder), *chosen
        )

    def start_worker(self, worker: Host, n_cpus: int = 1, n_gpus: int = 0, hidden: Path | None = None) -> None:
        size = ["--num-cpus", str(n_cpus), "--num-gpus", str(n_gpus)]
        worker.ray_start("--address", self.cluster, *size, hidden=hidden)

    def start_cluster(self) -> None:
        """Start Ray on the head and both workers, each with room for the work of the other, and follow its nodes."""
        self.start_head()
        # One after the other: hosts that share a folder under /tmp and start at once wait for each other without end.
        for worker in self.workers:
            self.start_worker(worker, n_cpus=2)
        self.nodes = Nodes(self.head.follow(self.cluster))

    def repair(self) -> None:
        """Make the cluster whole again."""
        if not self.head.pids_of("/gcs/gcs_server "):
            for host in (self.head, *self.workers):
                host.close()
            self.start_cluster()
        for worker in self.workers:
            if worker.address not in self.nodes.alive:
                worker.close()
                worker.heal()
                self.start_worker(worker, n_cpus=2)
        wait_for("all hosts", lambda: {worker.address for worker in self.workers} <= self.nodes.alive)


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Hosts]:
    """Make four hosts on one network, nothing running; `folder` holds their files."""
    mark = f"ss{os.getpid()}n{next(NETWORKS)}"
    token = secrets.token_hex(32)
    home, released = folder / "home", folder / "released"
    home.mkdir()
    plain = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "STREAMSCALAR_"))},
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "OMP_NUM_THREADS": "1",
        "RAY_raylet_start_wait_time_s": "120",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "SLOW_MS": "300",
        "SLOW_UNTIL": str(released),
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
        yield Hosts(found["head"], found["worker1"], found["worker2"], found["stranger"], token, folder, mark, released)
    finally:
        for host in found.values():
            host.close()
        for namespace in [*(host.namespace for host in found.values()), switch]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        for ray_folder in Path("/tmp").glob(f"{mark}-*"):
            shutil.rmtree(ray_folder, ignore_errors=True)
