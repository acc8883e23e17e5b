"""The model against hand-computed cases."""

from dataclasses import replace

import pytest

from streamscalar.bench.scaling.costs import CoordinatorCosts, RunCosts
from streamscalar.bench.scaling.hosts import Drive
from streamscalar.bench.scaling.measure import unit_costs
from streamscalar.bench.scaling.model import (
    FILES,
    POLLS_PER_S,
    Capacities,
    Costs,
    Linear,
    Load,
    Workload,
    loads,
    rows_per_s,
)

COSTS = Costs(
    step=Linear(0.1, 0.002),
    store=Linear(1.6, 0.0005),
    embed=Linear(3.2, 0.001),
    exact=Linear(10.0, 0.0002),
    report_s=0.001,
    handle_s=0.01,
    snapshot_s=0.002,
    obey_s=0.003,
    call_s=0.004,
    byte_s=1e-5,
    coordinator_run_bytes=1000,
    embedder_parameter_bytes=100,
    stored_share=0.5,
    weights_files=10,
    embedding_files=30,
    run_files=78,
)
WORKLOAD = Workload(
    n_nodes=2,
    cores_per_node=4,
    n_runs=50,
    n_rows=100,
    n_parameters=50,
    n_replicas=4,
    itemsize=8,
    every_n_steps=2,
    segment_rows=16,
)
"""Rows of 200 values, 1,600 bytes. Trainers: 2 x 4 cores, less 2 embedders and a coordinator, are 5. A row takes two
steps of 0.1 + 0.4 s and 0.1 + 0.1 s in the store: 1.2 s."""
ROWS = 5 / 1.2


def _load(part: str, workload: Workload = WORKLOAD, capacities: Capacities | None = None) -> Load:
    return next(load for load in loads(workload, COSTS, capacities or Capacities()) if load.part == part)


def test_trainers_that_never_wait_set_the_pace() -> None:
    assert rows_per_s(WORKLOAD, COSTS) == pytest.approx(ROWS)
    # Ten runs on a hundred cores: ten trainers.
    assert rows_per_s(replace(WORKLOAD, n_nodes=25, n_runs=10), COSTS) == pytest.approx(10 / 1.2)


def test_embedders_take_blocks_embed_them_and_solve() -> None:
    # Per row 0.2 + 0.2 to embed, 0.1 + 0.04 of the exact solution, 0.016 + 0.00025 to receive.
    load = _load("embedders")
    assert load.demand == pytest.approx(ROWS * 0.55625)
    assert load.capacity == 2.0
    assert _load("embedders", replace(WORKLOAD, n_embedders=4)).capacity == 4.0


def test_the_coordinator_hears_of_blocks_and_events_and_is_polled() -> None:
    blocks, runs = ROWS / 16, ROWS / 100
    expected = blocks * 0.005 + runs * 2 * (0.01 + 0.5 + 0.004) + POLLS_PER_S * 0.009
    load = _load("coordinator", capacities=Capacities(files=replace(FILES, wait_s=0.5)))
    assert load.demand == pytest.approx(expected)
    # Two experiments have a coordinator each: half of what is shared, and one trainer less.
    halved = _load("coordinator", replace(WORKLOAD, n_experiments=2), Capacities(files=replace(FILES, wait_s=0.5)))
    assert halved.demand == pytest.approx((expected - POLLS_PER_S * 0.009) * 4 / 5 / 2 + POLLS_PER_S * 0.009)


def test_blocks_cross_the_network_unless_each_node_has_its_embedder() -> None:
    assert _load("network into a node with embedders").demand == 0
    spread = replace(WORKLOAD, n_embedders=2)
    assert _load("network into a node with embedders", spread).demand == pytest.approx(ROWS * 1600 / 2)
    assert _load("network out of a node").demand == pytest.approx(ROWS * 1600 * 1.5 / 2)
    assert _load("network out of a node", spread).demand == pytest.approx(ROWS * 1600 * 2.5 / 2)


def test_the_storage_takes_the_log_and_the_sealed_rows() -> None:
    assert _load("shared storage, bytes").demand == pytest.approx(ROWS * 1600 * 1.5)
    # Two requests per row for the log, four for each of the 40 files of a segment, and of the 78 + 2 of a run.
    assert _load("shared storage, requests").demand == pytest.approx(ROWS * 2 + (ROWS / 16 * 40 + ROWS / 100 * 80) * 4)
    bucket = replace(WORKLOAD, is_in_bucket=True)
    assert _load("bucket, bytes", bucket).demand == pytest.approx(ROWS * 800)
    # 22 requests for a segment, and one for each file of a run.
    assert _load("bucket, requests", bucket).demand == pytest.approx(ROWS / 16 * 22 + ROWS / 100 * 80)
    assert _load("bucket, requests", bucket).capacity == 3500
    assert _load("bucket, requests", replace(bucket, n_experiments=2)).capacity == 7000


