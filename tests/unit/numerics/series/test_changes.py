"""Changes in a growing series against slow oracles on every prefix, their false alarms on noise and their power."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from streamscalar.errors import BadCall
from streamscalar.numerics.series.changes import (
    FOLLOW_BLOCKS,
    TREND_BLOCKS,
    LevelChanges,
    following,
    level_changes,
    trend,
)
from streamscalar.types import Status
from tests.oracles import changes as oracle
from tests.oracles.changes import autoregressive

Floats = NDArray[np.float64]


def columns(found: LevelChanges) -> Floats:
    return np.stack([found.shift, found.statistic, found.threshold, found.correlation], axis=1)


def alarms(series: Floats, run_length: float, quiet_rows: int = 200) -> list[int]:
    """Rows with a significant change, none of them within `quiet_rows` after another."""
    found = level_changes(series, run_length=run_length)
    rows: list[int] = []
    for row in np.flatnonzero(np.abs(found.statistic) > found.threshold):
        if not rows or row - rows[-1] >= quiet_rows:
            rows.append(int(row))
    return rows


def test_level_changes_are_those_of_the_oracle_on_every_prefix() -> None:
    rng = np.random.default_rng(0)
    series = autoregressive(0.6, 90, rng) - 0.05 * np.arange(90)
    series[50:] += 40.0
    series[80] = np.nan
    for n in range(len(series) + 1):
        found = columns(level_changes(series[:n], 20, 4, 1e4))
        expected = np.array([oracle.level_change(series[:n], row, 20, 4, 1e4) for row in range(max(0, n - 3), n)])
        # Variance and freedom are interpolated between autocorrelations .01 apart.
        np.testing.assert_allclose(found[max(0, n - 3) :], expected.reshape(-1, 4), rtol=2e-3, atol=1e-9)
    assert np.flatnonzero(np.abs(found[:, 1]) > found[:, 2]).tolist() == [53]


def test_an_outlier_is_no_change_and_a_change_is_found_once_all_new_rows_show_it() -> None:
    noise = 0.1 * np.random.default_rng(1).standard_normal(200)
    outlier = noise.copy()
    outlier[100:104] += 50.0
    assert alarms(outlier, 1e4) == []
    assert alarms(noise + np.where(np.arange(200) >= 100, 1.5, 0.0), 1e4) == [104]
    assert alarms(noise - np.where(np.arange(200) >= 100, 1.5, 0.0), 1e4) == [104]


def test_unit_and_level_of_the_series_do_not_matter() -> None:
    series = autoregressive(0.5, 120, np.random.default_rng(2))
    plain = columns(level_changes(series))
    scaled = columns(level_changes(1e-3 * series + 5.0 - 0.2 * np.arange(120)))
    np.testing.assert_allclose(scaled[:, 1:], plain[:, 1:], rtol=1e-6)
    np.testing.assert_allclose(scaled[:, 0], 1e-3 * plain[:, 0], rtol=1e-6, atol=1e-12)


def test_an_exact_line_has_no_change_and_any_step_off_it_is_one() -> None:
    flat = np.zeros(80)
    assert alarms(flat, 1e4) == []
    flat[60:] = 1e-3
    assert alarms(flat, 1e4) == [64]


@pytest.mark.parametrize(
    ("correlation", "freedom", "n_most"),
    [(-0.5, math.inf, 1), (0.0, math.inf, 1), (0.5, math.inf, 12), (0.9, math.inf, 40), (0.0, 3.0, 1)],
)
def test_false_alarms_are_at_least_the_run_length_apart(correlation: float, freedom: float, n_most: int) -> None:
    # 100 seeds x 4,000 rows at a stated run length of 10,000: 40 alarms would be as stated.
    n_alarms = 0
    for seed in range(100):
        noise = _fast_noise(correlation, 4000, np.random.default_rng(seed), freedom)
        n_alarms += len(alarms(noise, 1e4))
    assert n_alarms <= n_most


def test_smooth_curves_have_no_change() -> None:
    t = np.arange(3000.0)
    for curve in (
        -1.5 * np.log(t + 5.0),
        -t / 300.0,
        np.log(1e-4 + np.exp(-t / 80.0)),
        np.log1p(t / 50.0),
        np.sin(t / 60.0),
        np.tanh((t - 1500.0) / 30.0),
    ):
        found = level_changes(curve)
        is_change = (np.abs(found.statistic) > found.threshold) & (np.abs(found.shift) > math.log(2.0))
        assert not is_change.any()


@pytest.mark.parametrize(("sigma", "correlation", "least"), [(0.05, 0.0, 0.99), (0.1, 0.5, 0.85), (0.2, 0.5, 0.25)])
def test_power_for_a_threefold_jump_on_a_falling_curve(sigma: float, correlation: float, least: float) -> None:
    n_found = 0
    for seed in range(200):
        noise = sigma * _fast_noise(correlation, 200, np.random.default_rng(seed))
        series = noise - np.log(np.arange(200) + 20.0)
        series[120:] += math.log(3.0)
        n_found += any(120 <= row < 130 for row in alarms(series, 1e5))
    assert n_found >= 200 * least


def test_a_trend_is_that_of_the_oracle_on_every_prefix() -> None:
    rng = np.random.default_rng(3)
    series = autoregressive(0.7, 260, rng) + 0.02 * np.arange(260)
    for n in range(260):
        found = trend(series[:n], 0.9)
        if n < TREND_BLOCKS:
            assert found.status is Status.TOO_FEW_ROWS
            assert f"{n} rows; {TREND_BLOCKS} are needed" in found.message
            continue
        expected = oracle.trend(series[:n], TREND_BLOCKS, 0.9)
        assert found.value == pytest.approx(expected[0])
        assert found.low == pytest.approx(expected[1], abs=5e-3)
        assert found.high == pytest.approx(expected[2], abs=5e-3)


@pytest.mark.parametrize(("correlation", "least"), [(-0.5, 0.95), (0.0, 0.95), (0.5, 0.95), (0.8, 0.95), (0.95, 0.94)])
def test_the_interval_of_a_trend_covers_what_it_states(correlation: float, least: float) -> None:
    n_covered = 0
    for seed in range(500):
        noise = _fast_noise(correlation, 200, np.random.default_rng(seed))
        found = trend(noise + np.linspace(0.0, 2.0, 200))
        assert found.low is not None
        assert found.high is not None
        n_covered += found.low <= 2.0 <= found.high
    # Two standard errors below `least`.
    assert n_covered >= 500 * (least - 0.02)


def test_following_is_that_of_the_oracle_on_every_prefix() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.standard_normal((2, 140)).cumsum(axis=1)
    for n in range(140):
        found = following(first[:n], second[:n])
        if n <= FOLLOW_BLOCKS:
            assert found.status is Status.TOO_FEW_ROWS
            continue
        expected = oracle.correlation_of_changes(first[:n], second[:n], FOLLOW_BLOCKS)
        assert found.value == pytest.approx(expected)
        half = 1.959964 * math.sqrt(1.5 / (FOLLOW_BLOCKS - 2))
        assert found.low == pytest.approx(math.tanh(math.atanh(expected) - half))
        assert found.high == pytest.approx(math.tanh(math.atanh(expected) + half))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 1.0])
def test_independent_series_do_not_follow_each_other(correlation: float) -> None:
    n_apart = n_following = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        first, second = (_fast_noise(min(correlation, 0.999), 62, rng) for _ in range(2))
        found = following(first, second)
        assert found.low is not None
        assert found.high is not None
        n_apart += not found.low <= 0.0 <= found.high
        n_following += found.low > 0.5
    assert n_apart <= 500 * 0.07
    assert n_following == 0


def test_a_common_fall_is_following_and_a_rise_beside_it_is_not() -> None:
    rng = np.random.default_rng(5)
    fall = -np.log(np.arange(62) + 10.0)
    along = following(0.5 * fall + 0.001 * rng.standard_normal(62), fall)
    against = following(-fall, fall)
    flat = following(0.01 * rng.standard_normal(62), fall)
    assert along.low is not None
    assert along.low > 0.9
    assert against.high is not None
    assert against.high < -0.9
    assert flat.high is not None
    assert flat.high < 0.5


def test_what_cannot_be_said_has_a_status() -> None:
    broken = np.ones(100)
    broken[99] = np.inf
    assert trend(broken).status is Status.NON_FINITE
    assert following(broken, np.arange(100.0)).status is Status.NON_FINITE
    assert following(np.ones(100), np.arange(100.0)).status is Status.CONSTANT
    flat = trend(np.ones(100))
    assert (flat.value, flat.low, flat.high) == (0.0, 0.0, 0.0)


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="n_before: must be at least 12; got 5"):
        level_changes(np.zeros(10), n_before=5)
    with pytest.raises(BadCall, match="n_after"):
        level_changes(np.zeros(10), n_after=0)
    with pytest.raises(BadCall, match="run_length"):
        level_changes(np.zeros(10), run_length=1.0)


def _fast_noise(correlation: float, n_rows: int, rng: np.random.Generator, freedom: float = math.inf) -> Floats:
    """Return the noise of `autoregressive`, by a recursive filter."""
    shocks = rng.standard_normal(n_rows + 200) if math.isinf(freedom) else rng.standard_t(freedom, n_rows + 200)
    scaled = math.sqrt(1.0 - correlation**2) * shocks
    scaled[0] = shocks[0]
    return np.asarray(signal.lfilter([1.0], [1.0, -correlation], scaled)[200:])
