"""The published recipe against trying every window, what it accepts, and the trap that it is."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.best_r2 import nmle_best_r2
from streamscalar.numerics.exponents.divergence import nmle
from streamscalar.types import Status
from tests.oracles import exponents as oracle

Floats = NDArray[np.float64]
STEPS = np.arange(201)


def curve(rate: float, seed: int, n_rows: int = 201, noise: float = 0.1, level: float = 2.0) -> Floats:
    """Return separations `(n_rows, 5)` that grow from e^-18 at about `rate` per row and level off."""
    rng = np.random.default_rng(seed)
    rates = rate * (1.0 + 0.05 * rng.standard_normal(5))
    clean = np.minimum(-18.0 + np.arange(n_rows)[:, None] * rates, level)
    return np.asarray(np.exp(clean + noise * rng.standard_normal(clean.shape)))


@pytest.mark.parametrize(("rate", "stride"), [(0.06, 1), (0.12, 1), (0.285, 1), (0.285, 3)])
def test_equals_trying_every_window_on_every_prefix(rate: float, stride: int) -> None:
    steps, d = stride * STEPS + 4, curve(rate, seed=3)
    # A prefix tries other windows only after five more rows.
    for n_rows in range(30, 202, 5):
        found = nmle_best_r2(steps[:n_rows], d[:n_rows])
        slope, r2, first, last = oracle.best_r2(steps[:n_rows], d[:n_rows])
        assert found.window == (first, last)
        assert found.is_ok == (r2 > 0.9 and slope > 0.05)
        if found.value is not None:
            assert abs(found.value - slope) < 1e-10
        assert f"R^2 {r2:.4g} " in found.message


def test_r2_of_an_almost_flat_window_keeps_its_digits() -> None:
    rng = np.random.default_rng(5)
    d = np.exp(np.minimum(-18.0 + 1.5 * STEPS, 2.0) + 1e-8 * STEPS + 1e-8 * rng.standard_normal(201))[:, None]
    found = nmle_best_r2(STEPS, d)
    slope, r2, first, last = oracle.best_r2(STEPS, d)
    assert found.status is Status.NO_EXPONENTIAL_PHASE
    assert found.window == (first, last)
    assert f"R^2 {r2:.4g} and slope {slope:.3g}" in found.message


def test_slow_growth_gives_its_rate() -> None:
    found = nmle_best_r2(STEPS, curve(0.285, seed=1, noise=0.02))
    assert found.value == pytest.approx(0.285, rel=0.05)
    assert found.low is None
    assert found.high is None
    assert found.confidence is None
    assert found.n == 5
    assert "No interval" in found.message


def test_it_averages_distances_and_not_logarithms() -> None:
    d = np.exp(-18.0 + np.arange(31)[:, None] * np.array([0.1, 0.5]))
    found, expected = nmle_best_r2(np.arange(31), d), oracle.best_r2(np.arange(31), d)[0]
    assert found.value == pytest.approx(expected, abs=1e-10)
    assert expected > 0.4


def test_trap_the_best_line_is_on_the_plateau() -> None:
    # Growth at 1.5 per step ends after 13 steps; then the plateau creeps along a perfect line.
    d = np.exp(np.where(STEPS < 13, -18.0 + 1.5 * STEPS, 1.5 + 1e-3 * (STEPS - 13)))[:, None]
    found = nmle_best_r2(STEPS, d)
    assert found.status is Status.NO_EXPONENTIAL_PHASE
    assert found.window is not None
    assert found.window[0] >= 13
    assert "slope 0.001" in found.message
    assert nmle(STEPS, d).value == pytest.approx(1.5, rel=1e-9)


def test_trap_a_steeper_creep_is_measured_in_place_of_the_growth() -> None:
    d = np.exp(np.where(STEPS < 13, -18.0 + 1.5 * STEPS, 1.5 + 0.06 * (STEPS - 13)))[:, None]
    assert nmle_best_r2(STEPS, d).value == pytest.approx(0.06, rel=1e-9)


@pytest.mark.parametrize(("rate", "is_accepted"), [(0.0499, False), (0.0501, True), (-0.2, False)])
def test_slope_must_exceed_a_twentieth(rate: float, is_accepted: bool) -> None:
    found = nmle_best_r2(STEPS, np.exp(-18.0 + rate * STEPS)[:, None])
    assert found.is_ok is is_accepted
    if not is_accepted:
        assert found.status is Status.NO_EXPONENTIAL_PHASE
        assert "recipe accepts" in found.message


def test_a_steep_line_through_noise_is_refused_for_its_r2() -> None:
    d = np.exp(0.08 * STEPS + 3.0 * np.random.default_rng(2).standard_normal(201))[:, None]
    slope, r2, _, _ = oracle.best_r2(STEPS, d)
    assert slope > 0.05
    assert r2 < 0.9
    assert nmle_best_r2(STEPS, d).status is Status.NO_EXPONENTIAL_PHASE


@pytest.mark.parametrize(("first", "last"), [(100, 199), (100, 129), (0, 29), (0, 99)])
def test_the_outermost_windows_are_tried(first: int, last: int) -> None:
    inside = (first <= STEPS) & (last >= STEPS)
    wild = np.random.default_rng(3).uniform(-9.0, 9.0, 201)
    # A little noise inside, shrinking with the length of a window, makes the longest clean one the best.
    log_d = np.where(inside, 0.1 * STEPS + 1e-3 * np.cos(2.0 * STEPS), wild)
    d = np.exp(log_d)[:, None]
    assert nmle_best_r2(STEPS, d).window == (first, last) == oracle.best_r2(STEPS, d)[2:]


def test_bad_data_is_a_status() -> None:
    d = curve(0.285, seed=1)
    assert nmle_best_r2(STEPS, d[:, :0]).status is Status.TOO_FEW_REPLICAS
    few = nmle_best_r2(STEPS[:29], d[:29])
    assert few.status is Status.TOO_FEW_ROWS
    assert few.message.startswith("29 rows; the shortest window has 30")
    assert nmle_best_r2(STEPS[:0], d[:0]).status is Status.TOO_FEW_ROWS
    assert nmle_best_r2(STEPS, np.ones((201, 2))).status is Status.NO_EXPONENTIAL_PHASE
    for bad in (np.nan, np.inf):
        broken = d.copy()
        broken[7, 2] = bad
        assert nmle_best_r2(STEPS, broken).status is Status.NON_FINITE
    one_zero, all_zero = d.copy(), d.copy()
    one_zero[7, 2] = 0.0
    all_zero[7] = 0.0
    assert nmle_best_r2(STEPS, one_zero).is_ok
    assert nmle_best_r2(STEPS, all_zero).status is Status.CONTRACTED
    assert "row 7" in nmle_best_r2(STEPS, all_zero).message


def test_rows_beyond_the_last_window_do_not_matter() -> None:
    d = curve(0.2, seed=4, n_rows=300)
    d[200:] = np.nan
    assert nmle_best_r2(np.arange(300), d) == nmle_best_r2(STEPS[:200], d[:200])


def test_extreme_separations_do_not_overflow() -> None:
    d = np.full((60, 3), 1.0)
    d *= np.exp(np.linspace(-300.0, 308.0, 60) * math.log(10.0))[:, None]
    expected = 608.0 / 59.0 * math.log(10.0)
    assert nmle_best_r2(np.arange(60), d).value == pytest.approx(expected, rel=1e-12)


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="shape"):
        nmle_best_r2(STEPS[:-1], curve(0.2, seed=1))
    with pytest.raises(BadCall, match="confidence"):
        nmle_best_r2(STEPS, curve(0.2, seed=1), confidence=95.0)
