"""Modes of linear systems with known eigenvalues, and what noise, chaos and random walks make of them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.series.dmd import LARGEST_RESIDUAL, Modes, dmd
from streamscalar.types import Status
from tests.oracles.maps import LOGISTIC, logistic

Floats = NDArray[np.float64]
TURNING = np.exp(-0.02 + 0.3j)


def linear(eigenvalues: list[complex], n_rows: int, n_replicas: int = 1, seed: int = 0) -> Floats:
    """Return `(T, R, K)` of a linear system around a point that is not 0; complex eigenvalues stand for pairs."""
    rng = np.random.default_rng(seed)
    starts = rng.standard_normal((n_replicas, len(eigenvalues))) + 1j * rng.standard_normal(
        (n_replicas, len(eigenvalues))
    )
    states = starts * np.asarray(eigenvalues) ** np.arange(n_rows)[:, None, None]
    columns = []
    for k, value in enumerate(eigenvalues):
        columns.append(states[..., k].real)
        if np.imag(value) != 0.0:
            columns.append(states[..., k].imag)
    flat = np.stack(columns, axis=-1)
    turn = rng.standard_normal((flat.shape[-1],) * 2)
    return np.asarray(flat @ turn + 3.0)


def turning(n_rows: int, seed: int, noise: float = 0.0, kicks: float = 0.0) -> Floats:
    """Return a decaying rotation `(T, 2)` with noise on the coordinates and kicks to the dynamics."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal((n_rows, 2)) @ np.array([1.0, 1.0j])
    states = [draw[0]]
    for t in range(1, n_rows):
        states.append(TURNING * states[-1] + kicks * draw[t])
    both = np.array([np.real(states), np.imag(states)]).T
    return np.asarray(both + noise * both.std() * rng.standard_normal(both.shape))


def growths(found: Modes) -> list[float]:
    return [mode.growth.value for mode in found.modes if mode.growth.value is not None]


@pytest.mark.parametrize("n_replicas", [1, 3])
def test_eigenvalues_of_linear_systems_are_found(n_replicas: int) -> None:
    eigenvalues: list[complex] = [1.02, 0.9, 0.97 * np.exp(0.5j), -0.7]
    scores = linear(eigenvalues, 40, n_replicas)
    found = dmd(np.arange(0, 80, 2), scores)
    assert found.status is Status.OK
    assert found.n_pairs == 39 * n_replicas
    np.testing.assert_allclose(growths(found), np.log([1.02, 0.97, 0.97, 0.9, 0.7]) / 2, atol=1e-7)
    frequencies = [mode.frequency.value for mode in found.modes]
    np.testing.assert_allclose(
        np.array(frequencies, float), [0.0, *[0.5 / 4 / np.pi] * 2, 0.0, 0.25], rtol=1e-6, atol=1e-9
    )
    assert max(mode.residual for mode in found.modes) < 1e-6
    assert [mode.eigenvalue.imag < 0.0 for mode in found.modes] == [False, True, False, False, False]


def test_one_trajectory_of_a_matrix_may_be_given_without_replicas() -> None:
    scores = linear([0.95, 0.8], 30)
    np.testing.assert_array_equal(growths(dmd(np.arange(30), scores[:, 0])), growths(dmd(np.arange(30), scores)))


def test_directions_without_variance_have_no_mode() -> None:
    scores = linear([0.95, 0.8], 30)[:, 0]
    padded = np.hstack([scores, np.zeros((30, 3)), scores @ np.ones((2, 1))])
    found = dmd(np.arange(30), padded)
    assert len(found.modes) == 2
    np.testing.assert_allclose(growths(found), np.log([0.95, 0.8]), atol=1e-8)


