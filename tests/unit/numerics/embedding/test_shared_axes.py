"""A shared axis made of bases alone, against classical scaling of all snapshots."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.shared_axes import Basis, shared_axes


def _basis(snapshots: NDArray[np.float64], k: int) -> tuple[Basis, NDArray[np.float64]]:
    """Return the k leading directions of snapshots (n, P), and their coordinates (n, k), by a plain SVD."""
    root = np.sqrt(snapshots.shape[1])
    mean = snapshots.mean(axis=0)
    _, sigma, directions = np.linalg.svd((snapshots - mean) / root, full_matrices=False)
    basis = Basis(mean, directions[:k], sigma[:k], float((sigma**2).sum()), len(snapshots))
    return basis, (snapshots - mean) @ directions[:k].T / root


def _runs(rng: np.random.Generator, counts: tuple[int, ...], rank: int, p: int = 40) -> list[NDArray[np.float64]]:
    return [
        rng.standard_normal(p) * 0.5 + rng.standard_normal((n, rank)) @ rng.standard_normal((rank, p)) for n in counts
    ]


def test_full_rank_bases_give_the_classical_scaling_of_all_snapshots() -> None:
    runs = _runs(np.random.default_rng(0), (12, 7, 20), rank=3)
    bases, scores = zip(*(_basis(run, 3) for run in runs), strict=True)
    axes = shared_axes(bases, 4)
    together = np.concatenate(runs)
    centred = (together - together.mean(axis=0)) / np.sqrt(40)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    wanted = centred @ directions[:4].T
    found = np.concatenate([axes.transform(index, own) for index, own in enumerate(scores)])
    signs = np.sign((wanted * found).sum(axis=0))
    np.testing.assert_allclose(found * signs, wanted, atol=1e-12)
    assert axes.kept_share == pytest.approx(1.0)


def test_distances_between_runs_are_those_of_the_weights() -> None:
    first, second = _runs(np.random.default_rng(1), (9, 9), rank=2)
    bases, scores = zip(*(_basis(run, 2) for run in (first, second)), strict=True)
    axes = shared_axes(bases, 5)
    apart = np.linalg.norm(axes.transform(0, scores[0]) - axes.transform(1, scores[1]), axis=1)
    np.testing.assert_allclose(apart, np.linalg.norm(first - second, axis=1) / np.sqrt(40), rtol=1e-12)


def test_what_is_left_out_is_said() -> None:
    run = _runs(np.random.default_rng(2), (30,), rank=6)[0]
    basis, _ = _basis(run, 6)
    share = float(np.square(basis.singular_values[:2]).sum()) / basis.total_variance
    assert shared_axes([basis.leading(2)], 2).kept_share == pytest.approx(share)


def test_axes_beyond_the_rank_are_zero() -> None:
    run = _runs(np.random.default_rng(3), (10,), rank=2)[0]
    basis, scores = _basis(run, 2)
    placed = shared_axes([basis], 3).transform(0, scores)
    assert (placed[:, 2] == 0).all()
    assert np.abs(placed[:, :2]).max() > 0.1


def test_a_run_that_never_moves_stays_at_zero() -> None:
    still = Basis(np.ones(5), np.zeros((2, 5)), np.zeros(2), 0.0, 4)
    axes = shared_axes([still], 2)
    assert (axes.transform(0, np.zeros((4, 2))) == 0).all()
    assert axes.kept_share == 1.0


def test_other_layouts_are_refused() -> None:
    rng = np.random.default_rng(4)
    first, second = _basis(rng.standard_normal((4, 5)), 2)[0], _basis(rng.standard_normal((4, 6)), 2)[0]
    with pytest.raises(BadCall, match="runs: must have one parameter layout to share an axis; got 5, 6"):
        shared_axes([first, second], 2)
