"""Decorrelation times: a shared past is found to its end, and what lasts or cannot be seen gets no number."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.times.decorrelation import (
    LEAST_ROWS,
    decorrelation_time,
    decorrelation_time_published,
)
from streamscalar.types import Estimate, Status
from tests.oracles import times

Floats = NDArray[np.float64]


def found(accuracy: Floats, seed: int = 0) -> Estimate:
    """Decorrelation of columns 1.. from column 0, rows at every step."""
    steps = np.arange(len(accuracy))
    return decorrelation_time(steps, accuracy[:, 0], accuracy[:, 1:], np.random.default_rng(seed))


def published(accuracy: Floats, seed: int = 0, n_shifts: int = 500) -> Estimate:
    steps = np.arange(len(accuracy))
    rng = np.random.default_rng(seed)
    return decorrelation_time_published(steps, accuracy[:, 0], accuracy[:, 1:], rng, n_shifts)


def series(until: float, shared: float, seed: int, memory: float = 0.0, n_rows: int = 201) -> Floats:
    return times.accuracies(until, shared, n_rows, 6, np.random.default_rng(seed), memory)


def test_independent_accuracies_are_decorrelated_from_the_first_window() -> None:
    values = np.array([found(series(0, 0.0, seed)).value for seed in range(20)], dtype=np.float64)
    assert np.mean(values == 9.5) > 0.6
    assert values.max() < 20.0


@pytest.mark.parametrize("memory", [0.0, 0.6])
@pytest.mark.parametrize(("shared", "until"), [(1.0, 60), (1.0, 110), (0.8, 60)])
def test_a_shared_signal_is_found_to_its_end_within_a_window(shared: float, until: int, memory: float) -> None:
    values, hits = [], []
    for seed in range(8):
        estimate = found(series(until, shared, seed, memory))
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        values.append(estimate.value)
        hits.append(estimate.low <= until <= estimate.high)
    assert np.abs(np.array(values) - until).max() <= 20.0
    assert np.mean(hits) >= 0.9


def test_what_stays_correlated_gets_no_number() -> None:
    for shared in (1.0, 0.8):
        estimates = [found(series(201, shared, seed, 0.6)) for seed in range(8)]
        assert {estimate.status for estimate in estimates} == {Status.NOT_DECORRELATED}
    weak = [found(series(201, 0.5, seed)) for seed in range(20)]
    assert sum(estimate.is_ok for estimate in weak) <= 4


def test_averaging_over_replicas_finds_what_one_replica_hides() -> None:
    weak = [series(201, 0.5, seed) for seed in range(20)]
    alone = sum(found(accuracy[:, :2]).is_ok for accuracy in weak)
    together = sum(found(accuracy).is_ok for accuracy in weak)
    assert together + 8 < alone


def test_the_published_rule_stops_at_a_chance_while_the_correlation_lasts() -> None:
    weak = [series(201, 0.5, seed) for seed in range(20)]
    assert sum(published(accuracy).is_ok for accuracy in weak) == 20


@pytest.mark.parametrize("estimator", [found, published])
def test_identical_twins_are_never_decorrelated(estimator: Callable[[Floats], Estimate]) -> None:
    for memory in (0.0, 0.9):
        one = series(0, 0.0, 1, memory)[:, :1]
        assert estimator(np.repeat(one, 6, axis=1)).status is Status.NOT_DECORRELATED
    alternating = 0.5 + 0.1 * (-1.0) ** np.arange(201)[:, None] * np.ones(6)
    assert estimator(alternating).status is Status.NOT_DECORRELATED


def test_one_twin_among_decorrelated_replicas_is_enough_for_no_number() -> None:
    accuracy = series(60, 1.0, 2)
    assert found(accuracy).is_ok
    accuracy[:, 3] = accuracy[:, 0]
    assert found(accuracy).status is Status.NOT_DECORRELATED


def test_replicas_in_antiphase_are_not_decorrelated() -> None:
    one = series(0, 0.0, 1)[:, :1]
    assert found(np.concatenate([one, -one, -one, -one], axis=1)).status is Status.NOT_DECORRELATED


def test_a_correlation_lost_too_late_to_stay_lost_is_not_lost() -> None:
    assert found(series(185, 1.0, 3)).status is Status.NOT_DECORRELATED
    assert found(series(140, 1.0, 3)).is_ok


def test_the_interval_is_students_and_half_a_window() -> None:
    accuracy = series(60, 1.0, 4)
    alone = np.array([found(accuracy[:, [0, j]]).value for j in range(1, 6)], dtype=np.float64)
    estimate = found(accuracy)
    assert estimate.value == pytest.approx(alone.mean())
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    half = 2.776445 * alone.std(ddof=1) / np.sqrt(5.0) + 9.5
    assert estimate.high - estimate.value == pytest.approx(half, rel=1e-6)
    assert estimate.value - estimate.low == pytest.approx(half, rel=1e-6)
    assert estimate.window == (int(alone.min() - 9.5), int(alone.max() + 9.5))
    assert estimate.n == 5
    assert found(accuracy[:, :3]).low is None
    assert found(accuracy[:, :4]).low is not None


def test_the_time_is_in_steps_and_not_in_rows() -> None:
    accuracy, steps = series(60, 1.0, 5), np.arange(201)
    for estimator in (decorrelation_time, decorrelation_time_published):
        dense, sparse = (
            estimator(k * steps, accuracy[:, 0], accuracy[:, 1:], np.random.default_rng(0)) for k in (1, 5)
        )
        assert dense.value is not None
        assert sparse.value == pytest.approx(5.0 * dense.value)
        assert dense.low is not None
        assert sparse.low == pytest.approx(5.0 * dense.low)


def test_scale_and_trend_do_not_matter() -> None:
    accuracy = series(60, 1.0, 6)
    moved = 0.5 + 1e-3 * accuracy + 0.002 * np.arange(201)[:, None]
    for estimator in (found, published):
        assert estimator(moved).value == pytest.approx(estimator(accuracy).value)


@pytest.mark.parametrize(("seed", "until"), [(7, 25), (9, 0), (10, 30)])
@pytest.mark.parametrize("n", [80, 83, 90])
def test_it_equals_the_definition_on_prefixes(seed: int, until: int, n: int) -> None:
    accuracy = times.accuracies(until, 0.9, 90, 3, np.random.default_rng(seed), 0.3)[:n]
    estimate = decorrelation_time(np.arange(n), accuracy[:, 0], accuracy[:, 1:], np.random.default_rng(8), 40)
    rng = np.random.default_rng(8)
    drawn = [(20 + rng.integers(n - 58, size=40)).tolist() for _ in range(2)]
    own = times.decorrelation(accuracy[:, 0], accuracy[:, 1:], drawn)
    assert estimate.is_ok is (own is not None)
    if own is not None:
        assert estimate.value == pytest.approx(np.mean(own))


@pytest.mark.parametrize("is_skewed", [False, True])
def test_the_published_rule_equals_its_definition(is_skewed: bool) -> None:
    accuracy = times.accuracies(30, 0.9, 61, 3, np.random.default_rng(11))
    if is_skewed:  # Here the central band of the null decides, and not p.
        accuracy = np.random.default_rng(21).standard_exponential((61, 3)) ** 2
    estimate = published(accuracy, seed=12, n_shifts=60)
    rng = np.random.default_rng(12)
    own = [
        times.published_decorrelation(accuracy[:, 0], column, (1 + rng.integers(60, size=60)).tolist())
        for column in accuracy[:, 1:].T
    ]
    known = [time for time in own if time is not None]
    assert estimate.n == len(known) == 2
    assert estimate.value == pytest.approx(np.mean(known))


def test_constant_windows_have_no_correlation_and_no_number() -> None:
    accuracy = series(0, 0.0, 13)
    for estimator in (found, published):
        assert estimator(np.full((201, 6), 0.93)).status is Status.CONSTANT
        assert estimator(np.repeat(0.1 + 0.003 * np.arange(201)[:, None], 6, axis=1)).status is Status.CONSTANT
        reference_stuck = accuracy.copy()
        reference_stuck[:, 0] = 0.1
        assert estimator(reference_stuck).status is Status.CONSTANT
    settled = series(201, 1.0, 14)
    settled[100:] = 0.9
    assert found(settled).status is Status.NOT_DECORRELATED
    assert "hold a constant accuracy" in found(settled).message


def test_a_stretch_of_constant_accuracy_does_not_hide_the_time() -> None:
    accuracy = series(60, 1.0, 15)
    accuracy[120:150, 2] = 0.4
    accuracy[170:, 0] = 0.5
    assert found(accuracy).value == pytest.approx(60.0, abs=20.0)


def test_bad_data_is_a_status() -> None:
    accuracy = series(60, 1.0, 16)
    for estimator in (found, published):
        assert estimator(accuracy[:, :1]).status is Status.TOO_FEW_REPLICAS
        for n in (0, 1, 19):
            assert estimator(accuracy[:n]).status is Status.TOO_FEW_ROWS
        for column in (0, 3):
            broken = accuracy.copy()
            broken[9, column] = np.nan
            assert estimator(broken).status is Status.NON_FINITE
    assert LEAST_ROWS == 80
    assert found(accuracy[:79]).status is Status.TOO_FEW_ROWS
    assert found(times.accuracies(0, 0.0, LEAST_ROWS, 6, np.random.default_rng(0))).is_ok
    assert published(accuracy[:20]).status is Status.TOO_FEW_ROWS


def test_inputs_are_left_alone_and_a_seed_gives_one_answer() -> None:
    accuracy = series(60, 0.8, 17)
    before = accuracy.copy()
    for estimator in (found, published):
        assert estimator(accuracy, 3) == estimator(accuracy, 3)
    np.testing.assert_array_equal(accuracy, before)


def test_bad_calls() -> None:
    accuracy = series(60, 1.0, 18)
    rng = np.random.default_rng(0)
    for estimator in (decorrelation_time, decorrelation_time_published):
        with pytest.raises(BadCall, match="shapes"):
            estimator(np.arange(200), accuracy[:, 0], accuracy[:, 1:], rng)
        with pytest.raises(BadCall, match="shapes"):
            estimator(np.arange(201), accuracy[:, 0], accuracy[:, 1], rng)
        with pytest.raises(BadCall, match="n_shifts"):
            estimator(np.arange(201), accuracy[:, 0], accuracy[:, 1:], rng, 18)
        with pytest.raises(BadCall, match="confidence"):
            estimator(np.arange(201), accuracy[:, 0], accuracy[:, 1:], rng, 500, 0.0)
