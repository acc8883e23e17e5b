"""The clusters of the benchmark of the scaling.

Proves that each has a token of its own, keeps its hosts on their processors, and leaves nothing behind. Takes half a
minute.
"""

import os
from pathlib import Path

from streamscalar.bench.scaling.hosts import cluster, descendants, drive


def test_a_cluster_has_its_own_token_and_leaves_nothing_behind() -> None:
    with cluster() as head, head.host(0) as host:
        pids = [head.processes[0].pid, host, *descendants(head.processes[0].pid), *descendants(host)]
        assert os.sched_getaffinity(host) == {0}
        assert all(os.sched_getaffinity(pid) == {0} for pid in descendants(host))
        answer, _ = drive({"kind": "calls", "address": head.address}, head.environment, [], None)
        assert answer["call_wall_s"] > answer["call_cpu_s"] > 0
        assert len(head.environment["RAY_AUTH_TOKEN"]) == 64
        folder = head.folder
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not folder.exists()
