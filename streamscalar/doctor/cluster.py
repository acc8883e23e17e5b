"""The checks of `doctor` of a Ray cluster: whether it answers, lets us in, and what its nodes are."""

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
from streamscalar.doctor.checks import Check, Finding, Verdict
from streamscalar.doctor.store import nearest, scratch
from streamscalar.errors import BadCall, Kind
from streamscalar.runtime.ray.token import token_file
from streamscalar.store import medium_of, place

REACH_S = 5.0
CLUSTER_TIMEOUT_S = 150.0
"""Seconds for all nodes; Ray itself gives up on a head that does not answer after 120."""
REFUSED = "InvalidAuthToken"
"""What Ray writes, once a second, while it tries again with a token that is wrong or missing."""
SKEW_S = 2.0
"""Difference of clocks that shows: a run may look silent, or newer than it is."""
START = "Start the cluster (ray start --head), or open the port of its head"


def cluster_checks(address: str, store: str | None, cluster: ClusterSection) -> Iterator[Check]:
    """Yield the checks of the cluster at `address` as they are made; nothing is left in the store."""
    host, port = require_address(address)
    began = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError as error:
        yield Check("cluster", "reach", Finding(Verdict.FAIL, f"{address}: {error}", START), time.monotonic() - began)
        return
    yield Check("cluster", "reach", Finding(Verdict.OK, f"something listens at {address}"), time.monotonic() - began)
    with _shared(store) as (folder, nonce):
        yield from judged(_asked(address, folder, cluster), folder, nonce, cluster)
    yield Check("cluster", "listeners", _listeners())