def test_a_segment_has_no_more_rows_than_its_run() -> None:
    short = replace(WORKLOAD, n_rows=8, is_in_bucket=True)
    # 0.1 + 0.1 s in the store and half of 1.6: a row takes 1.3 s.
    assert rows_per_s(short, COSTS) == pytest.approx(5 / 1.3)
    assert _load("bucket, requests", short).demand == pytest.approx(5 / 1.3 / 8 * (22 + 80))


def test_memory_and_the_start_of_the_actors() -> None:
    assert _load("memory of a node with embedders").demand == pytest.approx(2 * 5 * 50 * 100 / 2)
    assert _load("memory of the coordinator").demand == 50_000
    assert _load("start of the actors", capacities=Capacities(actors_per_s=2)).demand == pytest.approx(8 / 2)


def test_the_fullest_part_comes_first() -> None:
    found = loads(WORKLOAD, COSTS, Capacities())
    assert [load.utilisation for load in found] == sorted((load.utilisation for load in found), reverse=True)


def test_a_line_meets_both_measurements_and_knows_nothing_below() -> None:
    line = Linear.through((100, 1.0), (300, 7.0))
    assert [line.at(n) for n in (10, 100, 300)] == pytest.approx([1.0, 1.0, 7.0])
    assert line.at(300, share=2) == pytest.approx(9.0 - 1.0)


def _run(n_values: int, scale: float) -> RunCosts:
    return RunCosts(
        n_values=n_values,
        n_parameters=n_values // 4,
        n_rows=80,
        step_s=0.1 * scale,
        store_s=1.6 * scale,
        embed_s=3.2 * scale,
        exact_s=8.0 * scale,
        open_bytes=1000 * scale,
        stored_share=0.6,
        n_files=134,
        n_bytes=10_000,
        weights_files=12.0,
        embedding_files=28.0,
        run_files=60,
    )


def test_measured_costs_become_those_of_the_model() -> None:
    calls = {"call_cpu_s": 1e-4, "push_cpu_s": 4 * 2.0**20 * 1e-9}
    many = CoordinatorCosts(
        n_runs=10,
        plan_s=0.0,
        begin_fresh_s=0.0,
        begin_interrupted_s=0.0,
        begin_finished_s=0.0,
        report_s=1e-6,
        handle_s=2e-4,
        handle_wall_s=1.0,
        snapshot_s=3e-4,
        snapshot_bytes=5000,
        obey_s=4e-6,
        obey_after_s=1.0,
        run_bytes=700.0,
    )
    costs = unit_costs(_run(400, 1), _run(800, 3), many, calls)
    assert [costs.step.at(n) for n in (400, 800)] == pytest.approx([0.1, 0.3])
    # What a segment of 16 rows costs is shared by its rows.
    assert [costs.store.at(n, 16) for n in (400, 800)] == pytest.approx([0.1, 0.3])
    assert [costs.embed.at(n, 16) for n in (400, 800)] == pytest.approx([0.2, 0.6])
    assert [costs.exact.at(n, 80) for n in (400, 800)] == pytest.approx([0.1, 0.3])
    assert costs.embedder_parameter_bytes == pytest.approx(2000 / 100)
    assert costs.byte_s == pytest.approx(1e-9)
    assert (costs.report_s, costs.handle_s, costs.snapshot_s, costs.obey_s) == (1e-6, 2e-4, 3e-4, 4e-6)


def test_rates_and_cores_are_those_between_15_and_75_percent() -> None:
    rows = [(0.0, 0), (1.0, 10), (2.0, 15), (4.0, 55), (5.0, 75), (9.0, 100)]
    cpu = [(1.0, {"Ray": 9.0}), (2.5, {"Ray": 10.0}), (4.5, {"Ray": 12.0, "Trainer": 1.0}), (6.0, {"Ray": 90.0})]
    seen = Drive(rows, cpu)
    assert seen.rows_per_s(100) == pytest.approx(60 / 3)
    assert seen.cores(100) == pytest.approx({"Ray": 1.0, "Trainer": 0.5})
