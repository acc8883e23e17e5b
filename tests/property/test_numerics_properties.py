"""Invariances of the numerics, and stream against batch on every prefix."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamscalar.numerics.embedding.online import OnlineCMDS
from streamscalar.numerics.embedding.separations import separations
from streamscalar.numerics.exponents.divergence import ftle, nmle
from tests.oracles.classical import batch_cmds

Floats = NDArray[np.float64]
RANK, P = 4, 30


@st.composite
def low_rank_blocks(draw: st.DrawFn) -> list[Floats]:
    """Blocks of snapshots of rank at most `RANK`, with separated singular values, cut at random."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
    directions = np.linalg.qr(rng.standard_normal((P, RANK)))[0].T
    scores = rng.standard_normal((sum(sizes), RANK)) * 4.0 ** -np.arange(RANK)
    snapshots = scores @ directions * draw(st.sampled_from([1e-6, 1.0, 1e6])) + rng.standard_normal(P)
    return np.split(snapshots, np.cumsum(sizes)[:-1])


@settings(max_examples=60, deadline=None)
@given(low_rank_blocks())
def test_online_equals_batch_on_every_prefix(blocks: list[Floats]) -> None:
    model = OnlineCMDS(P, RANK)
    for index, block in enumerate(blocks):
        model.update(block)
        seen = np.concatenate(blocks[: index + 1])
        batch = batch_cmds(seen, RANK)
        scale = batch.spread or 1.0
        np.testing.assert_allclose(model.singular_values, batch.singular_values, atol=1e-7 * scale)
        np.testing.assert_allclose(model.spread, batch.spread, atol=1e-9 * scale)
        np.testing.assert_allclose(model.mean, batch.mean, rtol=1e-9, atol=1e-9 * scale)
        # Distances between coordinates do not depend on signs or on a turn among equal values.
        own, theirs = model.project(seen), batch.scores
        apart = np.linalg.norm(own[:, None] - own[None], axis=2)
        expected = np.linalg.norm(theirs[:, None] - theirs[None], axis=2)
        np.testing.assert_allclose(apart, expected, atol=1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(low_rank_blocks())
def test_chain_of_rotations_and_shifts_equals_direct_projection(blocks: list[Floats]) -> None:
    model = OnlineCMDS(P, RANK)
    model.update(blocks[0])
    first = model.components
    scores = model.project(blocks[0])
    for block in blocks[1:]:
        model.update(block)
        scores = scores @ model.rotation.T + model.shift
    scale = model.spread or 1.0
    np.testing.assert_allclose(scores, model.project(blocks[0]), atol=1e-6 * scale)
    assert first.shape == model.components.shape


@settings(max_examples=40, deadline=None)
@given(low_rank_blocks(), st.integers(0, 1000))
def test_restart_at_any_block_gives_the_same_bits(blocks: list[Floats], where: int) -> None:
    straight, broken = OnlineCMDS(P, 2), OnlineCMDS(P, 2)
    for index, block in enumerate(blocks):
        straight.update(block)
        broken.update(block)
        if index == where % len(blocks):
            broken = OnlineCMDS.from_snapshot(broken.snapshot())
    for name, value in straight.snapshot().items():
        assert np.array_equal(value, broken.snapshot()[name])


@settings(max_examples=40, deadline=None)
@given(low_rank_blocks(), st.integers(0, 1000), st.floats(0.1, 10.0))
def test_batch_follows_permutation_shift_scale_and_rotation(blocks: list[Floats], seed: int, factor: float) -> None:
    snapshots = np.concatenate(blocks)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((P, P)))[0]
    order = rng.permutation(len(snapshots))
    moved = factor * snapshots[order] @ turn + rng.standard_normal(P)
    plain, other = batch_cmds(snapshots, 1), batch_cmds(moved, 1)
    scale = factor * plain.spread + 1e-9
    np.testing.assert_allclose(other.singular_values, factor * plain.singular_values, atol=1e-8 * scale)
    if plain.eigengap > 0.1:
        expected = factor * plain.scores[order, 0]
        sign = 1.0 if other.scores[:, 0] @ expected > 0.0 else -1.0
        np.testing.assert_allclose(sign * other.scores[:, 0], expected, atol=1e-6 * scale)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([np.float32, np.float64]))
def test_separations_do_not_depend_on_order(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    weights: NDArray[np.floating] = rng.standard_normal((3, 5, 17)).astype(dtype)
    order = np.concatenate([[0], 1 + rng.permutation(4)])
    plain, permuted = separations(weights), separations(weights[:, order])
    assert np.array_equal(plain.l1[:, order], permuted.l1)
    shuffled = separations(weights[:, :, rng.permutation(17)])
    np.testing.assert_allclose(shuffled.l1, plain.l1, rtol=1e-13)
    scaled = separations(weights * dtype(4.0))
    assert np.array_equal(scaled.l1, 4.0 * plain.l1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.1, 2.0),
    st.integers(1, 20),
    st.floats(-20.0, 20.0),
)
def test_exponents_follow_time_and_ignore_units(seed: int, rate: float, stride: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    log_d = np.minimum(-20.0 + rate * np.arange(400)[:, None], 3.0) + 0.05 * rng.standard_normal((400, 3))
    steps = np.arange(400)
    for estimator in (ftle, nmle):
        plain = estimator(steps, np.exp(log_d))
        moved = estimator(stride * steps + 7, np.exp(log_d + offset))
        assert plain.status == moved.status
        if plain.value is not None and moved.value is not None:
            np.testing.assert_allclose(moved.value, plain.value / stride, rtol=1e-9)