def require_address(address: str) -> tuple[str, int]:
    """Return host and port.

    Raises
    ------
    BadCall
        The address is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        fix = "Name the head and the port that ray start printed"
        raise BadCall("--address", "must be host:port", repr(address), fix, Kind.CONFIG)
    return host, int(port)


@contextlib.contextmanager
def _shared(store: str | None) -> Iterator[tuple[str, str]]:
    """Put a number and a lock that is held where the nodes shall see them; empty where there is no folder."""
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
    """Yield what the child finds; a document with `refused` or `error` is the last."""
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
    """Yield the checks that follow from what `nodes.ask` found; `folder` and `nonce` are what the nodes shall see."""
    began = time.monotonic()

    def check(name: str, verdict: Verdict, found: str, fix: str = "") -> Check:
        return Check("cluster", name, Finding(verdict, found, fix), time.monotonic() - began)

    nothing: dict[str, Any] = {"kind": "nothing", "error": "the process that asks ended without a word"}
    first = next(documents, nothing)
    if "refused" in first or first.get("kind") == "AuthenticationError":
        yield check("authentication", Verdict.FAIL, *_refusal())
        return
    if "error" in first:
        name = "versions" if "ersion mismatch" in first["error"] else "answer"
        yield check(name, Verdict.FAIL, f"{first['kind']}: {first['error']}", _fix_of(name))
        return
    nodes: dict[str, Any] = first["nodes"]
    answers = {document["node"]: document for document in documents if "node" in document}
    silent = {node: answers.get(node, {}).get("error", "no answer") for node in nodes}
    fine = {_name(nodes, node): answer for node, answer in answers.items() if "error" not in answer}
    mute = [f"{_name(nodes, node)}: {why}" for node, why in silent.items() if _name(nodes, node) not in fine]
    dead = [f"{node['address']} ({node['reason'] or 'no reason given'})" for node in first["dead"]]
    found = f"{len(nodes)} alive" + (f", {len(dead)} dead since the head began: {_some(dead)}" if dead else "")
    fix = "Look for the cause on them; a node that was taken away on purpose needs nothing" if dead else ""
    yield check("nodes", Verdict.WARN if dead else Verdict.OK, found, fix)
    if mute:
        yield check("answers", Verdict.FAIL, _some(mute), "Look at the raylet of these nodes, and its log")
    else:
        yield check("answers", Verdict.OK, "every node runs a task")
    yield check("resources", *_resources(nodes, first["n_trainers"], cluster))
    if not fine:
        return
    yield check("authentication", *_authentication(fine))
    yield check("versions", *_versions(fine))
    if folder:
        yield check("store on nodes", *_store_seen(fine, nonce))
    else:
        yield check("store on nodes", Verdict.SKIPPED, "no folder to look for; name the store to have it looked for")
    late = [f"{name} {answer['skew_s']:+.3g} s" for name, answer in fine.items() if abs(answer["skew_s"]) > SKEW_S]
    fix = "Run a time service such as chrony on every node" if late else ""
    yield check("clocks", Verdict.WARN if late else Verdict.OK, _some(late) or f"within {SKEW_S:g} s of ours", fix)


def _name(nodes: Mapping[str, Any], node: str) -> str:
    return f"{nodes[node]['address']} ({node[:8]})"


def _some(texts: list[str], most: int = 4) -> str:
    return "; ".join(texts[:most]) + (f"; and {len(texts) - most} more" if len(texts) > most else "")


def _fix_of(name: str) -> str:
    if name == "versions":
        return "Install the Python and Ray of the cluster here, or ours there"
    return "Run this on a machine that is a node of the cluster, and see that the port is that of its head"


def _refusal() -> tuple[str, str]:
    """Return what a refused token means, and what to do."""
    held = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(token_file())
    has_token = held == "RAY_AUTH_TOKEN" or token_file().exists()
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return "the cluster asks for a token, and RAY_AUTH_MODE says to show none", "Unset RAY_AUTH_MODE"
    if has_token:
        return (
            f"the cluster refuses the token in {held}",
            "Take the one that ray get-auth-token prints on its head",
        )
    return (
        "the cluster asks for a token, and there is none here",
        f"Put the one that ray get-auth-token prints on its head into {held}, mode 0600, or RAY_AUTH_TOKEN",
    )


def _authentication(fine: Mapping[str, Mapping[str, Any]]) -> tuple[Verdict, str, str]:
    without = [name for name, answer in fine.items() if answer["auth"] != "token"]
    if without:
        return (
            Verdict.WARN,
            f"no token is asked for: whoever reaches a port of {_some(without)} runs code there",
            "Start every node with RAY_AUTH_MODE=token; see deploy/security.md",
        )
    return Verdict.OK, "the cluster takes our token", ""


def _versions(fine: Mapping[str, Mapping[str, Any]]) -> tuple[Verdict, str, str]:
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
        fix = "Install the same on every node: other versions of torch or numpy give other bits"
        return Verdict.FAIL, f"{_some(wrong)}; here: Python {python_version()}", fix
    return Verdict.OK, "Python and packages of every node are ours", ""


def _store_seen(fine: Mapping[str, Mapping[str, Any]], nonce: str) -> tuple[Verdict, str, str]:
    blind = [f"{name}: {answer['store_error']}" for name, answer in fine.items() if "store_error" in answer]
    blind += [
        f"{name}: another folder of that name" for name, answer in fine.items() if answer.get("nonce", nonce) != nonce
    ]
    if blind:
        fix = "Mount the same storage at the same path on every node, or use a bucket (store.url=s3://...)"
        return Verdict.FAIL, f"what was written here is not seen there: {_some(blind)}", fix
    unlocked = [name for name, answer in fine.items() if not answer["is_locked_out"]]
    if unlocked:
        fix = "Mount it with locks that hold between machines; without them two trainers may write one run"
        return Verdict.FAIL, f"a lock held here does not keep out {_some(unlocked)}", fix
    return Verdict.OK, "every node reads what was written here, and a lock held here keeps it out", ""


def _resources(nodes: Mapping[str, Any], n_trainers: int, cluster: ClusterSection) -> tuple[Verdict, str, str]:
    each = [f"{node['address']} {node['CPU']:g} CPUs {node['GPU']:g} GPUs" for node in nodes.values()]
    share = f"{cluster.cpus_per_trainer:g} CPUs and {cluster.gpus_per_trainer:g} GPUs"
    if not n_trainers:
        fix = "Lower cluster.cpus_per_trainer or cluster.gpus_per_trainer, or add a node"
        return Verdict.FAIL, f"no node can hold a trainer of {share}: {_some(each)}", fix
    return Verdict.OK, f"room for {n_trainers} trainers of {share}: {_some(each)}", ""


def _listeners() -> Finding:
    """Say which ports processes of Ray on this machine open to others."""
    owners = _owners()
    found = sorted({(owners[inode], port) for inode, port in _listening() if inode in owners})
    if not found:
        return Finding(Verdict.OK, "no process of Ray here listens beyond loopback")
    return Finding(
        Verdict.OK,
        f"{len(found)} listeners of Ray beyond loopback here: {_some([f'{name} {port}' for name, port in found], 16)}",
        "Close them to strangers: deploy/security.md",
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
    """Return the sockets, by inode, of the processes of Ray that we may look at, with their names."""
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
