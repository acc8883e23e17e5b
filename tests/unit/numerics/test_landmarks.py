"""Landmarks: evenness, the exponent they keep, and the cover of a stream on every prefix."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.distances import Picked, distances, every_snapshot
from streamscalar.numerics.embedding.from_distances import distance_pca
from streamscalar.numerics.embedding.landmarks import OnlineLandmarks, dominating_set, even_landmarks
from streamscalar.numerics.exponents.divergence import nmle
from tests.oracles.embeddings import ArraySource, best_cover, kinked_ensemble, row_distances

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


def test_the_dominating_set_is_dominating_independent_and_minimal() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 30):
        points = rng.uniform(size=(n, 2))
        near = np.linalg.norm(points[:, None] - points[None], axis=2) <= 0.3
        chosen = dominating_set(near)
        assert near[chosen].any(axis=0).all()
        assert (near[np.ix_(chosen, chosen)] == np.eye(len(chosen), dtype=np.bool_)).all()
        for vertex in chosen:
            rest = chosen[chosen != vertex]
            assert not near[rest].any(axis=0).all()


@st.composite
def streams(draw: st.DrawFn) -> list[Floats]:
    """Blocks of rows `(S, R, P)` that drift, jump and come back, cut at random."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_replicas, n_parameters = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    scale = 10.0 ** draw(st.integers(-8, 8))
    rows = rng.standard_normal((sum(sizes), 1, n_parameters)).cumsum(axis=0)
    rows = rows + draw(st.sampled_from([0.0, 1e-9, 1.0])) * rng.standard_normal((sum(sizes), n_replicas, n_parameters))
    rows[rng.uniform(size=sum(sizes)) < 0.2] *= 30.0
    repeated = rng.integers(sum(sizes), size=sum(sizes))
    rows = np.where((rng.uniform(size=sum(sizes)) < 0.3)[:, None, None], rows[repeated], rows)
    return np.split(rows * scale, np.cumsum(sizes)[:-1])


@settings(max_examples=80, deadline=None)
@given(streams(), st.integers(2, 4), st.sampled_from(["rms", "l1"]))
def test_on_every_prefix_all_rows_are_covered_within_the_budget(
    blocks: list[Floats], n_kept: int, distance: Literal["rms", "l1"]
) -> None:
    _, n_replicas, n_parameters = blocks[0].shape
    model = OnlineLandmarks(n_replicas, n_parameters, n_kept * n_replicas, distance)
    whole = np.concatenate(blocks)
    apart = row_distances(whole, distance)
    rounding = 1e-12 * float(apart.max())
    for block in blocks:
        model.update(block)
        n = model.n_rows
        rows = np.unique(model.landmarks.rows)
        nearest = apart[:n, rows].min(axis=1)
        assert (nearest <= model.covering_radius + rounding).all()
        assert model.covering_radius <= 5.0 * model.radius + rounding
        assert model.covering_radius <= 12.5 * best_cover(apart[:n, :n], n_kept) + rounding
        assert len(rows) <= n_kept
        assert (np.bincount(model.landmarks.replicas, minlength=n_replicas) == len(rows)).all()
        inner = apart[np.ix_(rows, rows)][~np.eye(len(rows), dtype=np.bool_)]
        assert (inner > model.radius - rounding).all()
        np.testing.assert_array_equal(model.snapshots, whole[model.landmarks])


@settings(max_examples=40, deadline=None)
@given(streams(), st.integers(0, 1000))
def test_neither_the_cuts_nor_a_restart_change_a_bit(blocks: list[Floats], where: int) -> None:
    _, n_replicas, n_parameters = blocks[0].shape
    straight, broken, single = (OnlineLandmarks(n_replicas, n_parameters, 3 * n_replicas) for _ in range(3))
    for index, block in enumerate(blocks):
        straight.update(block)
        broken.update(block)
        if index == where % len(blocks):
            broken = OnlineLandmarks.from_snapshot(broken.snapshot())
        for row in block:
            single.update(row[None])
    for name, value in straight.snapshot().items():
        assert np.array_equal(value, broken.snapshot()[name]), name
        assert np.array_equal(value, single.snapshot()[name]), name


def test_memory_stays_within_the_budget_and_old_landmarks_give_way() -> None:
    rows = np.random.default_rng(1).standard_normal((500, 2, 5)).cumsum(axis=0)
    model = OnlineLandmarks(2, 5, 21)
    for start in range(0, 500, 25):
        model.update(rows[start : start + 25])
        assert sum(value.size for value in model.snapshot().values()) <= 20 * 5 + 10 * 10 + 10 + 5
    assert 5 <= len(np.unique(model.landmarks.rows)) <= 10
    assert np.unique(model.landmarks.rows).max() > 300
    assert model.snapshots.shape == (len(model.landmarks.rows), 5)


def test_on_a_long_line_the_cover_stays_within_its_factor() -> None:
    line = np.linspace(0.0, 1.0, 800)
    model = OnlineLandmarks(1, 1, 5)
    for n, place in enumerate(line, start=1):
        model.update(np.array([[[place]]]))
        best = place / 10.0
        assert model.covering_radius <= max(5.0 * model.radius, 0.0) + 1e-12
        assert n <= 5 or model.covering_radius <= 12.5 * best + 1e-12
    assert len(model.landmarks.rows) >= 3


def test_a_row_becomes_a_landmark_exactly_when_it_is_beyond_the_radius() -> None:
    rows = np.random.default_rng(3).standard_normal((300, 2, 2)).cumsum(axis=0)
    apart = row_distances(rows, "rms")
    model = OnlineLandmarks(2, 2, 16)
    n_added = n_passed = 0
    for t in range(300):
        before, radius = np.unique(model.landmarks.rows), model.radius
        is_beyond = apart[t, before].min(initial=np.inf) > radius
        model.update(rows[t : t + 1])
        if model.radius == radius:
            assert (t in model.landmarks.rows) is bool(is_beyond)
            n_added += is_beyond
            n_passed += not is_beyond
        else:
            assert is_beyond
    assert n_added > 10
    assert n_passed > 100


def test_a_row_that_is_not_finite_is_passed_over() -> None:
    rows = np.random.default_rng(2).standard_normal((30, 2, 4)).cumsum(axis=0)
    dirty = rows.copy()
    dirty[[3, 17], [0, 1]] = np.nan
    model, clean = OnlineLandmarks(2, 4, 12), OnlineLandmarks(2, 4, 12)
    model.update(dirty)
    clean.update(np.delete(rows, [3, 17], axis=0))
    assert model.n_rows == 30
    assert model.covering_radius == clean.covering_radius
    np.testing.assert_array_equal(model.snapshots, clean.snapshots)
    model.update(np.full((2, 2, 4), np.inf))
    assert model.n_rows == 32


def test_snapshot_is_a_copy() -> None:
    model = OnlineLandmarks(1, 3, 2)
    model.update(np.eye(3)[:2, None])
    model.snapshot()["weights"][:] = 7.0
    model.snapshots[:] = 7.0
    np.testing.assert_array_equal(model.snapshots, np.eye(3)[:2])


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="n_landmarks"):
        OnlineLandmarks(3, 4, 5)
    with pytest.raises(BadCall, match="n_replicas"):
        OnlineLandmarks(0, 4, 5)
    with pytest.raises(BadCall, match="block"):
        OnlineLandmarks(2, 4, 4).update(np.zeros((1, 3, 4)))
    with pytest.raises(BadCall, match="n_landmarks"):
        even_landmarks(3, 2, 0)