@pytest.mark.parametrize(("noise", "bias"), [(0.01, 0.001), (0.03, 0.004), (0.1, 0.02)])
def test_noise_makes_a_mode_decay_faster_as_documented_and_the_residual_tells(noise: float, bias: float) -> None:
    found = [dmd(np.arange(200), turning(200, seed, noise)).modes[0] for seed in range(30)]
    growth = np.mean([mode.growth.value for mode in found if mode.growth.value is not None])
    assert -0.02 - bias < growth < -0.02
    frequency = np.mean([mode.frequency.value for mode in found if mode.frequency.value is not None])
    assert frequency == pytest.approx(0.3 / (2 * np.pi), rel=0.003)
    assert np.mean([mode.residual for mode in found]) == pytest.approx(1.42 * noise, rel=0.05)


def test_intervals_cover_what_they_state_where_the_dynamics_are_kicked() -> None:
    hits = []
    for seed in range(200):
        mode = dmd(np.arange(300), turning(300, seed, kicks=0.1)).modes[0]
        growth, frequency = mode.growth, mode.frequency
        assert growth.low is not None
        assert growth.high is not None
        assert frequency.low is not None
        assert frequency.high is not None
        truth = 0.3 / (2 * np.pi)
        hits.append((growth.low <= -0.02 <= growth.high, frequency.low <= truth <= frequency.high))
    covered = np.mean(hits, axis=0)
    assert (covered > 0.90).all()
    assert (covered < 0.99).all()


def test_a_growth_rate_is_no_exponent() -> None:
    states = [np.array([0.3])]
    for _ in range(499):
        states.append(logistic(states[-1]))
    mode = dmd(np.arange(500), np.array(states)).modes[0]
    assert LOGISTIC > 0.69
    assert mode.growth.status is Status.NOT_CONVERGED
    assert "100%" in mode.growth.message
    assert mode.residual > 2 * LARGEST_RESIDUAL - 0.1
    assert mode.frequency.value is None


def test_a_random_walk_hardly_grows_with_a_small_residual() -> None:
    rates = []
    for seed in range(50):
        walk = np.random.default_rng(seed).standard_normal((200, 1)).cumsum(axis=0)
        mode = dmd(np.arange(200), walk).modes[0]
        assert mode.residual < LARGEST_RESIDUAL
        rates.append(mode.growth.value or 0.0)
    assert -10 / 200 < np.mean(rates) < -1 / 200


def test_what_has_no_modes_has_a_status() -> None:
    assert dmd(np.arange(2), np.ones((2, 1))).status is Status.TOO_FEW_ROWS
    assert dmd(np.arange(0), np.ones((0, 1))).status is Status.TOO_FEW_ROWS
    few = dmd(np.arange(8), np.random.default_rng(0).standard_normal((8, 4)))
    assert few.status is Status.TOO_FEW_ROWS
    assert "7 pairs" in few.message
    assert few.modes == ()
    assert dmd(np.arange(20), np.full((20, 3), 0.1)).status is Status.CONSTANT
    broken = np.random.default_rng(0).standard_normal((20, 3))
    broken[4, 2] = np.nan
    assert dmd(np.arange(20), broken).status is Status.NON_FINITE


def test_a_mode_that_vanishes_at_once_has_no_rate() -> None:
    scores = np.zeros((12, 1))
    scores[0] = 1.0
    mode = dmd(np.arange(12), scores).modes[0]
    assert mode.growth.status is Status.CONTRACTED
    assert mode.eigenvalue == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_units_do_not_matter(factor: float) -> None:
    scores = linear([0.95, 0.8], 30)
    np.testing.assert_allclose(
        growths(dmd(np.arange(30), scores * factor)), growths(dmd(np.arange(30), scores)), rtol=1e-9
    )


def test_bad_calls() -> None:
    scores = np.zeros((10, 2))
    with pytest.raises(BadCall, match="scores"):
        dmd(np.arange(9), scores)
    with pytest.raises(BadCall, match="scores"):
        dmd(np.arange(10), scores[:, 0])
    with pytest.raises(BadCall, match="steps"):
        dmd(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 10]), scores)
    with pytest.raises(BadCall, match="confidence"):
        dmd(np.arange(10), scores, confidence=1.0)
