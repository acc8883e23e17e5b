"""Characteristic times: a known end of growth is found, and what has none gets none."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.divergence import LEAST_FIT_ROWS
from streamscalar.numerics.times.characteristic import (
    characteristic_time,
    characteristic_time_published,
    fit_broken_line,
)
from streamscalar.types import Estimate, Status
from tests.oracles import times

Floats = NDArray[np.float64]
STEPS = np.arange(201)
T = STEPS[:, None].astype(np.float64)


def found(separation: Floats) -> Estimate:
    return characteristic_time(np.arange(len(separation)), separation)


@pytest.mark.parametrize(("end", "rate"), [(20.3, 0.9), (40.0, 0.4), (75.5, 0.25), (130.7, 0.15)])
def test_the_end_of_exponential_growth_is_found_within_a_row(end: float, rate: float) -> None:
    exact = np.exp(rate * (np.minimum(T, end) - end) * np.ones(3))
    assert found(exact).value == pytest.approx(end, abs=1e-6)
    noisy = [found(times.ending_growth(end, 201, 5, np.random.default_rng(seed), rate)).value for seed in range(20)]
    assert np.median(np.abs(np.array(noisy, dtype=np.float64) - end)) < 1.0


def test_the_time_is_in_steps_and_not_in_rows() -> None:
    d = times.ending_growth(60.4, 201, 5, np.random.default_rng(1), 0.3)
    sparse = characteristic_time(4 * STEPS, d)
    assert sparse.value == pytest.approx(4.0 * (found(d).value or 0.0), rel=1e-9)
    assert sparse.window == (4, 4 * (found(d).window or (0, 0))[1])


def test_the_window_is_the_growth() -> None:
    estimate = found(times.ending_growth(60.4, 201, 5, np.random.default_rng(1), 0.3))
    assert estimate.value is not None
    assert estimate.window == (1, math.floor(estimate.value))
    assert estimate.n == 5


@pytest.mark.parametrize("seed", range(6))
def test_the_broken_line_is_the_best_of_a_fine_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.uniform(0.5, 1.5, 40)) + 1e4
    y = np.minimum(0.4 * (x - x[rng.integers(8, 32)]), 0.0) + 0.5 * rng.standard_normal(40) - 1e3
    at, residual = times.broken_line(x, y, LEAST_FIT_ROWS, 50)
    fit = fit_broken_line(x, y)
    assert fit.breakpoint == pytest.approx(at, abs=0.04)
    assert fit.residual == pytest.approx(residual, rel=1e-3)
    assert fit.residual <= residual * (1.0 + 1e-9)
    columns = np.stack([np.ones(40), np.minimum(x - fit.breakpoint, 0), np.maximum(x - fit.breakpoint, 0)], axis=1)
    _, rise, drift = np.linalg.lstsq(columns, y, rcond=None)[0]
    np.testing.assert_allclose([fit.rise, fit.drift], [rise, drift], rtol=1e-6, atol=1e-9)


def test_the_broken_line_is_the_best_on_every_prefix() -> None:
    rng = np.random.default_rng(8)
    x = np.arange(34.0)
    y = np.minimum(0.5 * x, 7.3) + 0.3 * rng.standard_normal(34)
    for n in range(2 * LEAST_FIT_ROWS, 35):
        at, residual = times.broken_line(x[:n], y[:n], LEAST_FIT_ROWS, 10)
        fit = fit_broken_line(x[:n], y[:n])
        assert fit.residual <= residual * (1.0 + 1e-9)
        assert fit.residual == pytest.approx(residual, rel=0.02)
        assert fit.breakpoint == pytest.approx(at, abs=0.2)


def linear(rng: np.random.Generator) -> Floats:
    return np.asarray((1.0 + 10.0 ** rng.uniform(-1, 3) * T) * np.exp(rng.uniform(0, 0.6) * noise(rng)))


def linear_then_level(rng: np.random.Generator) -> Floats:
    rows = np.minimum(T, rng.uniform(40, 140))
    return np.asarray((1.0 + 10.0 ** rng.uniform(-1, 3) * rows) * np.exp(rng.uniform(0, 0.6) * noise(rng)))


def contraction(rng: np.random.Generator) -> Floats:
    return np.asarray(1e-2 * np.exp(-rng.uniform(0.01, 0.3) * T + rng.uniform(0, 0.6) * noise(rng)) + 1e-12)


def power_law(rng: np.random.Generator) -> Floats:
    rows = np.minimum(T, rng.uniform(40, 300))
    return np.asarray((1.0 + rows) ** rng.uniform(0.5, 4.0) * np.exp(rng.uniform(0, 0.6) * noise(rng)))


def random_walk(rng: np.random.Generator) -> Floats:
    return np.asarray(np.abs(1e-8 + np.cumsum(noise(rng), axis=0)))


def random_walk_in_many_dimensions(rng: np.random.Generator) -> Floats:
    walk = np.cumsum(rng.standard_normal((201, 5, 30)), axis=0)
    return np.asarray(np.sqrt(np.square(walk).sum(axis=2)))


def noise(rng: np.random.Generator) -> Floats:
    return rng.standard_normal((201, 5))


@pytest.mark.parametrize(
    "curve",
    [linear, linear_then_level, contraction, power_law, random_walk, random_walk_in_many_dimensions],
)
def test_what_is_not_exponential_never_gets_a_time(curve: Callable[[np.random.Generator], Floats]) -> None:
    statuses = {found(curve(np.random.default_rng(seed))).status for seed in range(200)}
    assert Status.OK not in statuses
    assert statuses <= {Status.NO_EXPONENTIAL_PHASE, Status.NOT_SATURATED, Status.TOO_FEW_ROWS}


def test_a_logarithm_that_walks_at_random_seldom_gets_a_time() -> None:
    curves = (np.exp(np.cumsum(noise(np.random.default_rng(seed)), axis=0)) for seed in range(200))
    assert sum(found(curve).is_ok for curve in curves) <= 4


@pytest.mark.parametrize(
    ("separation", "why"),
    [
        ((1.0 + np.minimum(T, 60.0) / 5.0) ** 4, "A power of the step"),
        (1.0 + (0.1 * np.minimum(T, 100.0)) ** 3, "A power of the step"),
        ((1.0 + 0.1 * np.minimum(T, 200.0)) ** 2.5, "fitted growth is 47.6-fold"),
        (np.exp(np.clip(1.5 * (T - 40.0), 0.0, 15.0)), "along a line (R^2 = 0.74)"),
    ],
)
def test_growth_that_is_not_exponential_is_refused_with_its_reason(separation: Floats, why: str) -> None:
    assert found(separation).status is Status.NO_EXPONENTIAL_PHASE
    assert why in found(separation).message


def test_growth_that_has_only_slowed_down_is_not_saturated() -> None:
    slower = np.exp(0.5 * np.minimum(T, 40.0) + 0.06 * np.maximum(T - 40.0, 0.0))
    assert found(slower).status is Status.NOT_SATURATED
    shrinking = np.exp(0.5 * np.minimum(T, 40.0) - 0.06 * np.maximum(T - 40.0, 0.0))
    assert found(shrinking).status is Status.NOT_SATURATED
    assert "shrink" in found(shrinking).message
    assert found(np.exp(0.1 * T)).status is Status.NOT_SATURATED


def test_a_creeping_plateau_is_a_plateau() -> None:
    creeping = np.exp(0.5 * np.minimum(T, 40.0) + 0.2 * np.log1p(np.maximum(T - 40.0, 0.0) / 10.0))
    assert found(creeping).value == pytest.approx(40.0, abs=1.0)


@pytest.mark.parametrize("scatter", [0.03, 0.1])
def test_the_interval_covers_what_it_states(scatter: float) -> None:
    hits = []
    for seed in range(200):
        estimate = found(times.ending_growth(30.0, 121, 5, np.random.default_rng(seed), 0.6, scatter))
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.confidence == 0.95
        hits.append(estimate.low <= 30.0 <= estimate.high)
    assert 0.90 <= np.mean(hits) <= 0.99


def test_fewer_than_three_replicas_have_no_interval() -> None:
    d = times.ending_growth(30.0, 121, 3, np.random.default_rng(3), 0.6)
    assert found(d).low is not None
    for n in (1, 2):
        assert found(d[:, :n]).is_ok
        assert found(d[:, :n]).low is None
        assert "No interval" in found(d[:, :n]).message


def test_the_logarithm_of_the_mean_is_an_option() -> None:
    d = times.ending_growth(30.0, 121, 5, np.random.default_rng(4), 0.6, scatter=0.1)
    late = characteristic_time(np.arange(121), d, "log_mean")
    assert late.value == pytest.approx(found(d).value, abs=5.0)
    assert late.value != found(d).value
    assert "log_mean" in late.method


def test_bad_data_is_a_status() -> None:
    d = times.ending_growth(30.0, 121, 5, np.random.default_rng(5), 0.6)
    assert found(d[:, :0]).status is Status.TOO_FEW_REPLICAS
    assert found(d[:3]).status is Status.TOO_FEW_ROWS
    assert found(d[:0]).status is Status.TOO_FEW_ROWS
    assert found(np.full((121, 5), 0.3)).status is Status.CONSTANT
    assert found(np.zeros((121, 5))).status is Status.CONTRACTED
    for bad, status in ((np.nan, Status.NON_FINITE), (np.inf, Status.NON_FINITE), (0.0, Status.CONTRACTED)):
        broken = d.copy()
        broken[60, 2] = bad
        assert found(broken).status is status
        assert found(broken).value is None


def test_the_published_rule_equals_its_definition() -> None:
    rng = np.random.default_rng(6)
    curves = [times.ending_growth(40.0, 121, 4, rng, 0.4), linear(rng)[:121], contraction(rng)[:121]]
    for d in curves:
        for n in range(18, 122, 3):
            own = [times.published_time(np.arange(float(n)), column) for column in d[:n].T]
            known = [time for time in own if time is not None]
            estimate = characteristic_time_published(np.arange(n), d[:n])
            assert estimate.is_ok is bool(known)
            if known:
                assert estimate.n == len(known)
                assert estimate.value == pytest.approx(np.mean(known))


def test_the_published_rule_answers_where_there_is_nothing_to_answer() -> None:
    straight = characteristic_time_published(STEPS, 1e-8 * (1.0 + T / 12.0))
    assert straight.value == pytest.approx(72.0)
    rng = np.random.default_rng(0)
    shrinking = characteristic_time_published(STEPS, 1e-2 * np.exp(-0.1 * T + 0.1 * noise(rng)))
    assert shrinking.value == pytest.approx(12.6)
    turning = np.exp(np.minimum(0.25 * T, 18.5) - 18.0) * np.abs(np.cos(0.1 * T + 0.6 * np.arange(5) + 0.3))
    assert characteristic_time_published(STEPS, turning).value == pytest.approx(15.4)
    assert found(turning).value == pytest.approx(74.0, abs=1.0)


def test_the_published_rule_reads_steps() -> None:
    d = np.exp(0.5 * np.minimum(T, 40.0))
    assert characteristic_time_published(STEPS, d).value == 41.0
    assert characteristic_time_published(4 * STEPS, d).value == 164.0


def test_bad_data_of_the_published_rule_is_a_status() -> None:
    d = times.ending_growth(30.0, 121, 5, np.random.default_rng(5), 0.6)
    steps = np.arange(121)
    assert characteristic_time_published(steps, d[:, :0]).status is Status.TOO_FEW_REPLICAS
    for n in (0, 1, 17):
        assert characteristic_time_published(steps[:n], d[:n]).status is Status.TOO_FEW_ROWS
    assert characteristic_time_published(steps, np.full((121, 5), 0.3)).status is Status.CONSTANT
    assert characteristic_time_published(steps, np.exp(0.1 * T[:121])).status is Status.NOT_SATURATED
    assert characteristic_time_published(steps, np.where(T[:121] == 7, np.nan, d)).status is Status.NON_FINITE
    assert characteristic_time_published(steps, np.where(T[:121] == 0, 0.0, d)).is_ok


def test_bad_calls() -> None:
    d = times.ending_growth(30.0, 121, 5, np.random.default_rng(5), 0.6)
    for estimator in (characteristic_time, characteristic_time_published):
        with pytest.raises(BadCall, match="shapes"):
            estimator(np.arange(120), d)
        with pytest.raises(BadCall, match="shapes"):
            estimator(np.arange(121), d[:, 0])
        with pytest.raises(BadCall, match="confidence"):
            estimator(np.arange(121), d, confidence=1.5)
