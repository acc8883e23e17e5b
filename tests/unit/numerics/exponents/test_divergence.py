"""Exponents against known answers, and the statuses of what has none."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.numerics.exponents.curves import mean_log, saturation_level
from streamscalar.numerics.exponents.divergence import ftle, nmle
from streamscalar.types import Status
from tests.oracles import maps, naive

Floats = NDArray[np.float64]


def growing(rate: float, n_rows: int = 201, start: float = -18.0, level: float = 2.0, n: int = 5) -> Floats:
    """Return separations `(n_rows, n)` that grow at about `rate` per row and level off."""
    rng = np.random.default_rng(1)
    rates = rate * (1.0 + 0.02 * rng.standard_normal(n))
    clean = np.minimum(start + np.arange(n_rows)[:, None] * rates, level)
    return np.asarray(np.exp(clean + 0.01 * rng.standard_normal(clean.shape)))


def test_mean_of_log_and_log_of_mean() -> None:
    d = np.array([[1.0, 100.0], [0.0, 1.0], [1e300, 1e308]])
    assert mean_log(d).tolist()[:2] == [pytest.approx(math.log(10.0)), -math.inf]
    found = mean_log(d, "log_mean")
    np.testing.assert_allclose(found[:2], [math.log(50.5), math.log(0.5)], rtol=1e-14)
    np.testing.assert_allclose(found[2], math.log(5e307) + 1e-8, rtol=1e-10)


@pytest.mark.parametrize("rate", [0.2, 0.7, 1.6])
def test_exponential_growth_gives_its_rate(rate: float) -> None:
    found = nmle(np.arange(201), growing(rate))
    assert found.value == pytest.approx(rate, rel=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low < rate < found.high
    assert found.n == 5
    assert ftle(np.arange(201), growing(rate)).value == pytest.approx(rate, rel=0.06)


def turning(n_replicas: int, seed: int) -> Floats:
    """Return scalar separations `(160, n)` that grow at 0.3 per step and change their sign every eighth step."""
    rng = np.random.default_rng(seed)
    steps = np.arange(160)[:, None]
    size = np.minimum(1e-14 * np.exp(0.3 * steps), 1.0) * rng.uniform(0.5, 2.0, n_replicas)
    return np.asarray(np.abs(size * np.cos(0.4 * steps + rng.uniform(0.0, 2.0 * np.pi, n_replicas))))


def test_averaging_over_replicas_smooths_the_cusps_of_zero_crossings() -> None:
    found = {n: [nmle(np.arange(160), turning(n, seed)).value or 0.0 for seed in range(60)] for n in (1, 16)}
    assert np.std(found[16]) < 0.5 * np.std(found[1])
    assert np.mean(found[16]) == pytest.approx(0.3, abs=0.001)


def test_window_and_slope_equal_brute_force() -> None:
    d = growing(0.7)
    log_d = np.log(d).mean(axis=1)
    first, last = naive.amplitude_window(log_d)
    found = nmle(np.arange(201), d)
    assert found.window == (first, last)
    expected = naive.slope(np.arange(first, last + 1.0), log_d[first : last + 1])
    assert found.value == pytest.approx(expected, rel=1e-12)


def test_the_rate_is_per_step_and_not_per_row() -> None:
    d = growing(0.7)
    sparse = nmle(5 * np.arange(201), d)
    assert sparse.value == pytest.approx((nmle(np.arange(201), d).value or 0.0) / 5.0, rel=1e-12)
    assert sparse.window == (5, 105)


def test_growth_that_saturates_within_twelve_steps_is_measured() -> None:
    found = nmle(np.arange(201), growing(1.5, start=-8.0, level=9.0))
    assert found.value == pytest.approx(1.5, rel=0.03)
    assert found.window is not None
    assert found.window[1] <= 9


def test_interval_is_students_over_replica_slopes() -> None:
    d = np.exp(np.arange(50)[:, None] * np.array([0.1, 0.2, 0.3]))
    found = ftle(np.arange(50), d)
    assert found.value == pytest.approx(0.2)
    assert found.low is not None
    assert found.value is not None
    assert found.value - found.low == pytest.approx(4.302653 * 0.1 / math.sqrt(3.0), rel=1e-6)
    wide = ftle(np.arange(50), d, confidence=0.99)
    assert wide.low is not None
    assert wide.low < found.low
    two = ftle(np.arange(50), d[:, :2])
    assert two.value == pytest.approx(0.15)
    assert two.low is None
    assert two.confidence is None


@pytest.mark.parametrize("rate", [-0.2, -0.001, 0.0, 0.003])
def test_ftle_of_a_line_is_its_slope_whatever_the_sign(rate: float) -> None:
    d = np.exp(-18.0 + rate * np.arange(201))[:, None]
    assert ftle(np.arange(201), d).value == pytest.approx(rate, abs=1e-15)
    assert ftle(np.arange(201), d).window == (0, 200)
    assert nmle(np.arange(201), d).status is Status.NO_EXPONENTIAL_PHASE


def test_a_plateau_after_little_growth_is_no_saturation() -> None:
    d = np.exp(np.minimum(-8.0 + 0.3 * np.arange(201), -5.0))[:, None]
    assert ftle(np.arange(201), d).value == pytest.approx(3.0 / 200.0)
    assert nmle(np.arange(201), d).status is Status.NO_EXPONENTIAL_PHASE


def test_growth_to_the_end_is_not_saturated() -> None:
    d = np.exp(-18.0 + 0.1 * np.arange(201))[:, None]
    assert nmle(np.arange(201), d).status is Status.NOT_SATURATED
    assert nmle(np.arange(201), d).value is None


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_power_law_is_no_exponential_phase(power: int) -> None:
    d = (1e-8 * np.arange(1.0, 402.0) ** power)[:, None]
    assert nmle(np.arange(401), d).status in {
        Status.NO_EXPONENTIAL_PHASE,
        Status.NOT_SATURATED,
        Status.TOO_FEW_ROWS,
    }
    then_flat = np.minimum(d, d[200])
    assert not nmle(np.arange(401), then_flat).is_ok


def test_too_sparse_a_recording_says_too_few_rows() -> None:
    d = growing(8.0, n_rows=30)
    found = nmle(10 * np.arange(30), d)
    assert found.status is Status.TOO_FEW_ROWS
    assert "every_n_steps" in found.message


def test_bad_data_is_a_status() -> None:
    steps, d = np.arange(201), growing(0.7)
    for estimator in (ftle, nmle):
        assert estimator(steps, d[:, :0]).status is Status.TOO_FEW_REPLICAS
        assert estimator(steps[:1], d[:1]).status is Status.TOO_FEW_ROWS
        assert estimator(steps[:0], d[:0]).status is Status.TOO_FEW_ROWS
        for bad, status in (
            (np.nan, Status.NON_FINITE),
            (np.inf, Status.NON_FINITE),
            (0.0, Status.CONTRACTED),
        ):
            broken = d.copy()
            broken[7, 2] = bad
            assert estimator(steps, broken).status is status
    assert ftle(steps[:2], d[:2]).is_ok


def test_extreme_separations_do_not_overflow() -> None:
    d = np.array([[1e-300, 1e-300, 1e-300], [1e300, 1e300, 1e300]])
    assert ftle(np.array([0, 1]), d).value == pytest.approx(600.0 * math.log(10.0))


@pytest.mark.parametrize(("until", "reached"), [(0.5, True), (0.7, True), (0.85, False), (1.0, False)])
def test_plateau_needs_a_quarter_of_the_curve(until: float, reached: bool) -> None:
    n = 200
    log_d = -18.0 + 20.0 * np.minimum(np.arange(n) / (until * n), 1.0)
    found = saturation_level(log_d)
    assert found.is_reached is reached
    if reached:
        assert found.level == pytest.approx(2.0)
        assert log_d[found.row] >= 2.0 - math.log(2.0) > log_d[found.row - 1]


def test_plateau_of_too_few_rows_is_not_reached() -> None:
    assert not saturation_level(np.array([-9.0, 0.0, 0.0, 0.0, 0.0])).is_reached
    assert not saturation_level(np.zeros(50)).is_reached


def test_linear_map_gives_the_logarithm_of_its_factor() -> None:
    d = (1e-12 * 1.5 ** np.arange(60.0))[:, None]
    assert ftle(np.arange(60), d).value == pytest.approx(math.log(1.5), rel=1e-12)
    saturated = np.minimum(d, 1e-12 * 1.5**40)
    assert nmle(np.arange(60), saturated).value == pytest.approx(math.log(1.5), rel=1e-12)


def test_logistic_map_gives_ln_two() -> None:
    # Starts drawn from the invariant density x = sin^2(pi u / 2).
    starts = np.sin(np.pi / 2 * np.random.default_rng(2).uniform(size=300)) ** 2
    curve = maps.mean_divergence(maps.logistic, starts[:, None], 1e-12, 80, seed=3)
    assert nmle(np.arange(81), curve).value == pytest.approx(maps.LOGISTIC, rel=0.02)


@pytest.mark.parametrize("n_parameters", [2, 500])
def test_henon_map_gives_its_exponent_also_when_lifted(n_parameters: int) -> None:
    orbit = maps.trajectories(maps.henon, np.array([0.1, 0.1]), 0.0, 0, 1000, seed=0)[100::9, 0]
    curves = []
    for index, start in enumerate(orbit):
        states = maps.trajectories(maps.henon, start, 1e-12, 1, 120, seed=index)
        if n_parameters > 2:
            states = maps.lift(states, n_parameters, seed=5)
        curves.append(np.log(np.abs(states[:, 1] - states[:, 0]).sum(axis=1)))
    curve = np.exp(np.mean(curves, axis=0))[:, None]
    assert nmle(np.arange(121), curve).value == pytest.approx(maps.HENON, rel=0.03)


def test_lifting_leaves_the_exponent_of_every_run_alone() -> None:
    states = maps.trajectories(maps.henon, np.array([0.3, 0.2]), 1e-10, 5, 150, seed=4)
    lifted = maps.lift(states, 400, seed=6)
    flat = np.linalg.norm(states[:, 1:] - states[:, :1], axis=2)
    high = np.linalg.norm(lifted[:, 1:] - lifted[:, :1], axis=2)
    assert nmle(np.arange(151), high).value == pytest.approx(nmle(np.arange(151), flat).value, rel=1e-3)


@pytest.mark.parametrize("factor", [0.9, 1.05, -1.4])
def test_gradient_descent_on_a_quadratic(factor: float) -> None:
    weights = np.full((1, 4, 20), 1e-3)
    weights[0, 1:] += np.random.default_rng(8).uniform(-1e-8, 1e-8, (3, 20))
    rows = [weights[0]]
    for _ in range(100):
        rows.append(rows[-1] * factor)
    d = np.abs(np.array(rows)[:, 1:] - np.array(rows)[:, :1]).sum(axis=2)
    # Rounding of the weights, 1e-19 against separations of 1e-8, bounds the tolerance.
    assert ftle(np.arange(101), d).value == pytest.approx(math.log(abs(factor)), abs=1e-7)


@pytest.mark.parametrize("n_rows", [101, 201, 401, 501, 800, 1000, 1200, 2000, 4000])
def test_linear_growth_of_any_length_has_no_exponential_phase(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    steps = np.arange(n_rows)
    for factor in 10.0 ** rng.uniform(-2, 6, 60):
        noise = np.exp(0.02 * rng.standard_normal((n_rows, 3)))
        found = nmle(steps, (1.0 + factor * steps)[:, None] * noise)
        assert not found.is_ok, (factor, found)
