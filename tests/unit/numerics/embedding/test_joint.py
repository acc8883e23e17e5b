"""Runs on a shared axis against the batch embedding of their stacked snapshots."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.embedding.exact import exact_cmds
from streamscalar.numerics.embedding.joint import joint_source
from streamscalar.types import Layer
from tests.oracles.classical import batch_cmds
from tests.oracles.embeddings import ArraySource

Floats = NDArray[np.float64]


def runs(seed: int = 0) -> dict[str, Floats]:
    """Return three runs of unequal length and number of replicas that start at different places."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (31, 3), "b": (40, 2), "c": (35, 4)}
    return {
        name: rng.standard_normal((n, r, 50)).cumsum(axis=0) + 4.0 * rng.standard_normal(50)
        for name, (n, r) in shapes.items()
    }


def sources(values: dict[str, Floats]) -> dict[str, ArraySource]:
    """Return sources that are all cut differently."""
    steps = [(7, 17), (5, 50), (40, 9)]
    return {name: ArraySource(w, *step) for (name, w), step in zip(values.items(), steps, strict=False)}


def test_both_ways_of_reading_give_the_common_rows_side_by_side() -> None:
    values = runs()
    joint = joint_source(sources(values))
    stacked = np.concatenate([w[:31] for w in values.values()], axis=1)
    assert (joint.n_rows, joint.n_replicas, joint.n_parameters) == stacked.shape
    assert joint.replicas == {"a": range(3), "b": range(3, 5), "c": range(5, 9)}
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(joint.by_rows())), stacked)
        offsets, blocks = zip(*joint.by_parameters(), strict=True)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=2), stacked)
        assert list(offsets) == np.cumsum([0, *(block.shape[2] for block in blocks[:-1])]).tolist()
    assert max(block.shape[2] for block in blocks) == 9


@pytest.mark.parametrize(("direct_values", "gram_limit"), [(2**22, 2048), (0, 2048), (0, 1)])
def test_the_joint_embedding_is_the_batch_one_of_all_snapshots(direct_values: int, gram_limit: int) -> None:
    values = runs(1)
    joint = joint_source(sources(values))
    found = exact_cmds(joint, range(9), 2, direct_values=direct_values, gram_limit=gram_limit)
    stacked = np.concatenate([w[:31] for w in values.values()], axis=1)
    batch = batch_cmds(stacked.reshape(-1, 50), 2)
    np.testing.assert_allclose(found.scores.reshape(-1, 2), batch.scores, atol=1e-6)
    np.testing.assert_allclose(found.singular_values, batch.singular_values, rtol=1e-9)
    np.testing.assert_allclose(found.mean, batch.mean, atol=1e-12)


def test_shared_coordinates_compare_runs_and_separate_ones_do_not() -> None:
    rng = np.random.default_rng(2)
    path = np.linspace(0.0, 1.0, 20)[:, None, None] * rng.standard_normal(50)
    away = 5.0 * rng.standard_normal(50)
    values = {"here": path, "back": -path, "away": path + away}
    joint = joint_source(sources(values))
    scores = exact_cmds(joint, range(3), 3).scores
    apart = np.linalg.norm(scores[:, :, None] - scores[:, None], axis=3)
    stacked = np.concatenate(list(values.values()), axis=1)
    expected = np.linalg.norm(stacked[:, :, None] - stacked[:, None], axis=3) / np.sqrt(50)
    np.testing.assert_allclose(apart, expected, atol=1e-9)
    alone = [exact_cmds(source, [0], 1).scores[:, 0, 0] for source in sources(values).values()]
    # Embedded one by one, runs that move apart or are far from each other have the same coordinates.
    np.testing.assert_allclose(np.abs(alone[1]), np.abs(alone[0]), atol=1e-12)
    np.testing.assert_allclose(alone[2], alone[0], atol=1e-12)


def test_mixed_layouts_are_refused_and_named() -> None:
    values = runs(5)
    values["b"] = values["b"][:, :, :49]
    with pytest.raises(BadCall, match="a, c with 50 parameters; b with 49 parameters") as caught:
        joint_source(sources(values))
    assert caught.value.kind is Kind.DATA
    whole = (Layer("0.weight", 0, (50,)),)
    parts = (Layer("0.weight", 0, (25,)), Layer("1.weight", 25, (25,)))
    layers = {"a": whole, "b": whole, "c": parts}
    with pytest.raises(BadCall, match="a, b with 50 parameters; c with 50 parameters"):
        joint_source(sources(runs(5)), layers)
    assert joint_source(sources(runs(5)), dict.fromkeys("abc", parts)).n_replicas == 9


def test_nothing_to_join_is_refused() -> None:
    with pytest.raises(BadCall, match="at least one run"):
        joint_source({})
    with pytest.raises(BadCall, match="none in b"):
        joint_source({"a": ArraySource(np.zeros((2, 1, 3))), "b": ArraySource(np.zeros((0, 1, 3)))})
