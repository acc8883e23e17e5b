"""Spacings of independent draws: the null, its distance by definition, and its stated levels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.asymptotic import independent_draws as module
from streamscalar.numerics.asymptotic import laws
from streamscalar.numerics.asymptotic.collapse import collapse
from streamscalar.numerics.asymptotic.independent_draws import differs_from_iid, iid_spacings, spacing_null
from streamscalar.numerics.asymptotic.spacings import rescaled_spacings
from streamscalar.types import Status
from tests.oracles import spacings as naive

Floats = NDArray[np.float64]


def normal_sets(seed: int, n_sets: int = 4, n_states: int = 25) -> list[Floats]:
    return list(np.random.default_rng(seed).standard_normal((n_sets, n_states)))


def rescale(sets: list[Floats]) -> list[Floats]:
    return [rescaled_spacings(states) for states in sets]


def lattice(rng: np.random.Generator, n_states: int = 25) -> Floats:
    """Return states that repel each other: a lattice jittered by three tenths of its spacing."""
    return np.asarray(np.arange(n_states) + 0.3 * rng.standard_normal(n_states))


def test_iid_draws_give_nearly_the_published_parameters() -> None:
    null = spacing_null([25] * 40, np.random.default_rng(14), n_draws=20)
    # Reported for trained networks: -2.78, .36, .91.
    assert -4.2 < null.median["shape"] < -2.2
    assert null.median["loc"] == pytest.approx(0.36, abs=0.06)
    assert null.median["scale"] == pytest.approx(0.91, abs=0.08)
    small = spacing_null([25] * 4, np.random.default_rng(14), n_draws=100)
    for name, published in (("shape", -2.78), ("loc", 0.36), ("scale", 0.91)):
        assert small.low[name] < published < small.high[name]
    assert small.fits.shape == (100, 3)
    assert float((small.density * np.diff(small.edges)).sum()) == pytest.approx(1.0, abs=0.01)


def test_the_null_counts_shapes_at_their_bound() -> None:
    null = spacing_null([25], np.random.default_rng(15), n_draws=64)
    at_bound = int((np.abs(null.fits[:, 0]) > 0.99 * laws.LARGEST_SKEW).sum())
    assert null.n_at_bound == at_bound > 0
    with pytest.raises(BadCall, match="sources"):
        spacing_null([5], np.random.default_rng(15))


def test_distance_equals_its_definition() -> None:
    rng = np.random.default_rng(16)
    law = np.sort(rng.exponential(size=300))
    for n in range(2, 30, 3):
        values = rng.exponential(size=n)
        expected = naive.distance_from(values.tolist(), law.tolist())
        assert module._distance(values[None], law)[0] == pytest.approx(expected, rel=1e-10)


def test_smoothed_bootstrap_follows_the_states() -> None:
    rng = np.random.default_rng(17)
    states = np.concatenate([rng.standard_normal(12), 40.0 + rng.standard_normal(13)])
    drawn = iid_spacings(states, rng, 200, "neighbour")
    assert drawn.shape == (200, 24)
    # One gap between the modes holds nearly the whole span.
    assert np.median(drawn.max(axis=1)) > 15.0
    assert np.median(iid_spacings(25, rng, 200).max(axis=1)) < 8.0
    with pytest.raises(BadCall, match="source"):
        iid_spacings(1, rng, 3)


LAWS = {
    "normal": lambda rng: rng.standard_normal(25),
    "uniform": lambda rng: rng.uniform(size=25),
    "two modes": lambda rng: rng.standard_normal(25) + 10.0 * rng.integers(2, size=25),
    "exponential": lambda rng: rng.exponential(size=25),
}


@pytest.mark.parametrize("name", list(LAWS))
def test_iid_draws_of_any_law_are_rarely_reported_as_structure(name: str) -> None:
    hits = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        states = [LAWS[name](rng) for _ in range(2)]
        hits.append(differs_from_iid(rescale(states), rng, states, n_draws=99).is_ok)
    assert np.mean(hits) <= 0.08


def random_walk_states(rng: np.random.Generator, n_replicas: int = 25) -> Floats:
    """Return states of independent random walks in 80 dimensions on the first principal component of all rows."""
    walks = np.cumsum(rng.standard_normal((12, n_replicas, 80)), axis=0)
    rows = walks.reshape(-1, 80) - walks.reshape(-1, 80).mean(axis=0)
    direction = np.linalg.eigh(rows.T @ rows)[1][:, -1]
    return np.asarray((walks[-3:] @ direction).mean(axis=0))


def test_random_walks_are_rarely_reported_as_structure() -> None:
    with_states, normal = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        states = [random_walk_states(rng)]
        with_states.append(differs_from_iid(rescale(states), rng, states, n_draws=99).is_ok)
        normal.append(differs_from_iid(rescale(states), rng, n_draws=99).is_ok)
    assert np.mean(with_states) <= 0.08
    assert np.mean(normal) <= 0.09


@pytest.mark.parametrize("n_sets", [1, 4])
def test_normal_surrogates_keep_the_level_on_normal_states(n_sets: int) -> None:
    hits = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hits.append(differs_from_iid(rescale(list(rng.standard_normal((n_sets, 25)))), rng, n_draws=99).is_ok)
    assert 0.01 <= np.mean(hits) <= 0.09


def test_repulsion_is_found() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        states = [lattice(rng), lattice(rng)]
        found = differs_from_iid(rescale(states), rng, states, n_draws=99)
        assert found.value is not None
        assert found.value <= 0.05


def test_what_iid_draws_do_as_well_has_no_value() -> None:
    rng = np.random.default_rng(18)
    states = normal_sets(18)
    found = differs_from_iid(rescale(states), rng, states)
    assert found.status is Status.NOT_SIGNIFICANT
    assert found.value is None
    assert "p = " in found.message
    assert found.n == 4
    assert differs_from_iid([], rng).status is Status.TOO_FEW_REPLICAS
    assert differs_from_iid([np.zeros(20)], rng).status is Status.CONSTANT
    assert differs_from_iid([np.full(20, np.nan)], rng).status is Status.NON_FINITE
    with pytest.raises(BadCall, match="states"):
        differs_from_iid(rescale(states), rng, states[:2])
    with pytest.raises(BadCall, match="n_draws"):
        differs_from_iid(rescale(states), rng, level=0.0)


def test_the_same_generator_gives_the_same_answer() -> None:
    states = normal_sets(19)
    first, second = (collapse(rescale(states), np.random.default_rng(3)) for _ in range(2))
    assert first == second
