"""Measurements of the scaling benchmark: one and two hosts, unit costs, and the model of a cluster of 100 nodes.

Expected: with each host on its own core, two hosts produce nearly twice the rows of one. On a machine with two cores
they produce less, as head, driver and coordinator share these cores; the cores that each role kept busy are reported
too. The same experiment in one process on one core is the most that one host could do.
"""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamscalar.bench.figures import Figure
from streamscalar.bench.scaling.costs import (
    SEGMENT_ROWS,
    CoordinatorCosts,
    RunCosts,
    coordinator_costs,
    run_costs,
)
from streamscalar.bench.scaling.hosts import PUSH_BYTES, Cluster, Drive, cluster, drive
from streamscalar.bench.scaling.model import Capacities, Costs, Linear, Workload, loads, rows_per_s
from streamscalar.training.ensemble import pinned_threads

N_ROUNDS = 3
N_RUNS, N_STEPS = 8, 159
N_MANY = 10_000
WIDTHS = 32, 670
"""Hidden widths of the two networks whose costs are measured: 2,410 and 50,260 parameters."""
SHARES_OF_CORES = ("Trainer", "Embedder", "Coordinator", "driver", "Ray")
CASES = ("inline", "1 host", "2 hosts")


def bench_scaling() -> list[Figure]:
    """Measure hosts, unit costs and the coordinator of 10,000 runs; takes ten minutes and needs a quiet machine."""
    with tempfile.TemporaryDirectory(prefix="streamscalar-bench-") as folder, pinned_threads(1):
        root = Path(folder)
        with cluster() as head:
            figures, calls = host_figures(head, root)
        small, large = (run_costs(root, width) for width in WIDTHS)
        many = coordinator_costs(root, N_MANY)
        costs = unit_costs(small, large, many, calls)
        return [
            *figures,
            *_call_figures(calls),
            *_run_figures(small),
            *_run_figures(large),
            *_coordinator_figures(many),
            *(
                figure
                for run in (small, large)
                for bucket in (False, True)
                for figure in _model_figures(costs, run, bucket)
            ),
        ]


def host_figures(head: Cluster, folder: Path) -> tuple[list[Figure], dict[str, float]]:
    """Run the same experiment in one process, on one host and on two, alternately; then measure calls of actors."""
    rates: dict[str, list[float]] = defaultdict(list)
    cores: dict[str, list[dict[str, float]]] = defaultdict(list)
    digests = set()
    with head.host(0) as first:
        for turn in range(N_ROUNDS):
            for case in CASES if turn % 2 == 0 else CASES[::-1]:
                seen, digest = _case(head, first, case, folder / f"{case[0]}{turn}")
                rates[case].append(seen.rows_per_s(N_RUNS * (N_STEPS + 1)))
                cores[case].append(seen.cores(N_RUNS * (N_STEPS + 1)))
                digests.add(digest)
        calls, _ = drive({"kind": "calls", "address": head.address}, head.environment, [], None)
    figures = [Figure("digests that differ between hosts", float(len(digests) - 1), "", target=0.0, is_ceiling=True)]
    for case in CASES:
        figures += [
            Figure(f"{case}: rows", statistics.median(rates[case]), "1/s"),
            *(
                Figure(f"{case}: cores busy, {role}", statistics.median(c.get(role, 0.0) for c in cores[case]), "cores")
                for role in SHARES_OF_CORES
                if any(role in c for c in cores[case])
            ),
        ]
    figures += _ratios("2 hosts over 1 host", rates["2 hosts"], rates["1 host"], 1.6)
    figures += _ratios("1 host over one process on one core", rates["1 host"], rates["inline"], 0.9)
    busy = {case: [rate / sum(c.values()) for rate, c in zip(rates[case], cores[case], strict=True)] for case in CASES}
    figures += _ratios("rows per core and second, 2 hosts over 1 host", busy["2 hosts"], busy["1 host"], 0.9)
    return figures, calls


def _case(head: Cluster, first: int, case: str, store: Path) -> tuple[Drive, str]:
    config: dict[str, Any] = {
        "experiment": {"name": "hosts", "n_initial_conditions": 2},
        "task": {"name": "digits"},
        "model": {"widths": [64]},
        "training": {"learning_rate": [0.5, 1, 2, 4], "n_steps": N_STEPS, "device": "cpu"},
        "store": {"url": str(store), "segment_rows": SEGMENT_ROWS},
        "cluster": {"executor": "ray", "address": head.address},
    }
    job = {"kind": "experiment", "config": config}
    roots = [head.processes[0].pid, first]
    match case:
        case "inline":
            config["cluster"] = {"executor": "inline"}
            answer, cpu = drive(job, head.environment, [], 0)
        case "1 host":
            answer, cpu = drive(job, head.environment, roots, None)
        case _:
            with head.host(1) as second:
                answer, cpu = drive(job, head.environment, [*roots, second], None)
    return Drive([(t, n) for t, n in answer["rows"]], cpu), answer["digest"]


def _ratios(name: str, values: Sequence[float], bases: Sequence[float], target: float) -> list[Figure]:
    ratios = [value / base for value, base in zip(values, bases, strict=True)]
    return [
        Figure(name, statistics.median(ratios), "x", target=target),
        Figure(f"{name}, least of {len(ratios)} rounds", min(ratios), "x"),
        Figure(f"{name}, most of {len(ratios)} rounds", max(ratios), "x"),
    ]


