"""Checks of `doctor` for a Ray cluster: whether it answers and accepts the token, and the state of its nodes."""

import contextlib
import fcntl
import json
import os
import queue
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from streamscalar.config.models import ClusterSection
from streamscalar.doctor.checks import Check, CheckResult, CheckStatus
from streamscalar.doctor.store import nearest, scratch
from streamscalar.errors import BadCall, Kind
from streamscalar.runtime.ray.token import token_file
from streamscalar.store import medium_of, place

REACH_S = 5.0
CLUSTER_TIMEOUT_S = 150.0
"""Time limit for all nodes; Ray itself stops waiting for a head that does not answer after 120 s."""
REFUSED = "InvalidAuthToken"
"""Text that Ray logs once a second while it retries with a wrong or missing token."""
SKEW_S = 2.0
"""Difference of clocks from which states and times of runs are shown wrongly."""
START = "Start the cluster (ray start --head), or open the port of its head"


def cluster_checks(address: str, store: str | None, cluster: ClusterSection) -> Iterator[Check]:
    """Run the checks of the cluster at `address` and yield each; they leave no files in the store."""
    host, port = require_address(address)
    began = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError as error:
        yield Check(
            "cluster", "reach", CheckResult(CheckStatus.FAIL, f"{address}: {error}", START), time.monotonic() - began
        )
        return
    yield Check(
        "cluster", "reach", CheckResult(CheckStatus.OK, f"a process listens at {address}"), time.monotonic() - began
    )
    with _shared(store) as (folder, nonce):
        yield from judged(_asked(address, folder, cluster), folder, nonce, cluster)
    yield Check("cluster", "listeners", _listeners())


