"""Queries the nodes of a Ray cluster; `doctor` runs this module as a child process, because Ray may hang or abort.

`python -m streamscalar.runtime.ray.nodes ADDRESS FOLDER CLUSTER` writes one JSON document per line: first the nodes, or
the error of connecting, then the answer of each node. Functions that run on a node import nothing of this package,
which may not be installed there: Ray sends functions of a main module as code.
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
"""Timeout for a node to start a process and to read the store."""
N_CLOCKS = 3
"""Number of readings of the clock of a node; the most precise one counts."""


def about_node(folder: str, packages: tuple[str, ...]) -> dict[str, Any]:
    """Return facts about a node; with a folder, also whether it sees the file and the lock that `doctor` put there."""
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


def query_nodes(address: str, folder: str, cluster: ClusterSection) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a cluster, then the answer of each.

    Parameters
    ----------
    address
        Address of the cluster, as host:port.
    folder
        Folder of the files `nonce` and `lock` of `doctor`; empty to skip this check.
    cluster
        Resources of a trainer.
    """
    quiet: dict[str, Any] = {"namespace": "streamscalar-doctor", "log_to_driver": False, "logging_level": "ERROR"}
    try:
        adopt_token()
        ray.init(address=address, **quiet)
    except Exception as error:  # noqa: BLE001  (any error is the result)
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
    """Return a lower bound of the difference between the clocks of a node and of this machine, in seconds."""
    found: list[float] = []
    for _ in range(N_CLOCKS):
        sent = time.time()
        at: float = ray.get(_on(node, clock).remote(), timeout=NODE_TIMEOUT_S)
        received = time.time()
        found.append(max(0.0, at - received) + min(0.0, at - sent))
    return min(found, key=abs)


def main() -> None:
    """Write the documents to the standard output; what Ray prints goes to the standard error."""
    address, folder, cluster = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for document in query_nodes(address, folder, ClusterSection.model_validate_json(cluster)):
        out.write(json.dumps(document) + "\n")
        out.flush()
    # The shutdown of Ray waits for processes that may hang.
    os._exit(0)


if __name__ == "__main__":
    main()
