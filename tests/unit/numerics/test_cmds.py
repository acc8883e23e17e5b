"""Classical scaling against its definition."""

import numpy as np
import pytest
import sklearn.manifold

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.signs import align, batch_cmds
from tests.oracles import naive


def test_batch_equals_classical_scaling_from_its_definition() -> None:
    snapshots = np.random.default_rng(1).standard_normal((9, 14)) * np.linspace(3.0, 0.5, 14)
    values, coordinates = naive.classical_scaling(snapshots, 3)
    found = batch_cmds(snapshots, 3)
    np.testing.assert_allclose(found.singular_values**2, values, rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.scores), np.abs(coordinates), atol=1e-10)
    centred = snapshots - snapshots.mean(axis=0)
    np.testing.assert_allclose(found.scores, centred @ found.components.T / np.sqrt(14), atol=1e-12)
    np.testing.assert_allclose(found.total_variance, (centred**2).sum() / 14, rtol=1e-12)
    np.testing.assert_allclose(found.explained_variance_ratio, values / found.total_variance, rtol=1e-10)
    np.testing.assert_allclose(found.eigengap, 1.0 - values[1] / values[0], rtol=1e-10)


@pytest.mark.skipif(not hasattr(sklearn.manifold, "ClassicalMDS"), reason="scikit-learn is too old")
def test_batch_equals_scikit_learn() -> None:
    snapshots = np.random.default_rng(2).standard_normal((12, 30))
    distances = np.array([[naive.rms_distance(a, b) for b in snapshots] for a in snapshots])
    theirs = sklearn.manifold.ClassicalMDS(n_components=2, metric="precomputed").fit_transform(distances)
    np.testing.assert_allclose(np.abs(batch_cmds(snapshots, 2).scores), np.abs(theirs), atol=1e-10)


def test_components_beyond_the_rank_are_zero() -> None:
    line = np.outer(np.arange(5.0), np.array([3.0, 4.0, 0.0]))
    found = batch_cmds(line, 4)
    np.testing.assert_allclose(found.components[0], [0.6, 0.8, 0.0], atol=1e-15)
    assert (found.components[1:] == 0.0).all()
    assert (found.singular_values[1:] == 0.0).all()
    assert (found.scores[:, 1:] == 0.0).all()
    assert found.eigengap == 1.0


def test_constant_snapshots_give_zeros() -> None:
    found = batch_cmds(np.full((3, 4), 0.1), 2)
    assert (found.scores == 0.0).all()
    assert found.total_variance == 0.0
    assert (found.explained_variance_ratio == 0.0).all()
    assert found.eigengap == 0.0
    assert (found.mean == 0.1).all()


def test_non_finite_rows_stay_out_and_huge_ones_do_not_overflow() -> None:
    snapshots = np.random.default_rng(3).standard_normal((6, 5))
    clean = batch_cmds(snapshots, 2)
    dirty = np.vstack([snapshots * 1e299, np.full(5, np.nan), np.full(5, np.inf)])
    found = batch_cmds(dirty, 2)
    np.testing.assert_allclose(found.scores[:6] / 1e299, clean.scores, atol=1e-12)
    assert np.isnan(found.scores[6:]).all()
    np.testing.assert_allclose(found.explained_variance_ratio, clean.explained_variance_ratio, rtol=1e-12)
    assert found.total_variance == np.inf
    nothing = batch_cmds(dirty[6:], 2)
    assert np.isnan(nothing.scores).all()
    assert nothing.spread == 0.0


def test_align_follows_the_previous_basis_through_an_exchange() -> None:
    previous = np.eye(3)[:2]
    assert align(-previous, previous).tolist() == [-1.0, -1.0]
    exchanged = np.array([[0.1, -0.9, 0.0], [0.9, 0.1, 0.0]])
    assert align(exchanged, previous).tolist() == [-1.0, 1.0]
    assert align(np.array([[0.0, 0.0, -1.0]]), previous).tolist() == [-1.0]
    assert align(np.array([[0.0, 0.0, -1.0]]), previous[:0]).tolist() == [-1.0]


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="snapshots"):
        batch_cmds(np.zeros(3), 1)
    with pytest.raises(BadCall, match="n_components"):
        batch_cmds(np.zeros((3, 2)), 0)
