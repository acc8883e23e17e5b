"""Driver of the scaling benchmark: reads a job from standard input, prints the result as one line of JSON."""

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
    """An actor that receives values and discards them."""

    def take(self, _: Any) -> None:
        """Receive a value."""

    def cpu_s(self) -> float:
        """Return the processor seconds of the process of the actor."""
        return time.process_time()


def experiment(job: dict[str, Any]) -> dict[str, Any]:
    """Run an experiment; return its number of rows by monotonic time, and its digest."""
    rows: list[tuple[float, int]] = []

    def note(snapshot: Snapshot) -> None:
        if not rows or rows[-1][1] != snapshot.n_rows:
            rows.append((time.monotonic(), snapshot.n_rows))

    finished = execute(prepare(load_config(job["config"], environment={})), note)
    return {"rows": rows, "digest": finished.digest()}


def calls(job: dict[str, Any]) -> dict[str, float]:
    """Call an actor and send blocks to it; return elapsed seconds and processor seconds of the receiver, per call."""
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
    """Carry out the job on standard input."""
    job = json.loads(sys.stdin.read())
    answer = {"experiment": experiment, "calls": calls}[job["kind"]](job)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
