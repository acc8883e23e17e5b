"""The exact embedding by both of its ways against the batch one."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.exact import exact_cmds
from tests.oracles.classical import batch_cmds

WAYS: dict[str, dict[str, Any]] = {"direct": {}, "gram": {"direct_values": 0}, "subspace": {"gram_limit": 1}}


class ArraySource:
    """A source over an array, which counts how often it was read."""

    def __init__(self, weights: NDArray[np.floating]) -> None:
        self.weights = weights
        self.n_rows, self.n_replicas, self.n_parameters = weights.shape
        self.n_reads = 0

    def by_rows(self) -> Iterator[NDArray[np.floating]]:
        """Yield seven rows at a time."""
        self.n_reads += 1
        for start in range(0, self.n_rows, 7):
            yield self.weights[start : start + 7]

    def by_parameters(self) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yield seventeen parameters at a time."""
        self.n_reads += 1
        for start in range(0, self.n_parameters, 17):
            yield start, self.weights[:, :, start : start + 17]


def run_of_walks(n_rows: int = 40, n_parameters: int = 60, seed: int = 0) -> NDArray[np.float64]:
    """Return a reference, two perturbed replicas and a control with the reference's bits."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((n_rows, 4, n_parameters)).cumsum(axis=0) + 5.0
    weights[:, 1:3] = weights[:, :1] + 1e-3 * weights[:, 1:3]
    weights[n_rows // 2 :, 1:3] += rng.standard_normal((n_rows - n_rows // 2, 2, n_parameters))
    weights[:, 3] = weights[:, 0]
    return weights


@pytest.mark.parametrize("way", WAYS)
def test_exact_equals_batch(way: str) -> None:
    weights = run_of_walks()
    source = ArraySource(weights)
    found = exact_cmds(source, [0, 1, 2], 3, **WAYS[way])
    batch = batch_cmds(weights[:, :3].reshape(-1, 60), 3)
    assert found.method == way
    assert found.n_passes == source.n_reads
    assert found.residual <= 1e-9
    np.testing.assert_allclose(found.components[:2], batch.components[:2], atol=1e-7)
    np.testing.assert_allclose(found.singular_values[:2], batch.singular_values[:2], rtol=1e-12)
    np.testing.assert_allclose(found.scores[:, :3, :2].reshape(-1, 2), batch.scores[:, :2], atol=1e-6)
    np.testing.assert_allclose(found.mean, batch.mean, atol=1e-12)
    np.testing.assert_allclose(found.total_variance, batch.total_variance, rtol=1e-12)
    np.testing.assert_allclose(
        np.square(found.singular_values[:2]) / found.total_variance, batch.explained_variance_ratio[:2], rtol=1e-9
    )
    np.testing.assert_allclose(found.eigengap, batch.eigengap, rtol=1e-9)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(3), atol=1e-12)
    apart = np.abs((weights - weights[:, :1]) @ found.components[0]) / np.sqrt(60)
    np.testing.assert_allclose(np.abs(found.separation), apart, rtol=1e-9, atol=1e-15)
    assert (found.separation[:, 3] == 0.0).all()


@pytest.mark.parametrize("way", WAYS)
def test_reported_residual_is_the_real_one(way: str) -> None:
    weights = run_of_walks(seed=3)
    found = exact_cmds(ArraySource(weights), [0, 1, 2], 2, **WAYS[way], tolerance=1e-4)
    rows = weights[:, :3].reshape(-1, 60)
    centred = (rows - rows.mean(axis=0)) / np.sqrt(60)
    for k in range(2):
        sigma = found.singular_values[k]
        left = centred @ found.components[k] / sigma
        residual = np.linalg.norm(centred.T @ left - sigma * found.components[k]) / found.singular_values[0]
        assert residual <= max(1.01 * found.residuals[k], 1e-13)
        if way == "subspace":
            np.testing.assert_allclose(residual, found.residuals[k], rtol=1e-3, atol=1e-13)


def test_a_tiny_separation_survives_both_methods() -> None:
    weights = run_of_walks(seed=4)
    direction = batch_cmds(weights[:, 0], 1).components[0]
    weights[:, 1] = weights[:, 0] + 1e-11 * direction
    weights[:, 2] = weights[:, 0]
    actual = weights[:, 1] - weights[:, 0]
    for way in WAYS:
        found = exact_cmds(ArraySource(weights), [0, 1, 2], 1, **WAYS[way])
        expected = np.abs(actual @ found.components[0]) / np.sqrt(60)
        np.testing.assert_allclose(np.abs(found.separation[:, 1]), expected, rtol=1e-9)


def test_a_start_saves_passes_and_fixes_the_sign() -> None:
    weights = run_of_walks(n_rows=200, n_parameters=300, seed=5)
    cold = exact_cmds(ArraySource(weights), [0, 1, 2], 4, **WAYS["subspace"])
    start = -cold.components
    warm = exact_cmds(ArraySource(weights), [0, 1, 2], 4, start=start, **WAYS["subspace"])
    assert warm.n_passes == 2
    assert warm.n_passes < cold.n_passes
    np.testing.assert_allclose(warm.components[:2], start[:2], atol=1e-7)
    gram = exact_cmds(ArraySource(weights), [0, 1, 2], 4, start=start)
    np.testing.assert_allclose(gram.components[:2], start[:2], atol=1e-7)


def test_passes_are_bounded_and_the_residual_says_so() -> None:
    weights = run_of_walks(n_rows=200, n_parameters=300, seed=6)
    source = ArraySource(weights)
    found = exact_cmds(source, [0, 1, 2], 1, **WAYS["subspace"], max_passes=2)
    assert found.n_passes == source.n_reads == 2
    assert found.residual > 1e-9


def test_nearly_equal_leading_eigenvalues_converge_as_a_plane() -> None:
    rng = np.random.default_rng(7)
    left = np.linalg.qr(rng.standard_normal((120, 40)) - 0.0)[0]
    left -= left.mean(axis=0)
    right = np.linalg.qr(rng.standard_normal((90, 40)))[0]
    spectrum = np.concatenate([[10.0, 10.0], np.linspace(9.5, 1.0, 38)])
    weights = ((left * spectrum) @ right.T)[:, None, :]
    batch = batch_cmds(weights[:, 0], 2)
    found = exact_cmds(ArraySource(weights), [0], 2, **WAYS["subspace"])
    overlap = np.linalg.svd(batch.components @ found.components.T)[1]
    assert overlap.min() > 1.0 - 1e-9
    assert found.n_passes < 30


@pytest.mark.parametrize("way", WAYS)
def test_non_finite_snapshots_stay_out_and_get_nan(way: str) -> None:
    weights = run_of_walks(seed=8)
    weights[0, 0, 50] = np.nan
    weights[9, 1] = np.inf
    weights[11, 3, 59] = np.nan
    found = exact_cmds(ArraySource(weights), [0, 1, 2], 2, **WAYS[way])
    fitted = weights[:, :3].reshape(-1, 60)
    batch = batch_cmds(fitted[np.isfinite(fitted).all(axis=1)], 2)
    np.testing.assert_allclose(found.components, batch.components, atol=1e-6)
    np.testing.assert_allclose(found.mean, batch.mean, atol=1e-11)
    lost = np.isnan(found.scores).all(axis=2)
    assert np.argwhere(lost).tolist() == [[0, 0], [9, 1], [11, 3]]
    assert np.argwhere(np.isnan(found.separation)).tolist() == [
        [0, 0], [0, 1], [0, 2], [0, 3], [9, 1], [11, 3],
    ]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [0.1, np.nan])
def test_nothing_that_varies_gives_zeros(way: str, value: float) -> None:
    found = exact_cmds(ArraySource(np.full((6, 3, 30), value)), [0, 1], 3, **WAYS[way])
    assert (found.components == 0.0).all()
    assert (found.singular_values == 0.0).all()
    assert found.total_variance == 0.0
    assert found.residual == 0.0
    assert found.eigengap == 0.0
    assert np.isnan(found.scores).all() == np.isnan(value)


@pytest.mark.parametrize("way", WAYS)
def test_low_rank_and_huge_weights(way: str) -> None:
    rng = np.random.default_rng(9)
    weights = (rng.standard_normal((20, 1)) @ rng.standard_normal((1, 35)))[:, None, :]
    small = exact_cmds(ArraySource(weights), [0], 3, **WAYS[way])
    huge = exact_cmds(ArraySource(weights / np.abs(weights).max() * 1e300), [0], 3, **WAYS[way])
    for found in (small, huge):
        assert (found.components[1:] == 0.0).all()
        np.testing.assert_allclose(found.singular_values[0] / found.spread, 1.0, rtol=1e-12)
        assert found.eigengap == 1.0
    np.testing.assert_allclose(huge.components[0], small.components[0], atol=1e-12)
    assert np.isfinite(huge.scores).all()


@pytest.mark.parametrize("way", WAYS)
def test_parts_of_very_different_size_share_one_unit(way: str) -> None:
    weights = run_of_walks(seed=11)
    weights[:20] *= 2.0**-12
    weights[:, :, 20:40] *= 2.0**10
    batch = batch_cmds(weights[:, :3].reshape(-1, 60), 2)
    found = exact_cmds(ArraySource(weights), [0, 1, 2], 2, **WAYS[way])
    np.testing.assert_allclose(found.singular_values, batch.singular_values, rtol=1e-9)
    np.testing.assert_allclose(found.total_variance, batch.total_variance, rtol=1e-9)


def test_float32_weights_and_one_component() -> None:
    weights = run_of_walks(seed=10).astype(np.float32)
    batch = batch_cmds(weights[:, :3].reshape(-1, 60), 1)
    for way in WAYS:
        found = exact_cmds(ArraySource(weights), [0, 1, 2], 1, **WAYS[way])
        np.testing.assert_allclose(found.components, batch.components, atol=1e-7)
        np.testing.assert_allclose(found.eigengap, batch.eigengap, rtol=1e-8)
        assert found.scores.shape == (40, 4, 1)


def test_bad_calls() -> None:
    source = ArraySource(np.zeros((3, 2, 4)))
    with pytest.raises(BadCall, match="fit"):
        exact_cmds(source, [], 1)
    with pytest.raises(BadCall, match="fit"):
        exact_cmds(source, [2], 1)
    with pytest.raises(BadCall, match="n_components"):
        exact_cmds(source, [0], 0)
    with pytest.raises(BadCall, match="max_passes"):
        exact_cmds(source, [0], 1, max_passes=1)
    with pytest.raises(BadCall, match="source"):
        exact_cmds(ArraySource(np.zeros((0, 2, 4))), [0], 1)


@pytest.mark.parametrize("way", WAYS)
def test_fewer_parameters_than_components_give_only_their_directions(way: str) -> None:
    steps = np.arange(101.0)[:, None]
    start = np.array([1.0, -0.5, 2.0])
    paths = [(start + 1e-3 * k) * (1.0 - 0.1 * np.array([1.0, 2.0, 3.0])) ** steps for k in range(6)]
    weights = np.stack(paths, axis=1)
    found = exact_cmds(ArraySource(weights), range(6), 16, **WAYS[way])
    batch = batch_cmds(weights.reshape(-1, 3), 3)
    np.testing.assert_allclose(found.singular_values[:2], batch.singular_values[:2], rtol=1e-9)
    assert np.count_nonzero(np.abs(found.components).sum(axis=1)) <= 3
