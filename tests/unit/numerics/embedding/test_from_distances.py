"""Embeddings from distances against their definitions, scikit-learn and each other."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import ClassicalMDS
from sklearn.manifold import smacof as sklearn_smacof

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.from_distances.base import Embedding
from streamscalar.numerics.embedding.from_distances.classical import classical
from streamscalar.numerics.embedding.from_distances.distance_pca import distance_pca
from streamscalar.numerics.embedding.from_distances.landmark_cmds import landmark_cmds
from streamscalar.numerics.embedding.from_distances.smacof import smacof
from streamscalar.numerics.embedding.landmarks import even_landmarks
from streamscalar.types import Status
from tests.oracles.classical import batch_cmds
from tests.oracles.embeddings import distance_matrix, guttman, stress

Floats = NDArray[np.float64]

STRATEGIES: dict[str, Callable[[Floats, int], Embedding]] = {
    "classical": classical,
    "distance_pca": lambda d, k: distance_pca(d, 1, k),
    "distance_pca_squared": lambda d, k: distance_pca(d, 2, k),
    "landmark_cmds": lambda d, k: landmark_cmds(d, d, k),
    "smacof": smacof,
}


def curve(n: int = 40, n_parameters: int = 25, seed: int = 0) -> Floats:
    """Return a random walk: a bent trajectory of full rank."""
    return np.random.default_rng(seed).standard_normal((n, n_parameters)).cumsum(axis=0)


def signed(scores: Floats, others: Floats) -> Floats:
    """Return the scores with the signs of the others."""
    return np.asarray(scores * np.sign((scores * others).sum(axis=0)))


def test_classical_scaling_of_rms_distances_is_the_batch_embedding() -> None:
    snapshots = curve()
    distances = distance_matrix(snapshots, snapshots, "rms")
    found, batch = classical(distances, 3), batch_cmds(snapshots, 3)
    np.testing.assert_allclose(signed(found.scores, batch.scores), batch.scores, atol=1e-12)
    np.testing.assert_allclose(found.explained, batch.explained_variance_ratio, rtol=1e-12)
    theirs = ClassicalMDS(n_components=3, metric="precomputed").fit_transform(distances)
    np.testing.assert_allclose(signed(found.scores, theirs), theirs, atol=1e-12)
    assert found.stress == pytest.approx(stress(distances, found.scores), rel=1e-12)


def test_classical_scaling_of_another_distance_is_that_of_scikit_learn() -> None:
    snapshots = curve(seed=1)
    distances = distance_matrix(snapshots, snapshots, "l1")
    found = classical(distances, 2)
    theirs = ClassicalMDS(n_components=2, metric="precomputed").fit_transform(distances)
    np.testing.assert_allclose(signed(found.scores, theirs), theirs, atol=1e-10)
    assert found.explained.sum() < 1.0


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("n_features", [40, 7])
def test_distance_pca_is_a_pca_of_the_distances(power: Literal[1, 2], n_features: int) -> None:
    snapshots = curve(seed=2)
    distances = distance_matrix(snapshots, snapshots[:n_features], "l1")
    found = distance_pca(distances, power, 3)
    model = PCA(3, svd_solver="full").fit(distances**power)
    theirs = model.transform(distances**power) / np.sqrt(n_features)
    np.testing.assert_allclose(signed(found.scores, theirs), theirs, atol=1e-9 * np.abs(theirs).max())
    np.testing.assert_allclose(found.explained, model.explained_variance_ratio_, rtol=1e-10)
    assert found.stress is None


def test_distance_pca_is_not_classical_scaling() -> None:
    snapshots = curve(seed=3)
    distances = distance_matrix(snapshots, snapshots, "rms")
    scalars = [strategy(distances, 1).scores[:, 0] for strategy in STRATEGIES.values()]
    agreement = dict(zip(STRATEGIES, np.abs(np.corrcoef(scalars))[0].tolist(), strict=True))
    assert agreement["landmark_cmds"] == pytest.approx(1.0, abs=1e-12)
    assert 0.9 < agreement["distance_pca"] < 0.999
    assert 0.9 < agreement["distance_pca_squared"] < 0.99999


@pytest.mark.parametrize("n_components", [1, 2])
def test_smacof_never_raises_the_stress_and_follows_the_guttman_transform(n_components: int) -> None:
    snapshots = curve(n=25, seed=4)
    distances = distance_matrix(snapshots, snapshots, "l1")
    start = classical(distances, n_components).scores
    places = start
    for n_iterations in (1, 2, 3):
        places = guttman(distances, places)
        found = smacof(distances, n_components, max_iterations=n_iterations, tolerance=0.0)
        np.testing.assert_allclose(found.scores, places, rtol=1e-10, atol=1e-10)
        assert found.stress == pytest.approx(stress(distances, places), rel=1e-12)
    assert found.stresses[0] == pytest.approx(stress(distances, start), rel=1e-12)
    for tolerance in (1e-9, 0.0):
        found = smacof(distances, n_components, tolerance=tolerance, max_iterations=5000)
        assert (np.diff(found.stresses) <= 0.0).all()
        assert found.status is Status.OK
        assert found.stress == found.stresses[-1] < 0.9 * found.stresses[0]


def test_rounding_does_not_raise_the_stress_either() -> None:
    for seed in range(8):
        snapshots = curve(n=12, n_parameters=4, seed=seed)
        found = smacof(distance_matrix(snapshots, snapshots, "l1"), 3, max_iterations=400, tolerance=0.0)
        assert (np.diff(found.stresses) <= 0.0).all()


def test_smacof_is_that_of_scikit_learn_from_the_same_start() -> None:
    snapshots = curve(n=30, seed=5)
    distances = distance_matrix(snapshots, snapshots, "rms")
    found = smacof(distances, 2, tolerance=1e-12, max_iterations=5000)
    start = classical(distances, 2).scores
    theirs, _ = sklearn_smacof(distances, n_components=2, init=start, n_init=1, max_iter=5000, eps=1e-12)
    assert found.stress == pytest.approx(stress(distances, theirs), rel=1e-5)


def test_in_one_dimension_random_starts_end_in_many_local_minima_most_of_them_worse() -> None:
    snapshots = curve(n=30, seed=6)
    distances = distance_matrix(snapshots, snapshots, "rms")
    best = smacof(distances, 1)
    rng = np.random.default_rng(0)
    others = [smacof(distances, 1, start=rng.standard_normal((30, 1))) for _ in range(20)]
    ratios = np.array([other.stress for other in others], dtype=np.float64) / np.float64(best.stress or 0.0)
    assert len(set(ratios.round(6).tolist())) == 20
    assert np.median(ratios) > 1.5
    assert ratios.min() > 0.95
    assert all(len(other.stresses) < 30 for other in others)


def test_smacof_says_when_it_ran_out_of_iterations() -> None:
    snapshots = curve(n=30, seed=7)
    found = smacof(distance_matrix(snapshots, snapshots, "l1"), 2, max_iterations=2, tolerance=0.0)
    assert found.status is Status.NOT_CONVERGED
    assert "2 iterations" in found.message
    assert np.isfinite(found.scores).all()


def test_smacof_leaves_a_perfect_embedding_alone() -> None:
    line = np.abs(np.subtract.outer(np.arange(9.0), np.arange(9.0)))
    found = smacof(line, 1)
    np.testing.assert_allclose(np.sort(found.scores[:, 0]), np.arange(9.0) - 4.0, atol=1e-12)
    assert found.stress == pytest.approx(0.0, abs=1e-14)
    assert found.status is Status.OK


def test_landmarks_that_span_the_space_place_everything_exactly() -> None:
    snapshots = np.random.default_rng(8).standard_normal((50, 4)) @ np.ones((4, 30)).cumsum(axis=1)
    snapshots += np.random.default_rng(9).standard_normal((50, 3)) @ np.random.default_rng(10).standard_normal((3, 30))
    chosen = even_landmarks(50, 1, 8).rows
    to_landmarks = distance_matrix(snapshots, snapshots[chosen], "rms")
    found = landmark_cmds(to_landmarks[chosen], to_landmarks, 4)
    apart = np.linalg.norm(found.scores[:, None] - found.scores[None], axis=2)
    np.testing.assert_allclose(apart, distance_matrix(snapshots, snapshots, "rms"), atol=1e-8)
    own = classical(to_landmarks[chosen], 4)
    np.testing.assert_allclose(found.scores[chosen], own.scores, atol=1e-8)
    np.testing.assert_allclose(found.explained, own.explained, rtol=1e-12)


def test_with_all_snapshots_as_landmarks_triangulation_is_classical_scaling() -> None:
    snapshots = curve(seed=11)
    distances = distance_matrix(snapshots, snapshots, "rms")
    found, whole = landmark_cmds(distances, distances, 3), classical(distances, 3)
    np.testing.assert_allclose(found.scores, whole.scores, atol=1e-11)
    assert found.stress == pytest.approx(whole.stress, rel=1e-9)


@pytest.mark.parametrize("n_components", [1, 2, 5])
@pytest.mark.parametrize("name", STRATEGIES)
def test_twins_get_the_same_bits(name: str, n_components: int) -> None:
    for n in range(20, 45, 6):
        snapshots = curve(n=n, seed=12)
        both = np.concatenate([snapshots, snapshots[5:12]])
        found = STRATEGIES[name](distance_matrix(both, both, "rms"), n_components).scores
        assert np.array_equal(found[n:], found[5:12])


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("factor", [2.0**-400, 2.0**400])
def test_units_do_not_matter(name: str, factor: float) -> None:
    snapshots = curve(n=20, seed=13)
    distances = distance_matrix(snapshots, snapshots, "l1")
    plain, scaled = STRATEGIES[name](distances, 2), STRATEGIES[name](distances * factor, 2)
    power = 2 if name == "distance_pca_squared" else 1
    np.testing.assert_allclose(scaled.scores / factor**power, plain.scores, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scaled.explained, plain.explained, rtol=1e-12)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_snapshot_that_is_not_finite_stays_out(name: str) -> None:
    snapshots = curve(n=20, seed=14)
    distances = distance_matrix(snapshots, snapshots, "rms")
    dirty = np.insert(np.insert(distances, 7, np.nan, axis=0), 7, np.nan, axis=1)
    found, clean = STRATEGIES[name](dirty, 2), STRATEGIES[name](distances, 2)
    assert found.status is Status.OK
    assert np.isnan(found.scores[7]).all()
    np.testing.assert_array_equal(np.delete(found.scores, 7, axis=0), clean.scores)


@pytest.mark.parametrize("name", ["classical", "smacof"])
def test_a_distance_that_overflowed_takes_both_snapshots_out(name: str) -> None:
    snapshots = curve(n=20, seed=15)
    distances = distance_matrix(snapshots, snapshots, "rms")
    distances[3, 8] = distances[8, 3] = np.inf
    found = STRATEGIES[name](distances, 2)
    rest = np.delete(np.arange(20), [3, 8])
    assert np.isnan(found.scores[[3, 8]]).all()
    np.testing.assert_array_equal(found.scores[rest], STRATEGIES[name](distances[np.ix_(rest, rest)], 2).scores)


@pytest.mark.parametrize("name", STRATEGIES)
def test_data_without_an_embedding_have_a_status_and_no_numbers(name: str) -> None:
    nothing = STRATEGIES[name](np.full((4, 4), np.nan), 2)
    assert nothing.status is Status.NON_FINITE
    assert np.isnan(nothing.scores).all()
    single = np.full((4, 4), np.nan)
    single[2, 2] = 0.0
    assert STRATEGIES[name](single, 2).status is Status.TOO_FEW_ROWS
    alike = STRATEGIES[name](np.zeros((4, 4)), 2)
    assert alike.status is Status.CONSTANT
    assert alike.message
    assert (alike.explained == 0.0).all()


def test_axes_beyond_the_rank_are_zero() -> None:
    line = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    for found in (classical(line, 3), landmark_cmds(line, line, 3), smacof(line, 3)):
        assert found.scores.shape == (6, 3)
        assert (found.scores[:, 1:] == 0.0).all()


def test_bad_calls() -> None:
    line = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    with pytest.raises(BadCall, match="square"):
        classical(line[:, :4], 1)
    with pytest.raises(BadCall, match="symmetric"):
        smacof(np.triu(line), 1)
    with pytest.raises(BadCall, match="negative"):
        distance_pca(-line, 1, 1)
    with pytest.raises(BadCall, match="matrix"):
        distance_pca(line[0], 1, 1)
    with pytest.raises(BadCall, match="n_components"):
        classical(line, 0)
    with pytest.raises(BadCall, match="6 columns"):
        landmark_cmds(line, line[:, :3], 1)
    with pytest.raises(BadCall, match="start"):
        smacof(line, 1, start=np.zeros((5, 1)))
    with pytest.raises(BadCall, match="start"):
        smacof(line, 1, start=np.full((6, 1), np.nan))
    with pytest.raises(BadCall, match="max_iterations"):
        smacof(line, 1, max_iterations=0)
