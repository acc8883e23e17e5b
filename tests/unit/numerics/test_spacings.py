"""Spacings: laws against a second optimiser, tests against their definitions and their stated levels."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from streamscalar.errors import BadCall
from streamscalar.numerics.asymptotic import laws
from streamscalar.numerics.asymptotic import spacings as module
from streamscalar.numerics.asymptotic.spacings import (
    collapse,
    differs_from_iid,
    fit_spacings,
    iid_spacings,
    rescaled_spacings,
    spacing_null,
)
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


def test_rescaled_spacings_equal_their_definition_on_every_prefix() -> None:
    states = np.random.default_rng(0).standard_normal(40)
    for n in range(2, 41):
        found = rescaled_spacings(states[:n])
        np.testing.assert_allclose(found, naive.rescaled(states[:n].tolist()), rtol=1e-12)
        assert found.mean() == pytest.approx(1.0)


def test_scale_place_and_sign_of_the_coordinate_drop_out() -> None:
    states = np.random.default_rng(1).standard_normal(20)
    found = rescaled_spacings(7.0 - 3.0 * states)
    np.testing.assert_allclose(found[::-1], rescaled_spacings(states), rtol=1e-12)


def test_spacings_of_bad_states() -> None:
    assert rescaled_spacings(np.full(4, 2.0)).tolist() == [0.0, 0.0, 0.0]
    assert rescaled_spacings(np.zeros(1)).shape == (0,)
    assert not np.isfinite(rescaled_spacings(np.array([0.0, np.nan, 1.0]))).any()
    with pytest.raises(BadCall, match="states"):
        rescaled_spacings(np.zeros((2, 2)))


BOUNDS = {
    "normal": [(-9.0, 9.0), (1e-3, 9.0)],
    "laplace": [(-9.0, 9.0), (1e-3, 9.0)],
    "logistic": [(-9.0, 9.0), (1e-3, 9.0)],
    "skew normal": [(-laws.LARGEST_SKEW, laws.LARGEST_SKEW), (-9.0, 9.0), (1e-3, 9.0)],
    "skew lognormal": [(-laws.LARGEST_SKEW, laws.LARGEST_SKEW), (-9.0, 9.0), (1e-3, 9.0)],
    "student t": [(0.5, 100.0), (-9.0, 9.0), (1e-3, 9.0)],
    "generalised normal": [(0.3, 20.0), (-9.0, 9.0), (1e-3, 9.0)],
}
LOCS = ((1.0, 1.0), (0.6, 0.4))
SHAPES = ((1.5, 0.5, 0.8), (4.0, 0.1, 1.5), (8.0, 0.9, 0.4))


@pytest.mark.parametrize("kind", ["normal", "lattice", "single"])
def test_every_law_reaches_the_likelihood_of_a_second_optimiser(kind: str) -> None:
    rng = np.random.default_rng(2)
    sets = [lattice(rng), lattice(rng)] if kind == "lattice" else normal_sets(2, 1 if kind == "single" else 3)
    values = np.concatenate(rescale(sets))
    found = fit_spacings(values)
    assert {fit.name for fit in found.fits} == set(naive.DENSITIES)
    for fit in found.fits:
        parameters = list(fit.parameters.values())
        expected = naive.log_likelihood(fit.name, values.tolist(), parameters)
        assert fit.log_likelihood == pytest.approx(expected, abs=1e-6)
        assert fit.aic == pytest.approx(2.0 * len(parameters) - 2.0 * fit.log_likelihood)
        starts: list[tuple[float, ...]] = list(LOCS if len(parameters) == 2 else SHAPES)
        if fit.name.startswith("skew"):
            starts.append((-3.0, 0.4, 0.9))
        best = naive.best_likelihood(fit.name, values.tolist(), starts, BOUNDS[fit.name])
        assert fit.log_likelihood > best - 1e-4


def test_a_cusp_sits_on_the_value_where_brute_force_puts_it() -> None:
    for seed in range(5):
        x = np.sort(stats.gennorm.rvs(0.6, 2.0, 0.3, size=60, random_state=np.random.default_rng(seed)))
        power, loc, scale = laws._general_normal(x)
        assert power < 1.0
        assert np.abs(x - loc).min() < 1e-12
        best = stats.gennorm.logpdf(x, power, loc, scale).sum()
        for at in x:
            for other in np.geomspace(0.3, 3.0, 25):
                width = (other * (np.abs(x - at) ** other).mean()) ** (1.0 / other)
                assert stats.gennorm.logpdf(x, other, at, width).sum() <= best + 1e-6


def test_no_point_of_a_grid_beats_the_skew_normal() -> None:
    for seed in range(6):
        x = np.log10(np.concatenate(rescale(normal_sets(seed, 1 + seed % 3))))
        shape, loc, scale = (float(value) for value in laws.fit_skew_normals(x[None])[0])
        shapes = np.sinh(np.linspace(-math.asinh(laws.LARGEST_SKEW), math.asinh(laws.LARGEST_SKEW), 41))
        locs, scales = np.linspace(-1.5, 1.5, 31), np.geomspace(0.2, 2.5, 31)
        grid = np.meshgrid(shapes, locs, scales, indexing="ij")
        reached = np.zeros(grid[0].shape)
        for value in x:
            reached += stats.norm.logpdf(value, grid[1], grid[2]) + math.log(2.0)
            reached += stats.norm.logcdf(grid[0] * (value - grid[1]) / grid[2])
        best = float(stats.skewnorm.logpdf(x, shape, loc, scale).sum())
        assert reached.max() <= best + 1e-9
        assert reached.max() > best - 0.5


def test_skew_normal_in_chunks_equals_one_by_one() -> None:
    x = np.log10(iid_spacings(25, np.random.default_rng(4), 40))
    together = laws.fit_skew_normals(x)
    for row in range(0, 40, 7):
        np.testing.assert_allclose(together[row], laws.fit_skew_normals(x[row : row + 1])[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [-2.78, 0.0, 4.0])
def test_many_draws_give_their_parameters_back(shape: float) -> None:
    draws = stats.skewnorm.rvs(shape, 0.36, 0.91, size=4000, random_state=np.random.default_rng(5))
    fit = fit_spacings(10.0**draws)["skew lognormal"]
    mean, deviation = stats.skewnorm.stats(shape, 0.36, 0.91)
    found = stats.skewnorm.stats(*fit.parameters.values())
    np.testing.assert_allclose(found, (mean, deviation), rtol=0.05, atol=0.05)
    if shape:
        assert fit.parameters["shape"] == pytest.approx(shape, rel=0.15)
        assert fit.parameters["loc"] == pytest.approx(0.36, abs=0.05)
    assert fit_spacings(10.0**draws).fits[0].name == "skew lognormal"
    assert fit.ks < 0.02
    assert fit.ks_p_value > 0.05


def test_the_jacobian_makes_log_and_linear_laws_comparable() -> None:
    rng = np.random.default_rng(6)
    bell = 5.0 + rng.standard_normal(2000)
    found = fit_spacings(bell)
    # Log10 of a narrow bell is nearly a bell, so both must fit almost alike, which they do only with the Jacobian.
    assert abs(found["normal"].aic - found["skew lognormal"].aic) < 40.0
    assert found["student t"].status is Status.NOT_CONVERGED
    assert "a normal law" in found["student t"].message
    assert found["student t"].log_likelihood == pytest.approx(found["normal"].log_likelihood, abs=1.0)


def test_a_shape_that_runs_away_is_no_result_but_its_likelihood_is() -> None:
    values = np.abs(np.random.default_rng(7).standard_normal(300))
    fit = fit_spacings(values)["skew normal"]
    assert fit.status is Status.NOT_CONVERGED
    assert "half normal to the right" in fit.message
    assert fit.parameters["shape"] == pytest.approx(laws.LARGEST_SKEW, rel=0.01)
    limit = stats.halfnorm.logpdf(values, *stats.halfnorm.fit(values)).sum()
    assert limit - 4.0 < fit.log_likelihood < limit
    left = fit_spacings(10.0 - values)["skew normal"]
    assert left.parameters["shape"] == pytest.approx(-laws.LARGEST_SKEW, rel=0.01)
    assert "left" in left.message


def test_ks_is_the_largest_distance_and_says_what_its_p_value_is_worth() -> None:
    values = np.concatenate(rescale(normal_sets(8)))
    for fit in fit_spacings(values).fits:
        x = np.log10(values) if fit.name == "skew lognormal" else values
        law = next(law for law in laws.LAWS if law.name == fit.name)
        parameters = tuple(fit.parameters.values())
        expected = stats.kstest(x, lambda at, law=law, p=parameters: law.distribution.cdf(at, *p))
        assert fit.ks == pytest.approx(expected.statistic, abs=1e-12)
        assert fit.ks_p_value == pytest.approx(expected.pvalue, rel=1e-9)
        assert "upper bound" in fit.ks_method


def test_the_bootstrapped_ks_p_value_is_smaller_and_keeps_its_level() -> None:
    rng = np.random.default_rng(9)
    law = laws.LAWS[0]
    p_values = [laws.fit_law(law, 5.0 + rng.standard_normal(40), 39, rng).ks_p_value for _ in range(300)]
    plain = [laws.fit_law(law, 5.0 + rng.standard_normal(40), 0, rng).ks_p_value for _ in range(300)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09
    assert np.mean(np.array(plain) <= 0.05) < 0.01
    full = fit_spacings(np.concatenate(rescale(normal_sets(9, 1))), n_bootstrap=2, rng=rng)
    assert all("bootstrap, n = 2" in fit.ks_method for fit in full.fits)
    assert {round(3.0 * fit.ks_p_value, 9) for fit in full.fits} <= {1.0, 2.0, 3.0}


def test_spacings_that_cannot_be_fitted() -> None:
    values = np.concatenate(rescale(normal_sets(10, 1)))
    few = fit_spacings(values[:14])
    assert few.status is Status.TOO_FEW_REPLICAS
    assert "14 spacings, of 15" in few.message
    assert few.fits == ()
    tied = values.copy()
    tied[[3, 5]] = 0.0
    assert fit_spacings(tied).status is Status.CONSTANT
    assert "2 of 24 spacings are 0" in fit_spacings(tied).message
    assert fit_spacings(np.ones(20)).status is Status.CONSTANT
    broken = values.copy()
    broken[1] = np.nan
    assert fit_spacings(broken).status is Status.NON_FINITE
    for bad in (-values, values[None]):
        with pytest.raises(BadCall, match="spacings"):
            fit_spacings(bad)
    with pytest.raises(BadCall, match="n_bootstrap"):
        fit_spacings(values, n_bootstrap=5)


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
