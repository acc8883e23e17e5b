"""A driver in a process of its own: reads a job from standard input, and writes its answer as one line of JSON."""

import json
import sys
import time
from typing import Any

import numpy as np

from streamscalar.bench.scaling.hosts import PUSH_BYTES
from streamscalar.config import load_config
from streamscalar.protocol.progress import Snapshot
from streamscalar.runtime import execute, prepare

N_CALLS = 500
N_PUSHES = 50


class Receiver:
    """Takes what it is given, in a process of the cluster."""

    def take(self, _: Any) -> None:
        """Take it."""

    def cpu_s(self) -> float:
        """Return the processor time of its process."""
        return time.process_time()


def experiment(job: dict[str, Any]) -> dict[str, Any]:
    """Run an experiment; return its rows by the monotonic clock, and its digest."""
    rows: list[tuple[float, int]] = []

    def note(snapshot: Snapshot) -> None:
        if not rows or rows[-1][1] != snapshot.n_rows:
            rows.append((time.monotonic(), snapshot.n_rows))

    finished = execute(prepare(load_config(job["config"], environment={})), note)
    return {"rows": rows, "digest": finished.digest()}


def calls(job: dict[str, Any]) -> dict[str, float]:
    """Call an actor, and push blocks to it: seconds of the clock, and of the receiver's processor."""
    from streamscalar.runtime.ray.executor import hosted

    call = hosted(Receiver, job["address"])
    block = np.zeros(PUSH_BYTES // 8)
    answer: dict[str, float] = {}
    for name, what, n in (("call", None, N_CALLS), ("push", block, N_PUSHES)):
        call("take", what)
        cpu_s, began = call("cpu_s"), time.perf_counter()
        for _ in range(n):
            call("take", what)
        answer[f"{name}_wall_s"] = (time.perf_counter() - began) / n
        answer[f"{name}_cpu_s"] = (call("cpu_s") - cpu_s) / n
    return answer


def main() -> None:
    """Do what standard input asks."""
    job = json.loads(sys.stdin.read())
    answer = {"experiment": experiment, "calls": calls}[job["kind"]](job)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
