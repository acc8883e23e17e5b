"""Asymptotic states, and the drift test on series whose answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from streamscalar.errors import BadCall
from streamscalar.numerics.asymptotic.states import asymptotic_states
from streamscalar.types import Status
from tests.oracles import spacings as naive

Floats = NDArray[np.float64]
STEPS = np.arange(50)


def stationary(coefficient: float, n_replicas: int, rng: np.random.Generator, n_rows: int = 50) -> Floats:
    """Return a first-order autoregression `(n_rows, n_replicas)` of unit variance, from its stationary law."""
    rows = [rng.standard_normal(n_replicas)]
    scale = np.sqrt(1.0 - coefficient**2)
    for _ in range(n_rows - 1):
        rows.append(coefficient * rows[-1] + scale * rng.standard_normal(n_replicas))
    return np.array(rows)


def rates(scores: list[Floats]) -> tuple[float, float]:
    """Return the share of significant replicas and of drifting runs at .05."""
    found = [asymptotic_states(STEPS, rows) for rows in scores]
    single = np.concatenate([one.p_values < 0.05 for one in found])
    return float(single.mean()), float(np.mean([one.status is Status.DRIFTING for one in found]))


def test_states_are_means_over_the_last_rows() -> None:
    scores = np.zeros((80, 3))
    scores[-20:] = [4.0, -1.0, 2.0]
    scores[:-20] = 1e6
    found = asymptotic_states(3 * np.arange(80), scores, window=20)
    assert found.values.tolist() == [4.0, -1.0, 2.0]
    assert found.window == (180, 237)
    assert found.status is Status.OK
    spread = found.spread()
    assert spread.value == pytest.approx(np.std([4.0, -1.0, 2.0], ddof=1))
    assert spread.window == (180, 237)


def test_trend_equals_its_definition_on_every_prefix() -> None:
    rng = np.random.default_rng(1)
    scores = stationary(0.7, 3, rng, 120) + np.linspace(0.0, 2.0, 120)[:, None]
    for n_rows in range(21, 121):
        found = asymptotic_states(np.arange(n_rows), scores[:n_rows], window=21)
        for replica in range(3):
            rows = scores[n_rows - 21 : n_rows, replica]
            ratio, slope, effective = naive.trend_ratio([float(value) for value in rows])
            assert found.values[replica] == pytest.approx(sum(rows) / 21.0, rel=1e-12)
            assert found.drifts[replica] == pytest.approx(20.0 * slope, rel=1e-8, abs=1e-10)
            expected = 2.0 * stats.t.sf(abs(ratio), effective - 1.0)
            assert found.p_values[replica] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("coefficient", [-0.8, 0.0, 0.5, 0.8, 0.9])
def test_settled_series_are_called_drifting_no_more_often_than_stated(coefficient: float) -> None:
    single, run = rates([stationary(coefficient, 6, np.random.default_rng(seed)) for seed in range(200)])
    assert 0.005 < single < 0.09
    assert run <= 0.05


def test_replicas_that_move_together_do_not_raise_the_level() -> None:
    scores = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores.append(stationary(0.8, 1, rng) + 0.05 * rng.standard_normal((50, 6)))
    single, run = rates(scores)
    assert single < 0.09
    assert run < 0.09


def test_alternation_near_stability_is_no_drift() -> None:
    alternating = 3.0 * (-1.0) ** np.arange(50)[:, None]
    rows = [stationary(0.8, 6, np.random.default_rng(seed)) + alternating for seed in range(100)]
    single, run = rates(rows)
    assert single < 0.09
    assert run <= 0.05


def test_a_clear_drift_is_found() -> None:
    slopes = np.array([-1.0, 1.0, -1.0, 1.0, 1.0, -1.0])
    line = np.linspace(0.0, 4.0, 50)[:, None] * slopes
    single, run = rates([line + stationary(0.5, 6, np.random.default_rng(seed)) for seed in range(100)])
    assert single > 0.8
    assert run > 0.95


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_relaxation_that_goes_on_is_found(noise: float) -> None:
    rng = np.random.default_rng(3)
    amplitudes = np.array([4.0, -3.0, 2.5, 6.0, -5.0, 3.0])
    curve = np.exp(-np.arange(50) / 30.0)[:, None] * amplitudes
    runs = [curve + noise * rng.standard_normal((50, 6)) for _ in range(40)]
    assert rates(runs)[1] > 0.95


def test_drifting_keeps_the_states_but_no_estimate_has_a_value() -> None:
    scores = np.arange(50.0)[:, None] * np.array([1.0, 2.0, -3.0])
    found = asymptotic_states(STEPS, scores)
    assert found.status is Status.DRIFTING
    assert found.values.tolist() == [24.5, 49.0, -73.5]
    np.testing.assert_allclose(found.drifts, [49.0, 98.0, -147.0], rtol=1e-12)
    assert found.is_drifting.all()
    assert found.spread().value is None
    assert found.spread().status is Status.DRIFTING
    assert "train longer" in found.spread().message


def test_a_drift_far_below_the_spread_is_not_material() -> None:
    scores = np.array([0.0, 100.0, 200.0]) + np.arange(50.0)[:, None] * 1e-2
    found = asymptotic_states(STEPS, scores)
    assert (found.p_values < 1e-6).all()
    assert not found.is_drifting.any()
    assert found.status is Status.OK


def test_a_minority_that_drifts_is_told() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0]) + 0.01 * stationary(0.0, 4, np.random.default_rng(4))
    scores[:, 2] += np.linspace(0.0, 1.0, 50)
    found = asymptotic_states(STEPS, scores)
    assert found.status is Status.OK
    assert found.is_drifting.tolist() == [False, False, True, False]
    assert "1 of 4 replicas drift" in found.message


def test_bad_data_is_a_status() -> None:
    scores = stationary(0.0, 4, np.random.default_rng(5))
    short = asymptotic_states(STEPS[:49], scores[:49])
    assert short.status is Status.TOO_FEW_ROWS
    assert "49 rows; the window has 50" in short.message
    assert short.window is None
    assert len(short.values) == 0
    broken = scores.copy()
    broken[30, 1] = np.nan
    found = asymptotic_states(STEPS, broken)
    assert found.status is Status.NON_FINITE
    assert "1 of 4" in found.message
    assert len(found.values) == 0
    twins = scores.copy()
    twins[:, 3] = twins[:, 0]
    same = asymptotic_states(STEPS, twins)
    assert same.status is Status.CONSTANT
    assert "1 of 4 states coincide" in same.message
    assert same.values[0] == same.values[3]
    assert same.spread().value is None
    for n_replicas in (0, 1):
        few = asymptotic_states(STEPS, scores[:, :n_replicas])
        assert few.status is Status.TOO_FEW_REPLICAS
        assert few.values.shape == (n_replicas,)


@pytest.mark.parametrize("n_replicas", [2, 5, 6])
def test_p_value_of_a_run_is_the_one_half_of_its_replicas_reach(n_replicas: int) -> None:
    scores = stationary(0.3, n_replicas, np.random.default_rng(8)) + np.linspace(0.0, 2.0, 50)[:, None]
    scores -= scores.mean(axis=0) - 1e-3 * np.arange(n_replicas)
    found = asymptotic_states(STEPS, scores)
    half = (n_replicas + 1) // 2
    expected = min(1.0, sorted(found.p_values.tolist())[half - 1] * n_replicas / half)
    assert f"all replicas: p = {expected:.3g}." in found.message


def test_constant_series_do_not_drift() -> None:
    found = asymptotic_states(STEPS, np.full((50, 3), 0.1) * np.array([1.0, 2.0, 3.0]))
    assert found.status is Status.OK
    assert found.p_values.min() > 0.5


def test_inputs_are_left_alone() -> None:
    scores = stationary(0.5, 4, np.random.default_rng(6))
    before = scores.copy()
    asymptotic_states(STEPS, scores)
    assert (scores == before).all()


def test_bad_calls() -> None:
    scores = np.zeros((50, 2))
    with pytest.raises(BadCall, match="scores"):
        asymptotic_states(STEPS[:-1], scores)
    with pytest.raises(BadCall, match="window"):
        asymptotic_states(STEPS, scores, window=5)
    with pytest.raises(BadCall, match="level"):
        asymptotic_states(STEPS, scores, level=1.0)
