"""The exponent of a single trajectory against known answers, and the statuses of what has none."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.near_returns import attractor_size, is_flow, near_returns
from streamscalar.numerics.exponents.recurrence import (
    delay_embedding,
    exponential_window,
    horizon,
    recurrence_exponent,
    refusal,
)
from streamscalar.numerics.exponents.surrogates import n_surrogates_as_good, phase_surrogate
from streamscalar.types import Estimate, Status
from tests.oracles import maps
from tests.oracles import recurrence as slow

Floats = NDArray[np.float64]


def orbit(step: Callable[[Floats], Floats], start: list[float], n_rows: int) -> Floats:
    return maps.trajectories(step, np.array(start), 0.0, 0, n_rows + 99, seed=0)[100:, 0]


def estimate(states: Floats, seed: int = 0, dimension: int | None = None) -> Estimate:
    return recurrence_exponent(np.arange(len(states)), states, np.random.default_rng(seed), dimension=dimension)


def scores(states: Floats, n_components: int) -> Floats:
    """Lift to 1,000 parameters and come back by principal components."""
    lifted = maps.lift(states, 1000, seed=5)
    level = lifted - lifted.mean(axis=0)
    _, vectors = np.linalg.eigh(level.T @ level)
    return np.asarray(level @ vectors[:, ::-1][:, :n_components])


def smooth(rng: np.random.Generator, n_rows: int, width: int) -> Floats:
    return np.asarray(
        gaussian_filter1d(rng.standard_normal((n_rows + 10 * width, 1)), width, axis=0)[5 * width :][:n_rows]
    )


def most_rejections(n: int, level: float = 0.05) -> int:
    """Return the number of false positives among n that a test of that level exceeds once in 200 times."""
    return int(stats.binom.ppf(0.995, n, level))


def assert_covers(found: Estimate, known: float, width: float, unit: float = 1.0) -> None:
    assert found.status is Status.OK, found.message
    assert found.low is not None
    assert found.high is not None
    assert found.low / unit < known < found.high / unit
    assert (found.high - found.low) / unit < width * known


def circle(phase: Floats) -> Floats:
    return np.stack([np.sin(phase), np.cos(phase)], axis=1)


TIME, LONG = np.arange(1500.0), np.arange(4000.0)
LOGISTIC = orbit(maps.logistic, [0.3], 2000)
HENON = orbit(maps.henon, [0.1, 0.1], 5000)


@pytest.mark.parametrize("n_components", [1, 2])
def test_maps_are_covered_within_a_tenth_also_as_scores_of_a_lifted_trajectory(n_components: int) -> None:
    states, known = (LOGISTIC, maps.LOGISTIC) if n_components == 1 else (HENON, maps.HENON)
    assert_covers(estimate(states), known, 0.1)
    assert_covers(estimate(scores(states, n_components)), known, 0.1)


def test_one_component_of_henon_is_unfolded_by_delays() -> None:
    found = estimate(HENON[:, :1])
    assert "delay embedding 3 x 1" in found.method
    assert_covers(found, maps.HENON, 0.1)


def test_lorenz_is_covered_but_not_within_a_tenth() -> None:
    # The width is of the allowance for flows; without it the interval misses the known value.
    states = slow.flow(slow.lorenz, np.array([1.0, 1.0, 20.0]), 0.1, 4000, 200)
    for found in (estimate(states), estimate(scores(states, 3))):
        assert_covers(found, slow.LORENZ, 0.75, 0.1)
        assert found.value is not None
        assert found.value / 0.1 == pytest.approx(slow.LORENZ, rel=0.12)


def test_coverage_of_henon_is_near_what_is_stated() -> None:
    hits = 0
    for seed in range(12):
        start = [0.01 * seed - 0.1, 0.05]
        found = estimate(orbit(maps.henon, start, 3000), seed)
        assert found.low is not None
        assert found.high is not None
        hits += found.low < maps.HENON < found.high
    assert hits >= 12 - most_rejections(12)


@pytest.mark.parametrize("n_rows", [60, 90, 150, 200])
def test_pairs_window_and_slope_equal_plain_loops_on_prefixes_of_a_map(n_rows: int) -> None:
    compare(HENON[:n_rows])


@pytest.mark.parametrize(
    ("curve", "is_refused"), [(0.002 * np.exp(0.2 * TIME[:30]), False), (0.002 + 0.004 * TIME[:30], True)]
)
def test_linear_growth_is_no_exponential_phase(curve: Floats, is_refused: bool) -> None:
    log_d = np.log(curve)
    found = refusal(log_d, 1.0, *exponential_window(log_d, 1.0))
    assert (found is not None) is is_refused
    if found is not None:
        assert found[0] is Status.NO_EXPONENTIAL_PHASE
        assert "slows down" in found[1]


@pytest.mark.parametrize("n_rows", [120, 200])
def test_pairs_window_and_slope_equal_plain_loops_on_prefixes_of_a_flow(n_rows: int) -> None:
    compare(slow.flow(slow.rossler, np.array([1.0, 1.0, 0.0]), 0.5, n_rows, 400))


def compare(states: Floats) -> None:
    size, across = slow.size(states), is_flow(states)
    assert attractor_size(states, np.random.default_rng(0)) == pytest.approx(size, rel=1e-10)
    n_lags, top = len(states) // 8, math.log(0.1 * size)
    pairs = slow.nearest_returns(states, len(states) - n_lags, 0.05 * size, 0.2 * size, 10)
    growth = near_returns(states, size, across)
    assert growth.reference.tolist() == [i for i, _ in pairs]
    assert len(pairs) > 0
    curve = slow.mean_growth(states, pairs, n_lags, across, top)
    np.testing.assert_allclose(growth.curve, curve, rtol=1e-9)
    if curve[-1] > top:
        first, last, _ = slow.window_slope(curve, top)
        assert exponential_window(growth.curve, size) == (first, last)
        assert last < horizon(growth, size) <= last + 1


def test_the_slope_and_its_unit() -> None:
    found = recurrence_exponent(5 * np.arange(2000), LOGISTIC, np.random.default_rng(0), dimension=1)
    size = attractor_size(LOGISTIC, np.random.default_rng(0))
    growth = near_returns(LOGISTIC, size, False)
    first, last, slope = slow.window_slope(growth.curve.tolist(), math.log(0.1 * size))
    assert found.value == pytest.approx(slope / 5.0, rel=1e-9)
    assert found.window == (5 * first, 5 * last)


@pytest.mark.parametrize("name", ["map", "flow"])
def test_tree_and_all_distances_find_the_same_pairs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On the slow spiral the first eight neighbours of a row are all of the same visit.
    turning = 0.0055 * LONG[:2000]
    states = HENON[:380] if name == "map" else (1.0 + 0.006 * turning[:, None]) * circle(turning)
    monkeypatch.setattr("streamscalar.numerics.exponents.near_returns.DENSE_ROWS", 2000)
    dense = near_returns(states, 1.0, False)
    monkeypatch.setattr("streamscalar.numerics.exponents.near_returns.DENSE_ROWS", 0)
    tree = near_returns(states, 1.0, False)
    assert len(dense.reference) > 100
    np.testing.assert_array_equal(dense.reference, tree.reference)
    np.testing.assert_allclose(dense.log_d, tree.log_d, rtol=1e-12)


NOISES: dict[str, Callable[[np.random.Generator], Floats]] = {
    "random walk": lambda rng: rng.standard_normal((300, 1)).cumsum(axis=0),
    "iid": lambda rng: rng.standard_normal((300, 1)),
    "ar": lambda rng: np.asarray(lfilter([1.0], [1.0, -0.9], rng.standard_normal((300, 1)), axis=0)),
}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("dimension", [1, None])
def test_noise_is_reported_as_an_exponent_no_more_often_than_stated(name: str, dimension: int | None) -> None:
    rngs = [np.random.default_rng(seed) for seed in range(200)]
    found = [estimate(NOISES[name](rng), seed, dimension) for seed, rng in enumerate(rngs)]
    assert sum(x.is_ok for x in found) <= most_rejections(200)
    statuses = {x.status for x in found}
    assert statuses <= {
        Status.OK,
        Status.NOT_ENOUGH_RECURRENCES,
        Status.NO_EXPONENTIAL_PHASE,
        Status.NOT_SIGNIFICANT,
        Status.CONTRACTED,
    }


@pytest.mark.parametrize("name", NOISES)
def test_the_rank_test_by_itself_holds_its_level(name: str) -> None:
    # No noise above reaches the test, so its level is tested separately.
    def by_itself(states: Floats, rng: np.random.Generator) -> bool:
        size = attractor_size(states, rng)

        def statistic(drawn: Floats) -> float:
            growth = near_returns(drawn, size, False)
            return horizon(growth, size) if growth.is_enough else -math.inf

        return n_surrogates_as_good(states, statistic, statistic(states), 19, 0.05, rng) is None

    n_found = sum(by_itself(NOISES[name](np.random.default_rng(s))[:150], np.random.default_rng(s)) for s in range(60))
    assert n_found <= most_rejections(60)


def test_smooth_noise_is_not_significant() -> None:
    found = []
    for seed in range(8):
        states = smooth(np.random.default_rng(seed), 4000, 10)
        rng = np.random.default_rng(seed)
        found.append(recurrence_exponent(np.arange(4000), states, rng, dimension=2, delay=1).status)
    assert Status.NOT_SIGNIFICANT in found
    assert found.count(Status.OK) <= most_rejections(8)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (np.exp(-0.02 * TIME)[:, None] * np.ones(3), Status.NOT_ENOUGH_RECURRENCES),
        (np.exp(-0.005 * TIME)[:, None] * circle(0.1 * TIME), Status.NOT_ENOUGH_RECURRENCES),
        (TIME[:, None] * np.ones(2), Status.NOT_ENOUGH_RECURRENCES),
        (np.tanh(TIME[:, None] / 50.0), Status.NOT_ENOUGH_RECURRENCES),
        (circle(0.1 * TIME), Status.NO_EXPONENTIAL_PHASE),
        ((TIME % 2.0)[:, None], Status.NO_EXPONENTIAL_PHASE),
        (np.hstack([circle(0.1 * LONG), circle(0.0618 * LONG)]), Status.NO_EXPONENTIAL_PHASE),
        (np.full((1500, 2), 3.0), Status.CONSTANT),
        (HENON[:40], Status.TOO_FEW_ROWS),
        (HENON[:0], Status.TOO_FEW_ROWS),
    ],
    ids=["relax", "spiral", "line", "transient", "circle", "period 2", "torus", "constant", "few", "none"],
)
def test_what_has_no_exponent_says_so(states: Floats, status: Status) -> None:
    for dimension in (1, None):
        assert estimate(states, dimension=dimension).status is status


def test_non_finite_from_some_row_on() -> None:
    states = HENON[:500].copy()
    states[300:] = np.nan
    found = estimate(states)
    assert found.status is Status.NON_FINITE
    assert "row 300" in found.message


def test_contracting_returns_are_contracted() -> None:
    # A switch between two places whose offset shrinks all the time.
    rows = 200
    states = np.where(np.arange(rows) % 2 == 0, 0.0, 1.0) + 0.01 * 0.93 ** np.arange(rows)
    assert estimate(states[:, None], dimension=1).status is Status.CONTRACTED


def test_bad_calls() -> None:
    rng, steps = np.random.default_rng(0), np.arange(100)
    with pytest.raises(BadCall, match="steps"):
        recurrence_exponent(steps**2, HENON[:100], rng)
    with pytest.raises(BadCall, match="states"):
        recurrence_exponent(steps, HENON[:99], rng)
    with pytest.raises(BadCall, match="at least 19"):
        recurrence_exponent(steps, HENON[:100], rng, n_surrogates=18)
    with pytest.raises(BadCall, match="dimension"):
        recurrence_exponent(steps, HENON[:100], rng, dimension=2)
    with pytest.raises(BadCall, match="delay"):
        recurrence_exponent(steps, HENON[:100, :1], rng, delay=0)


def test_inputs_stay_and_answers_repeat() -> None:
    states = LOGISTIC[:600].copy()
    assert estimate(states, seed=3) == estimate(states, seed=3)
    np.testing.assert_array_equal(states, LOGISTIC[:600])


def test_delay_vectors() -> None:
    found = delay_embedding(np.arange(10.0)[:, None], 3, 2)
    assert found.shape == (6, 3)
    assert found[0].tolist() == [4.0, 2.0, 0.0]
    assert delay_embedding(np.arange(4.0)[:, None], 3, 2).shape == (0, 3)


def test_tapered_surrogates_keep_the_correlations_of_noise() -> None:
    rng = np.random.default_rng(0)
    noise = lfilter([1.0], [1.0, -0.7], rng.standard_normal((4000, 2)), axis=0)
    states = noise @ np.array([[1.0, 0.8], [0.0, 0.6]])
    drawn = phase_surrogate(states, rng, "tapered")
    for lag in (0, 1, 3):
        own = states[lag:].T @ states[: 4000 - lag] / 4000.0
        np.testing.assert_allclose(drawn[lag:].T @ drawn[: 4000 - lag] / 4000.0, own, atol=0.25)
    assert abs(np.corrcoef(drawn[:, 0], states[:, 0])[0, 1]) < 0.2


def test_tapered_surrogates_of_a_smooth_series_are_as_smooth() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        states = smooth(rng, 1000, 10)
        drawn = phase_surrogate(states, rng, "tapered")
        assert np.diff(drawn, 4, axis=0).std() < 2.0 * np.diff(states, 4, axis=0).std()


def test_joined_surrogates_keep_the_increments_of_a_walk() -> None:
    rng = np.random.default_rng(0)
    walk = (rng.standard_normal((4000, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])).cumsum(axis=0)
    drawn = phase_surrogate(walk, rng, "joined")
    own, found = np.cov(np.diff(walk, axis=0).T), np.cov(np.diff(drawn, axis=0).T)
    np.testing.assert_allclose(found, own, atol=0.02)
