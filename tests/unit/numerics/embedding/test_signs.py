"""Signs of components; and the oracle of classical scaling against its definition."""

import numpy as np
import pytest
import sklearn.manifold

from streamscalar.numerics.embedding.signs import align
from tests.oracles import naive
from tests.oracles.classical import batch_cmds


def test_batch_equals_classical_scaling_from_its_definition() -> None:
    snapshots = np.random.default_rng(1).standard_normal((9, 14)) * np.linspace(3.0, 0.5, 14)
    values, coordinates = naive.classical_scaling(snapshots, 3)
    found = batch_cmds(snapshots, 3)
    np.testing.assert_allclose(found.singular_values**2, values, rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.scores), np.abs(coordinates), atol=1e-10)
    centred = snapshots - snapshots.mean(axis=0)
    np.testing.assert_allclose(found.scores, centred @ found.components.T / np.sqrt(14), atol=1e-12)
    total = (centred**2).sum() / 14
    np.testing.assert_allclose(found.explained_variance_ratio, values / total, rtol=1e-10)
    np.testing.assert_allclose(found.eigengap, 1.0 - values[1] / values[0], rtol=1e-10)


@pytest.mark.skipif(not hasattr(sklearn.manifold, "ClassicalMDS"), reason="scikit-learn is too old")
def test_batch_equals_scikit_learn() -> None:
    snapshots = np.random.default_rng(2).standard_normal((12, 30))
    distances = np.array([[naive.rms_distance(a, b) for b in snapshots] for a in snapshots])
    theirs = sklearn.manifold.ClassicalMDS(n_components=2, metric="precomputed").fit_transform(distances)
    np.testing.assert_allclose(np.abs(batch_cmds(snapshots, 2).scores), np.abs(theirs), atol=1e-10)


def test_align_follows_the_previous_basis_through_an_exchange() -> None:
    previous = np.eye(3)[:2]
    assert align(-previous, previous).tolist() == [-1.0, -1.0]
    exchanged = np.array([[0.1, -0.9, 0.0], [0.9, 0.1, 0.0]])
    assert align(exchanged, previous).tolist() == [-1.0, 1.0]
    assert align(np.array([[0.0, 0.0, -1.0]]), previous).tolist() == [-1.0]
    assert align(np.array([[0.0, 0.0, -1.0]]), previous[:0]).tolist() == [-1.0]
