"""The streaming embedding against the batch one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding import online
from streamscalar.numerics.embedding.online import OnlineCMDS
from tests.oracles.classical import batch_cmds


def walk(n: int, n_parameters: int, seed: int = 0) -> NDArray[np.float64]:
    """Return a full-rank trajectory with a decaying spectrum: a random walk."""
    return np.random.default_rng(seed).standard_normal((n, n_parameters)).cumsum(axis=0)


def test_leading_coordinates_agree_with_batch_after_every_block() -> None:
    snapshots = walk(400, 300)
    model = OnlineCMDS(300)
    for end in range(20, 401, 20):
        model.update(snapshots[end - 20 : end])
        batch = batch_cmds(snapshots[:end], 2)
        cosine = abs(batch.components[0] @ model.components[0])
        own, theirs = model.project(snapshots[:end])[:, 0], batch.scores[:, 0]
        assert cosine > 0.9999
        assert abs(np.corrcoef(own, theirs)[0, 1]) > 0.9999
        np.testing.assert_allclose(model.total_variance, batch.total_variance, rtol=1e-10)
        np.testing.assert_allclose(model.mean, batch.mean, atol=1e-11)


def test_oversampling_is_what_makes_it_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = walk(300, 200, seed=4)
    leading = batch_cmds(snapshots, 1).components[0]
    errors = []
    for n_more in (0, online.OVERSAMPLING):
        monkeypatch.setattr(online, "OVERSAMPLING", n_more)
        model = OnlineCMDS(200, 2)
        for start in range(0, 300, 10):
            model.update(snapshots[start : start + 10])
        errors.append(1.0 - abs(float(model.components[0] @ leading)))
    assert errors[1] < errors[0] / 10.0


def test_components_stay_orthonormal() -> None:
    scales = 10.0 ** -np.linspace(0, 6, 20)
    snapshots = np.random.default_rng(5).standard_normal((60, 50))[:, :20] * scales
    model = OnlineCMDS(20, 20)
    for start in range(0, 60, 6):
        model.update(snapshots[start : start + 6])
    np.testing.assert_allclose(model.components @ model.components.T, np.eye(20), atol=1e-12)


def test_restart_goes_on_with_the_same_bits() -> None:
    snapshots = walk(90, 40, seed=6)
    straight = OnlineCMDS(40, 4)
    for start in range(0, 60, 15):
        straight.update(snapshots[start : start + 15])
    restarted = OnlineCMDS.from_snapshot(straight.snapshot())
    for model in (straight, restarted):
        for start in range(60, 90, 15):
            model.update(snapshots[start : start + 15])
    for name, value in straight.snapshot().items():
        assert np.array_equal(value, restarted.snapshot()[name]), name
    assert np.array_equal(straight.project(snapshots), restarted.project(snapshots))


def test_snapshot_is_a_copy() -> None:
    model = OnlineCMDS(3, 1)
    model.update(np.eye(3))
    state = model.snapshot()
    state["mean"][:] = 7.0
    assert model.mean[0] != 7.0


def test_signs_follow_the_version_before() -> None:
    snapshots = walk(200, 30, seed=7)
    model = OnlineCMDS(30, 2)
    for start in range(0, 200, 5):
        earlier = model.components
        model.update(snapshots[start : start + 5])
        if start:
            overlap = model.components @ earlier.T
            strongest = overlap[[0, 1], np.abs(overlap).argmax(axis=1)]
            assert (strongest > 0.0).all()


def test_non_finite_snapshots_stay_out_of_the_fit() -> None:
    snapshots = walk(20, 6, seed=8)
    dirty = np.vstack([snapshots[:10], np.full((1, 6), np.nan), snapshots[10:]])
    dirty = np.vstack([dirty, np.full((1, 6), -np.inf)])
    clean, model = OnlineCMDS(6, 3), OnlineCMDS(6, 3)
    clean.update(snapshots)
    model.update(dirty)
    assert model.n_snapshots == 20
    assert np.array_equal(model.components, clean.components)
    assert np.isnan(model.project(dirty)[10]).all()
    assert np.isfinite(model.project(dirty)[9]).all()
    before = model.snapshot()
    model.update(np.full((2, 6), np.nan))
    assert model.version == 2
    assert np.array_equal(model.rotation, np.eye(3))
    assert (model.shift == 0.0).all()
    assert np.array_equal(model.snapshot()["basis"], before["basis"])


def test_no_overflow_up_to_1e300() -> None:
    snapshots = np.random.default_rng(9).uniform(-1.0, 1.0, (30, 8))
    small, huge = OnlineCMDS(8, 2), OnlineCMDS(8, 2)
    for start in range(0, 30, 10):
        small.update(snapshots[start : start + 10])
        huge.update(snapshots[start : start + 10] * 1e300)
    np.testing.assert_allclose(np.abs(huge.components), np.abs(small.components), atol=1e-10)
    np.testing.assert_allclose(huge.singular_values / 1e300, small.singular_values, rtol=1e-12)
    np.testing.assert_allclose(huge.singular_values / huge.spread, small.singular_values / small.spread, rtol=1e-12)


def test_constant_snapshots_then_motion() -> None:
    model = OnlineCMDS(3, 2)
    for _ in range(3):
        model.update(np.full((2, 3), 0.1))
    assert (model.components == 0.0).all()
    assert model.total_variance == 0.0
    assert model.eigengap == 0.0
    model.update(np.full((2, 3), 0.1) + np.array([[0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(np.abs(model.components[0]), [0.0, 0.0, 1.0], atol=1e-12)
    old_coordinate = np.zeros(2)
    expected = model.project(np.full(3, 0.1))
    np.testing.assert_allclose(model.rotation @ old_coordinate + model.shift, expected, atol=1e-12)


def test_projected_difference_keeps_what_two_projections_cancel() -> None:
    model = OnlineCMDS(50, 1)
    snapshots = walk(20, 50, seed=10) * 1e3
    model.update(snapshots)
    gap = 1e-14 * model.components[0]
    found = model.project_difference(gap)
    np.testing.assert_allclose(found, 1e-14 / np.sqrt(50), rtol=1e-12)
    assert (model.project_difference(np.zeros(50)) == 0.0).all()


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="snapshots"):
        OnlineCMDS(3, 1).update(np.zeros((2, 4)))
    with pytest.raises(BadCall, match="n_components"):
        OnlineCMDS(3, 0)
    with pytest.raises(BadCall, match="n_parameters"):
        OnlineCMDS(0, 1)


def test_fewer_parameters_than_components_give_only_their_directions() -> None:
    steps = np.arange(101.0)[:, None]
    start = np.array([1.0, -0.5, 2.0])
    paths = [(start + 1e-3 * k) * (1.0 - 0.1 * np.array([1.0, 2.0, 3.0])) ** steps for k in range(6)]
    weights = np.stack(paths, axis=1)
    model = OnlineCMDS(3, 16)
    for first in range(0, 101, 8):
        model.update(weights[first : first + 8].reshape(-1, 3))
    batch = batch_cmds(weights.reshape(-1, 3), 3)
    np.testing.assert_allclose(model.singular_values[:2], batch.singular_values[:2], rtol=1e-6)
    assert np.count_nonzero(np.abs(model.components).sum(axis=1)) <= 3