def require_address(address: str) -> tuple[str, int]:
    """Return host and port.

    Raises
    ------
    BadCall
        `address` is not of the form host:port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        fix = "Pass the host of the head and the port that ray start printed"
        raise BadCall("--address", "must be host:port", repr(address), fix, Kind.CONFIG)
    return host, int(port)


@contextlib.contextmanager
def _shared(store: str | None) -> Iterator[tuple[str, str]]:
    """Write a random number and hold a lock where the nodes should see both; yield empty texts for a bucket."""
    if store is None or medium_of(place(store)).is_remote:
        yield "", ""
        return
    nonce = secrets.token_hex(16)
    with scratch(nearest(Path(store).absolute())) as folder:
        (folder / "nonce").write_text(nonce)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield str(folder), nonce


def _asked(address: str, folder: str, cluster: ClusterSection) -> Iterator[dict[str, Any]]:
    """Yield the documents that the child process writes; one with `refused` or `error` is the last."""
    command = [sys.executable, "-m", "streamscalar.runtime.ray.nodes", address, folder, cluster.model_dump_json()]
    lines: queue.Queue[str] = queue.Queue()
    with (
        tempfile.TemporaryFile("w+") as noise,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True, start_new_session=True) as child,
    ):
        reader = threading.Thread(target=_read, args=(child, lines), daemon=True)
        reader.start()
        try:
            yield from _until_over(lines, noise.fileno())
        finally:
            child.kill()


def _read(child: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    lines.put("")


def _until_over(lines: "queue.Queue[str]", noise: int) -> Iterator[dict[str, Any]]:
    deadline = time.monotonic() + CLUSTER_TIMEOUT_S
    is_in = False
    while time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            if not is_in and REFUSED in _tail(noise):
                yield {"refused": True}
                return
            continue
        if not line:
            return
        is_in = True
        yield json.loads(line)
    said = " ".join(_tail(noise).split())[-200:]
    yield {"kind": "timeout", "error": f"no answer within {CLUSTER_TIMEOUT_S:.0f} s {said}".strip()}


def _tail(file: int) -> str:
    size = os.fstat(file).st_size
    return os.pread(file, 4000, max(0, size - 4000)).decode("utf-8", "replace")


def judged(documents: Iterator[dict[str, Any]], folder: str, nonce: str, cluster: ClusterSection) -> Iterator[Check]:
    """Yield the checks that follow from the documents of `query_nodes`; the nodes should see `folder` and `nonce`."""
    began = time.monotonic()

    def check(name: str, status: CheckStatus, found: str, fix: str = "") -> Check:
        return Check("cluster", name, CheckResult(status, found, fix), time.monotonic() - began)

    nothing: dict[str, Any] = {"kind": "nothing", "error": "the process that queries the cluster ended without output"}
    first = next(documents, nothing)
    if "refused" in first or first.get("kind") == "AuthenticationError":
        yield check("authentication", CheckStatus.FAIL, *_refusal())
        return
    if "error" in first:
        name = "versions" if "ersion mismatch" in first["error"] else "answer"
        yield check(name, CheckStatus.FAIL, f"{first['kind']}: {first['error']}", _fix_of(name))
        return
    nodes: dict[str, Any] = first["nodes"]
    answers = {document["node"]: document for document in documents if "node" in document}
    silent = {node: answers.get(node, {}).get("error", "no answer") for node in nodes}
    fine = {_name(nodes, node): answer for node, answer in answers.items() if "error" not in answer}
    mute = [f"{_name(nodes, node)}: {why}" for node, why in silent.items() if _name(nodes, node) not in fine]
    dead = [f"{node['address']} ({node['reason'] or 'no reason given'})" for node in first["dead"]]
    found = f"{len(nodes)} alive" + (f", {len(dead)} dead since the head started: {_some(dead)}" if dead else "")
    fix = "Find the cause on these nodes; ignore those that were removed on purpose" if dead else ""
    yield check("nodes", CheckStatus.WARN if dead else CheckStatus.OK, found, fix)
    if mute:
        yield check("answers", CheckStatus.FAIL, _some(mute), "Check the raylet of these nodes and its log")
    else:
        yield check("answers", CheckStatus.OK, "every node runs a task")
    yield check("resources", *_resources(nodes, first["n_trainers"], cluster))
    if not fine:
        return
    yield check("authentication", *_authentication(fine))
    yield check("versions", *_versions(fine))
    if folder:
        yield check("store on nodes", *_store_seen(fine, nonce))
    else:
        yield check("store on nodes", CheckStatus.SKIPPED, "no folder given; pass STORE to check it on every node")
    late = [f"{name} {answer['skew_s']:+.3g} s" for name, answer in fine.items() if abs(answer["skew_s"]) > SKEW_S]
    fix = "Run a time service such as chrony on every node" if late else ""
    yield check(
        "clocks",
        CheckStatus.WARN if late else CheckStatus.OK,
        _some(late) or f"within {SKEW_S:g} s of this machine's",
        fix,
    )


def _name(nodes: Mapping[str, Any], node: str) -> str:
    return f"{nodes[node]['address']} ({node[:8]})"


def _some(texts: list[str], most: int = 4) -> str:
    return "; ".join(texts[:most]) + (f"; and {len(texts) - most} more" if len(texts) > most else "")


def _fix_of(name: str) -> str:
    if name == "versions":
        return "Install the same Python and Ray here and on the cluster"
    return "Run this on a node of the cluster, and check that the port is that of its head"


def _refusal() -> tuple[str, str]:
    """Return why the token was refused, and how to fix it."""
    held = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(token_file())
    has_token = held == "RAY_AUTH_TOKEN" or token_file().exists()
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return "the cluster requires a token, but RAY_AUTH_MODE disables tokens", "Unset RAY_AUTH_MODE"
    if has_token:
        return (
            f"the cluster refuses the token in {held}",
            "Use the token that ray get-auth-token prints on its head",
        )
    return (
        "the cluster requires a token, and there is none here",
        f"Write the token that ray get-auth-token prints on its head to {held} (mode 0600), or set RAY_AUTH_TOKEN",
    )


def _authentication(fine: Mapping[str, Mapping[str, Any]]) -> tuple[CheckStatus, str, str]:
    without = [name for name, answer in fine.items() if answer["auth"] != "token"]
    if without:
        return (
            CheckStatus.WARN,
            f"no token is required: anyone who can reach a port of {_some(without)} can run code there",
            "Start every node with RAY_AUTH_MODE=token; see deploy/security.md",
        )
    return CheckStatus.OK, "the cluster accepts the token of this user", ""


def _versions(fine: Mapping[str, Mapping[str, Any]]) -> tuple[CheckStatus, str, str]:
    wrong = []
    for name, answer in fine.items():
        if answer["python"] != python_version():
            wrong.append(f"{name} has Python {answer['python']}")
        for package, found in answer["versions"].items():
            if found is None:
                wrong.append(f"{name} has no {package}")
            elif found != version(package):
                wrong.append(f"{name} has {package} {found}")
    if wrong:
        fix = "Install the same versions on every node: results depend on those of torch and numpy"
        return CheckStatus.FAIL, f"{_some(wrong)}; here: Python {python_version()}", fix
    return CheckStatus.OK, "every node has the Python and the packages of this machine", ""


def _store_seen(fine: Mapping[str, Mapping[str, Any]], nonce: str) -> tuple[CheckStatus, str, str]:
    blind = [f"{name}: {answer['store_error']}" for name, answer in fine.items() if "store_error" in answer]
    blind += [
        f"{name}: another folder of that name" for name, answer in fine.items() if answer.get("nonce", nonce) != nonce
    ]
    if blind:
        fix = "Mount the same storage at the same path on every node, or use a bucket (store.url=s3://...)"
        return CheckStatus.FAIL, f"files written here are not visible there: {_some(blind)}", fix
    unlocked = [name for name, answer in fine.items() if not answer["is_locked_out"]]
    if unlocked:
        fix = "Mount it with locks that hold between machines: without them two trainers may write the same run"
        return CheckStatus.FAIL, f"a lock held here does not exclude {_some(unlocked)}", fix
    return CheckStatus.OK, "every node reads files written here, and a lock held here excludes it", ""


def _resources(nodes: Mapping[str, Any], n_trainers: int, cluster: ClusterSection) -> tuple[CheckStatus, str, str]:
    each = [f"{node['address']} {node['CPU']:g} CPUs {node['GPU']:g} GPUs" for node in nodes.values()]
    share = f"{cluster.cpus_per_trainer:g} CPUs and {cluster.gpus_per_trainer:g} GPUs"
    if not n_trainers:
        fix = "Lower cluster.cpus_per_trainer or cluster.gpus_per_trainer, or add a node"
        return CheckStatus.FAIL, f"no node has room for a trainer with {share}: {_some(each)}", fix
    return CheckStatus.OK, f"room for {n_trainers} trainers with {share}: {_some(each)}", ""


def _listeners() -> CheckResult:
    """Report the ports that processes of Ray on this machine open beyond loopback."""
    owners = _owners()
    found = sorted({(owners[inode], port) for inode, port in _listening() if inode in owners})
    if not found:
        return CheckResult(CheckStatus.OK, "no process of Ray on this machine listens beyond loopback")
    ports = _some([f"{name} {port}" for name, port in found], 16)
    return CheckResult(
        CheckStatus.OK,
        f"{len(found)} listeners of Ray on this machine beyond loopback: {ports}",
        "Close these ports to other networks: deploy/security.md",
    )


def _listening() -> Iterator[tuple[str, int]]:
    """Yield (inode, port) of the listening TCP sockets that are not on loopback."""
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                host, _, port = fields[1].partition(":")
                if fields[3] == "0A" and host != loopback:
                    yield fields[9], int(port, 16)


def _owners() -> dict[str, str]:
    """Return the names of the processes of Ray by the inodes of their sockets, where they may be read."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if "/ray/" not in command and not command.startswith("ray::"):
                continue
            name = (process / "comm").read_text().strip()
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found[target[8:-1]] = name
    return found
