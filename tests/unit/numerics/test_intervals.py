"""Coverage of intervals and the aggregation over initial conditions."""

import numpy as np
import pytest

from streamscalar.errors import BadCall
from streamscalar.numerics.intervals import (
    IntervalMethod,
    binomial,
    bootstrap_t,
    over_initial_conditions,
    steps_over_initial_conditions,
    student,
)
from streamscalar.types import Estimate, Status


def ok(value: float) -> Estimate:
    return Estimate(value, Status.OK, method="m")


def combine(estimates: list[Estimate], method: IntervalMethod = "student") -> Estimate:
    return over_initial_conditions(estimates, method, 0.95, 500, np.random.default_rng(1))


def test_student_against_the_table() -> None:
    low, high = student(np.array([4.0, 6.0, 8.0, 10.0]), 0.9)
    half = 2.353363 * np.std([4.0, 6.0, 8.0, 10.0], ddof=1) / 2.0
    np.testing.assert_allclose([low, high], [7.0 - half, 7.0 + half], rtol=1e-6)


def test_student_of_three_covers_what_it_states() -> None:
    draws = np.random.default_rng(2).standard_normal((4000, 3))
    hits = np.mean([low <= 0.0 <= high for low, high in (student(draw, 0.95) for draw in draws)])
    assert 0.94 < hits < 0.96


@pytest.mark.parametrize(("n", "least"), [(4, 0.91), (10, 0.92)])
def test_bootstrap_t_covers_more_than_a_percentile_bootstrap(n: int, least: float) -> None:
    rng = np.random.default_rng(3)
    draws = rng.standard_normal((400, n))
    hits = np.mean([low <= 0.0 <= high for low, high in (bootstrap_t(draw, 0.95, 400, rng) for draw in draws)])
    assert least < hits < 0.99


def test_bootstrap_t_of_equal_values_is_a_point() -> None:
    assert bootstrap_t(np.full(4, 0.3), 0.95, 100, np.random.default_rng(0)) == (0.3, 0.3)


def test_binomial_holds_its_tails() -> None:
    np.testing.assert_allclose(binomial(0, 5, 0.95), (0.0, 1.0 - 0.025 ** (1 / 5)), rtol=1e-12)
    np.testing.assert_allclose(binomial(5, 5, 0.95), (0.025 ** (1 / 5), 1.0), rtol=1e-12)
    np.testing.assert_allclose(binomial(7, 10, 0.95), (0.34755, 0.93326), atol=1e-5)


@pytest.mark.parametrize("method", ["student", "bootstrap_t"])
def test_mean_over_initial_conditions(method: IntervalMethod) -> None:
    found = combine([ok(1.0), ok(2.0), ok(3.0), ok(6.0)], method)
    assert found.value == 3.0
    assert found.n == 4
    assert found.low is not None
    assert found.high is not None
    assert found.low < 3.0 < found.high
    assert method in found.method


def test_bootstrap_t_of_three_would_cover_too_little_and_is_not_used() -> None:
    three = [ok(1.0), ok(2.0), ok(4.0)]
    assert combine(three, "bootstrap_t") == combine(three, "student")
    assert "student" in combine(three, "bootstrap_t").method


def test_values_that_are_missing_are_told() -> None:
    lost = Estimate.failed(Status.NOT_SATURATED)
    found = combine([ok(1.0), ok(2.0), ok(3.0), lost])
    assert found.n == 3
    assert "3 of 4" in found.message
    assert "1 not_saturated" in found.message


def test_two_values_are_too_few_and_are_told() -> None:
    found = combine([ok(0.25), ok(0.5)])
    assert found.status is Status.TOO_FEW_INITIAL_CONDITIONS
    assert found.n == 2
    assert "0.25, 0.5" in found.message


def test_no_value_gives_the_commonest_status() -> None:
    a, b = Estimate.failed(Status.NOT_SATURATED), Estimate.failed(Status.NO_EXPONENTIAL_PHASE)
    assert combine([a, b, b]).status is Status.NO_EXPONENTIAL_PHASE
    assert combine([]).status is Status.MISSING


def test_steps_to_accuracy_are_averaged_only_when_all_reached_it() -> None:
    lost = Estimate.failed(Status.NOT_REACHED)
    rng = np.random.default_rng(1)
    assert steps_over_initial_conditions([ok(1.0), ok(2.0), ok(3.0)], "student", 0.95, 10, rng).value == 2.0
    partly = steps_over_initial_conditions([ok(1.0), ok(2.0), ok(3.0), lost], "student", 0.95, 10, rng)
    assert partly.status is Status.PARTLY_REACHED
    assert "3 of 4" in partly.message
    assert steps_over_initial_conditions([lost, lost], "student", 0.95, 10, rng).status is Status.NOT_REACHED


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="values"):
        student(np.array([1.0]), 0.95)
    with pytest.raises(BadCall, match="confidence"):
        student(np.array([1.0, 2.0]), 1.0)
    with pytest.raises(BadCall, match="n_hits"):
        binomial(3, 2, 0.95)
    with pytest.raises(BadCall, match="n_hits"):
        binomial(0, 0, 0.95)
