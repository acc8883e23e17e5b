"""Spacings and the fits of their laws against definitions and a second optimiser."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from streamscalar.errors import BadCall
from streamscalar.numerics.asymptotic import laws
from streamscalar.numerics.asymptotic.independent_draws import iid_spacings
from streamscalar.numerics.asymptotic.spacings import fit_spacings, rescaled_spacings
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
    assert "14 spacings; 15 are needed" in few.message
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