def unit_costs(small: RunCosts, large: RunCosts, many: CoordinatorCosts, calls: Mapping[str, float]) -> Costs:
    """Return the costs for the model, from runs of two sizes."""

    def line(name: str, shared_by: float = 1.0) -> Linear:
        """Return the line through both sizes; the measured cost is that of `shared_by` rows."""
        found = Linear.through((small.n_values, getattr(small, name)), (large.n_values, getattr(large, name)))
        return replace(found, value_s=found.value_s / shared_by)

    parameters = large.n_parameters - small.n_parameters
    return Costs(
        step=line("step_s"),
        store=line("store_s", SEGMENT_ROWS),
        embed=line("embed_s", SEGMENT_ROWS),
        exact=line("exact_s", small.n_rows),
        report_s=many.report_s,
        handle_s=many.handle_s,
        snapshot_s=many.snapshot_s,
        obey_s=many.obey_s,
        call_s=calls["call_cpu_s"],
        byte_s=calls["push_cpu_s"] / PUSH_BYTES,
        coordinator_run_bytes=many.run_bytes,
        embedder_parameter_bytes=(large.open_bytes - small.open_bytes) / parameters,
        stored_share=large.stored_share,
        weights_files=large.weights_files,
        embedding_files=large.embedding_files,
        run_files=large.run_files,
    )


def _call_figures(calls: Mapping[str, float]) -> list[Figure]:
    return [
        Figure("call of an actor and back", calls["call_wall_s"] * 1e3, "ms"),
        Figure("call of an actor, its receiver", calls["call_cpu_s"] * 1e3, "core ms"),
        Figure("4 MiB to an actor", PUSH_BYTES / calls["push_wall_s"] / 1e6, "MB/s"),
        Figure("4 MiB to an actor, its receiver", calls["push_cpu_s"] * 1e3, "core ms"),
    ]


def _run_figures(run: RunCosts) -> list[Figure]:
    size = f"P={run.n_parameters:,}"
    row_ms = 1e3 / SEGMENT_ROWS
    return [
        Figure(f"{size}: trainer, step", run.step_s * 1e3, "core ms"),
        Figure(f"{size}: store, row", run.store_s * row_ms, "core ms"),
        Figure(f"{size}: embedder, row", run.embed_s * row_ms, "core ms"),
        Figure(f"{size}: exact solution of {run.n_rows} rows", run.exact_s * 1e3, "core ms"),
        Figure(f"{size}: embedder's memory of a run", run.open_bytes / 1e6, "MB"),
        Figure(f"{size}: files of a run", run.n_files, ""),
        Figure(f"{size}: files written when a run is made and solved", run.run_files, ""),
        Figure(f"{size}: bytes of a run", run.n_bytes / 1e6, "MB"),
        Figure(f"{size}: stored weights over raw", run.stored_share, "share"),
        Figure(f"{size}: files written per segment, weights", run.weights_files, ""),
        Figure(f"{size}: files written per segment, embedding", run.embedding_files, ""),
    ]


def _coordinator_figures(many: CoordinatorCosts) -> list[Figure]:
    name = f"coordinator, {many.n_runs:,} runs"
    return [
        Figure(f"{name}: plan", many.plan_s * 1e3, "ms"),
        Figure(f"{name}: begin, none stored", many.begin_fresh_s, "s", target=1.0, is_ceiling=True),
        Figure(f"{name}: begin, all interrupted", many.begin_interrupted_s, "s", target=10.0, is_ceiling=True),
        Figure(f"{name}: begin, all done", many.begin_finished_s, "s", target=2.0, is_ceiling=True),
        Figure(f"{name}: report", many.report_s * 1e6, "core us", target=10.0, is_ceiling=True),
        Figure(f"{name}: event", many.handle_s * 1e3, "core ms", target=1.0, is_ceiling=True),
        Figure(f"{name}: event, with its wait for the disk", many.handle_wall_s * 1e3, "ms"),
        Figure(f"{name}: snapshot, pickled", many.snapshot_s * 1e3, "core ms", target=1.0, is_ceiling=True),
        Figure(f"{name}: snapshot, size", many.snapshot_bytes / 1e3, "kB", target=20.0, is_ceiling=True),
        Figure(f"{name}: poll for requests, none there", many.obey_s * 1e3, "core ms"),
        Figure(f"{name}: poll for requests, 1,000 known", many.obey_after_s * 1e3, "core ms"),
        Figure(f"{name}: memory", many.run_bytes * many.n_runs / 1e6, "MB", target=50.0, is_ceiling=True),
    ]


def _model_figures(costs: Costs, run: RunCosts, is_in_bucket: bool) -> list[Figure]:
    """Return the loads of 100 nodes with 10,000 runs."""
    workload = replace(Workload(), n_parameters=run.n_parameters, is_in_bucket=is_in_bucket)
    capacities = Capacities()
    where = capacities.storage(workload).name
    name = f"model, P={run.n_parameters:,}, {workload.n_nodes} nodes, {workload.n_runs:,} runs, {where}"
    return [
        Figure(f"{name}: rows", rows_per_s(workload, costs), "1/s"),
        *(Figure(f"{name}: load of {load.part}", load.utilisation, "x") for load in loads(workload, costs, capacities)),
    ]
