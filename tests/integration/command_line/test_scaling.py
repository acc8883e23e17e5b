"""What the benchmark of the scaling takes apart and counts, on real processes and stores."""

import os
import subprocess
import sys
import time
from pathlib import Path

from streamscalar.bench.scaling.costs import coordinator_costs, run_costs
from streamscalar.bench.scaling.hosts import cpu_s, descendants, end


def test_processes_are_counted_with_those_they_started_and_ended_by_their_ids() -> None:
    busy = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{'while True: pass'}'])"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        while not (below := descendants(process.pid)) or sum(cpu_s([process.pid]).values()) < 0.3:
            time.sleep(0.05)
        bystander = subprocess.Popen(["sleep", "60"])
        end(process.pid)
        assert process.wait(5) != 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in below)
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()
    assert process.pid not in descendants(os.getpid())


def test_the_parts_of_a_run_are_measured(tmp_path: Path) -> None:
    found = run_costs(tmp_path, 4)
    assert (found.n_parameters, found.n_values, found.n_rows) == (64 * 4 + 4 + 40 + 10, 310 * 7, 80)
    assert 0 < found.stored_share < 1
    assert found.step_s >= 0
    assert min(found.store_s, found.embed_s, found.exact_s) > 0
    # Held: 16 components, a mean and a direction in float64, and the last row of six replicas.
    assert found.open_bytes > (16 + 1 + 1 + 6) * 310 * 8
    # The published length, steps, hashes, deltas and metrics of a segment at least.
    assert found.weights_files >= 5
    assert found.embedding_files >= 8
    # At least the documents of 21 arrays and the definition of the run.
    assert found.run_files > 22


def test_the_coordinator_is_measured_over_fresh_interrupted_and_finished_stores(tmp_path: Path) -> None:
    found = coordinator_costs(tmp_path, 80)
    assert found.n_runs == 80
    assert found.begin_finished_s < found.begin_interrupted_s
    assert 200 < found.run_bytes < 3000
    assert found.snapshot_bytes < 10_000
