"""Asks every node of a Ray cluster about itself; `doctor` runs this module as a child, as Ray may hang or abort.

`python -m streamscalar.runtime.ray.nodes ADDRESS FOLDER CLUSTER` writes one JSON document per line: first the nodes, or
the error that connecting ended with, then what each node answered. What runs on a node imports nothing of this package,
which may not be installed there: a function of a main module travels as its code.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from streamscalar.config.models import ClusterSection
from streamscalar.runtime.ray.pool import n_fitting
from streamscalar.runtime.ray.token import adopt_token

PACKAGES = ("streamscalar", "ray", "torch", "numpy", "zarr")
NODE_TIMEOUT_S = 60.0
"""Seconds that a node has to start a process and to look at the store."""
N_CLOCKS = 3
"""Times that the clock of a node is asked; the quickest answer says most."""


def about_node(folder: str, packages: tuple[str, ...]) -> dict[str, Any]:
    """Return what a node says of itself; with a folder, whether it sees what another machine wrote and locked there."""
    import fcntl
    import importlib.metadata
    import platform
    import socket
    from pathlib import Path

    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    found: dict[str, Any] = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": versions,
        "auth": os.environ.get("RAY_AUTH_MODE", ""),
    }
    if folder:
        try:
            found["nonce"] = (Path(folder) / "nonce").read_text()
            file = os.open(Path(folder) / "lock", os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found["is_locked_out"] = False
            except BlockingIOError:
                found["is_locked_out"] = True
            finally:
                os.close(file)
        except OSError as error:
            found["store_error"] = str(error)
    return found


def clock() -> float:
    """Return seconds since 1970."""
    return time.time()


def ask(address: str, folder: str, cluster: ClusterSection) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a cluster, and then what each says of itself.

    Parameters
    ----------
    address
        Of the cluster, as host:port.
    folder
        Where `doctor` put its files `nonce` and `lock`; empty where there is no folder to look at.
    cluster
        What a trainer needs.
    """
    quiet: dict[str, Any] = {"namespace": "streamscalar-doctor", "log_to_driver": False, "logging_level": "ERROR"}
    try:
        adopt_token()
        ray.init(address=address, **quiet)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is what was found)
        yield {"kind": type(error).__name__, "error": " ".join(str(error).split())[:300]}
        return
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in nodes if node["Alive"]]
    dead = [node for node in nodes if not node["Alive"]]
    yield {
        "nodes": {node["NodeID"]: _summary(node) for node in alive},
        "dead": [{"address": node["NodeManagerAddress"], "reason": node["DeathReasonMessage"]} for node in dead],
        "n_trainers": n_fitting((node["Resources"] for node in alive), cluster),
    }
    calls = {_on(node["NodeID"], about_node).remote(folder, PACKAGES): node["NodeID"] for node in alive}
    deadline = time.monotonic() + NODE_TIMEOUT_S
    while calls:
        ready, _ = ray.wait(list(calls), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        node = calls.pop(ready[0])
        try:
            yield {"node": node, **ray.get(ready[0]), "skew_s": _skew_s(node)}
        except Exception as error:  # noqa: BLE001  (as above)
            yield {"node": node, "error": " ".join(str(error).split())[:300]}
    for node in calls.values():
        yield {"node": node, "error": f"no answer within {NODE_TIMEOUT_S:.0f} s"}


def _summary(node: dict[str, Any]) -> dict[str, Any]:
    resources = node["Resources"]
    return {"address": node["NodeManagerAddress"], "CPU": resources.get("CPU", 0), "GPU": resources.get("GPU", 0)}


def _on(node: str, function: Any) -> Any:
    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=affinity)


def _skew_s(node: str) -> float:
    """Return by how much the clock of a node is ahead of ours at least; the time of the message counts for neither."""
    found: list[float] = []
    for _ in range(N_CLOCKS):
        sent = time.time()
        at: float = ray.get(_on(node, clock).remote(), timeout=NODE_TIMEOUT_S)
        received = time.time()
        found.append(max(0.0, at - received) + min(0.0, at - sent))
    return min(found, key=abs)


def main() -> None:
    """Write what is found to the standard output; what Ray prints goes to the standard error."""
    address, folder, cluster = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for document in ask(address, folder, ClusterSection.model_validate_json(cluster)):
        out.write(json.dumps(document) + "\n")
        out.flush()
    # Ray's own end waits for processes that may be what hangs.
    os._exit(0)


if __name__ == "__main__":
    main()
