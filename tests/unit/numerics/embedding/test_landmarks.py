"""Landmarks: evenness, and the exponent they keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.distances import Picked, distances, every_snapshot
from streamscalar.numerics.embedding.from_distances.distance_pca import distance_pca
from streamscalar.numerics.embedding.landmarks import even_landmarks
from streamscalar.numerics.exponents.divergence import nmle
from tests.oracles.embeddings import ArraySource, kinked_ensemble

Floats = NDArray[np.float64]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 80))
def test_landmarks_are_different_snapshots_evenly_from_all_replicas(n_rows: int, n_replicas: int, n: int) -> None:
    picked = even_landmarks(n_rows, n_replicas, n)
    assert len(picked.rows) == min(n, n_rows * n_replicas)
    assert len(set(zip(picked.rows.tolist(), picked.replicas.tolist(), strict=True))) == len(picked.rows)
    counts = np.bincount(picked.replicas, minlength=n_replicas)
    assert counts.max() - counts.min() <= 1
    gaps = np.diff(picked.rows)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    assert 0 <= picked.rows.min() <= n_rows - 1 - picked.rows.max() + 1


def exponent(apart: Floats, n_rows: int) -> float:
    """Return the nmle of the embedded divergence from distances `(N R, m)` to landmarks."""
    scalar = distance_pca(apart, 1, 1).scores[:, 0].reshape(n_rows, -1)
    found = nmle(np.arange(n_rows), np.abs(scalar[:, 1:] - scalar[:, :1])).value
    assert found is not None
    return found


def test_landmarks_of_all_replicas_keep_the_exponent_and_those_of_the_reference_bias_it() -> None:
    n_rows, n_replicas, n_landmarks = 111, 5, 64
    everything = every_snapshot(n_rows, range(n_replicas))
    even = even_landmarks(n_rows, n_replicas, n_landmarks)
    reference = Picked(even_landmarks(n_rows, 1, n_landmarks).rows, np.zeros(n_landmarks, dtype=np.intp))
    found = []
    # Small decompositions on many threads wait for each other on a busy machine.
    with threadpool_limits(1):
        for seed in range(6):
            weights = kinked_ensemble(seed, n_rows - 1, n_replicas - 1, 1e-8, n_still=300)
            source = ArraySource(weights, parameter_step=400)
            kinds = (everything, even, reference)
            apart = [distances(source, everything, landmarks, "l1") for landmarks in kinds]
            found.append([exponent(each, n_rows) for each in apart])
    full, kept, biased = np.mean(found, axis=0)
    assert abs(kept - full) < 0.015
    assert biased - full < -0.04


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="n_landmarks"):
        even_landmarks(3, 2, 0)
