"""The collapse test against its definition and its stated level."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.asymptotic.collapse import collapse
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


def test_the_statistic_of_collapse_equals_its_definition() -> None:
    rng = np.random.default_rng(11)
    for n in range(5, 25):
        samples = [rng.exponential(size=n), rng.exponential(size=n + 2), rng.uniform(size=5)]
        tied = [1.0 + np.round(sample * 4.0) for sample in samples]
        for given in (samples, tied):
            expected = naive.k_sample([(sample / sample.mean()).tolist() for sample in given])
            assert collapse(given, rng, 1).message.startswith(f"Statistic {expected:.4g}, ")


def collapse_rate(seeds: int, make: object) -> float:
    """Return how often a collapse is rejected at .05; `make(rng)` gives the samples."""
    assert callable(make)
    hits = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        hits.append((collapse(make(rng), rng, 99).value or 0.0) < 0.05)
    return float(np.mean(hits))


def test_collapse_keeps_its_level_on_spacings() -> None:
    def four(rng: np.random.Generator) -> list[Floats]:
        return rescale(list(rng.standard_normal((4, 25))))

    def unequal(rng: np.random.Generator) -> list[Floats]:
        return rescale([rng.uniform(size=n) for n in (20, 25, 31)])

    def pooled(rng: np.random.Generator) -> list[Floats]:
        return [np.concatenate(rescale(list(rng.standard_normal((4, 25))))) for _ in range(2)]

    def independent(rng: np.random.Generator) -> list[Floats]:
        return list(rng.exponential(size=(4, 24)))

    for make in (four, unequal, pooled, independent):
        assert 0.01 <= collapse_rate(200, make) <= 0.095


def test_collapse_finds_one_set_that_differs() -> None:
    def make(rng: np.random.Generator) -> list[Floats]:
        return rescale([*rng.standard_normal((3, 25)), lattice(rng)])

    assert collapse_rate(50, make) > 0.9


def test_collapse_says_what_it_can_conclude() -> None:
    rng = np.random.default_rng(12)
    same = collapse(rescale(normal_sets(12)), rng)
    assert same.value is not None
    assert same.value > 0.05
    assert same.n == 4
    assert "does not prove" in same.message
    assert "24, 24, 24, 24" in same.message
    other = collapse(rescale([*normal_sets(12, 2), lattice(rng)]), rng)
    assert other.value is not None
    assert other.value < 0.05
    assert "no collapse" in other.message


def test_collapse_of_bad_data_is_a_status() -> None:
    rng = np.random.default_rng(13)
    sets = rescale(normal_sets(13))
    assert collapse(sets[:1], rng).status is Status.TOO_FEW_INITIAL_CONDITIONS
    assert collapse([sets[0], sets[1][:4]], rng).status is Status.TOO_FEW_REPLICAS
    assert collapse([sets[0], np.full(24, np.inf)], rng).status is Status.NON_FINITE
    assert collapse([np.ones(10), np.ones(10)], rng).status is Status.CONSTANT
    with pytest.raises(BadCall, match="n_permutations"):
        collapse(sets, rng, 0)
