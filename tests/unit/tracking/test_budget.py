"""The recording budget on a clock of our own."""

from itertools import pairwise

import pytest

from streamscalar.tracking.training.budget import Budget

WEIGHT = 0.1


def _simulate(
    n_steps: int,
    step_s: float,
    row_s: float,
    worker_row_s: float = 0.0,
    call_s: float = 0.0,
    max_overhead: float = 0.02,
    every: int | None = None,
    begin_s: float = 0.0,
) -> tuple[Budget, list[int], float, float]:
    """Train `n_steps`; the worker deals with a row at once. Return budget, recorded steps, total time, worker time."""
    budget = Budget(max_overhead, WEIGHT, every)
    now_s, worker_s, taken = 0.0, 0.0, list[int]()
    for step in range(n_steps):
        now_s += step_s
        other_s = begin_s if taken else 0.0
        if budget.is_on_grid(now_s) and budget.is_due(now_s, worker_s, len(taken), other_s):
            taken.append(step)
            budget.took_row(row_s)
            worker_s += worker_row_s
            now_s += row_s
        else:
            budget.took_none(call_s)
            now_s += call_s
        # The worker's work slows the training by its weight.
        now_s += WEIGHT * worker_row_s if taken and taken[-1] == step else 0.0
    return budget, taken, now_s, worker_s + begin_s


@pytest.mark.parametrize("step_s", [1e-4, 1e-3, 1e-2, 0.3])
@pytest.mark.parametrize("row_s", [1e-5, 1e-3, 0.02])
@pytest.mark.parametrize("worker_row_s", [0.0, 5e-3, 0.5])
def test_the_cost_stays_within_its_share(step_s: float, row_s: float, worker_row_s: float) -> None:
    budget, taken, now_s, worker_s = _simulate(3000, step_s, row_s, worker_row_s)
    assert taken[0] == 0
    first_s = row_s + WEIGHT * worker_row_s
    assert budget.overhead(now_s, worker_s) * budget.elapsed_s(now_s) <= 0.02 * budget.elapsed_s(now_s) + first_s
    assert budget.n_steps == 3000
    assert budget.n_recorded == len(taken)


def test_a_cheap_row_is_taken_at_every_step() -> None:
    _, taken, _, _ = _simulate(1000, 0.1, 1e-4, 1e-3)
    assert len(taken) == 1000


def test_rows_are_spaced_evenly_once_the_stride_is_found() -> None:
    budget, taken, _, _ = _simulate(20_000, 1e-3, 2e-4, 1e-3)
    # A row costs 0.3 ms of the 0.02 ms that a step allows: each 15th would do, so each 16th is taken.
    assert budget.stride == 16
    late = taken[len(taken) // 2 :]
    assert {b - a for a, b in pairwise(late)} == {16}
    assert len(taken) == pytest.approx(20_000 / 16, rel=0.02)


def test_a_row_waits_until_the_one_before_is_paid_for() -> None:
    _, taken, _, _ = _simulate(400, 1e-3, 1e-3)
    # Two rows of 1 ms are 2 % of 100 steps of 1 ms.
    assert taken[:2] == [0, 128]


def test_the_stride_falls_when_steps_become_slower() -> None:
    budget = Budget(0.02)
    now_s = 0.0
    for step_s, n_steps in ((1e-3, 4000), (0.1, 4000)):
        for _ in range(n_steps):
            now_s += step_s
            if budget.is_on_grid(now_s) and budget.is_due(now_s, 0.0, 0):
                budget.took_row(2e-4)
        if step_s == 1e-3:
            assert budget.stride == 16
    assert budget.stride == 1


def test_what_it_costs_to_begin_a_run_is_no_cost_of_a_row() -> None:
    budget, taken, _, _ = _simulate(20_000, 1e-3, 2e-4, 1e-3, begin_s=0.05)
    assert budget.stride == 16
    assert len(taken) > 1200


def test_calls_that_alone_cost_more_than_the_budget_leave_half_of_it_to_rows() -> None:
    budget, taken, now_s, _ = _simulate(5000, 1e-4, 1e-5, call_s=5e-6)
    assert 0.005 < len(taken) * 1e-5 / now_s <= 0.01
    assert budget.overhead(now_s, 0.0) > 0.02, "and all of it is reported"


def test_a_fixed_stride_is_kept_whatever_it_costs() -> None:
    budget, taken, now_s, worker_s = _simulate(100, 1e-3, 0.5, every=7)
    assert taken == list(range(0, 100, 7))
    assert budget.overhead(now_s, worker_s) > 0.9


def test_a_row_without_a_slot_halves_the_rate_for_a_while() -> None:
    budget = Budget(0.02)
    due = []
    for step in range(80):
        if budget.is_on_grid(float(step)) and budget.is_due(float(step), 0.0, 0):
            due.append(step)
            if step == 4:
                budget.found_no_slot()
            else:
                budget.took_row(1e-6)
    assert due[:5] == [0, 1, 2, 3, 4]
    # Four rows at every second step, then closer again.
    assert due[5:9] == [6, 8, 10, 12]
    assert due[9:] == list(range(13, 80))
    fixed = Budget(0.02, every_n_steps=3)
    fixed.found_no_slot()
    assert fixed.stride == 3
