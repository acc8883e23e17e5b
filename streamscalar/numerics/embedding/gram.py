"""Exact leading directions through the Gram matrix of all fitted snapshots: two reads by parameters."""

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from streamscalar.numerics.blocks import (
    RANK_TOLERANCE,
    differences,
    n_independent,
    orthonormalizer,
    power_of_two,
    usable_rows,
    zeroed,
)
from streamscalar.numerics.embedding.sources import Leading, SnapshotSource


class _Gram(NamedTuple):
    """Gram matrix `(n, n)` of the fitted snapshots relative to one base, over `unit` squared."""

    matrix: NDArray[np.float64]
    usable: NDArray[np.bool_]
    unit: float


def gram_directions(source: SnapshotSource, fit: list[int], n_components: int) -> Leading:
    """Return the leading `n_components` directions of the replicas in `fit`.

    Cost: `n * n * P` operations for n fitted snapshots, an eigenproblem of size n, two reads. Memory: two
    matrices `(n, n)` and four blocks.
    """
    gram = _gram(source, fit)
    fitted = gram.usable[:, fit].ravel()
    n_fitted = int(fitted.sum())
    root = math.sqrt(source.n_parameters)
    centred = gram.matrix[np.ix_(fitted, fitted)]
    if n_fitted:
        centred -= centred.mean(axis=0)
        centred -= centred.mean(axis=1)[:, None]
    sigma, vectors = _decompose(centred, max(2, n_components))
    rank = min(len(sigma), n_components)

    left = np.zeros((len(fitted), rank))
    left[fitted] = vectors[:, :rank] / sigma[:rank]
    mean = np.zeros(source.n_parameters)
    components = np.zeros((rank, source.n_parameters))
    scores = np.zeros((source.n_rows, source.n_replicas, rank))
    separation = np.zeros(scores.shape[:2])
    for offset, block in source.by_parameters():
        rows, part_mean = _centre(block, fit, gram.usable)
        part = slice(offset, offset + block.shape[2])
        mean[part] = part_mean
        directions = left.T @ (_fitted(rows, fit) / gram.unit)
        components[:, part] = directions
        scores += rows @ directions.T
        if rank:
            separation += differences(block, gram.usable) @ directions[0]
    independent = n_independent(components)
    if independent < rank:
        rank, components, sigma = independent, components[:independent], sigma[:independent]
    mixing = orthonormalizer(components)
    scores = scores[..., :rank] @ mixing.T / root
    off = _fitted(scores, fit)[fitted] * (root / gram.unit) - vectors[:, :rank] * sigma[:rank]
    return Leading(
        mean=mean,
        components=mixing @ components,
        singular_values=sigma * (gram.unit / root),
        scores=scores,
        separation=separation * (mixing[0, 0] / root) if rank else separation,
        usable=gram.usable,
        spread=math.sqrt(max(float(np.trace(centred)), 0.0)) * (gram.unit / root),
        residuals=np.linalg.norm(off, axis=0) / sigma[:1],
        n_passes=2,
    )


def _gram(source: SnapshotSource, fit: list[int]) -> _Gram:
    """Return the Gram matrix of the fitted snapshots from one read by parameters."""
    n_snapshots = source.n_rows * len(fit)
    matrix = np.zeros((n_snapshots, n_snapshots))
    usable = np.ones((source.n_rows, source.n_replicas), dtype=np.bool_)
    unit = 0.0
    for _, block in source.by_parameters():
        usable_here = usable_rows(block)
        usable &= usable_here
        rows = _fitted(_relative(block, fit, usable_here)[0], fit)
        peak = float(np.abs(rows).max(initial=0.0))
        if peak == 0.0:
            continue
        if peak > unit:
            larger = power_of_two(peak)
            matrix *= (unit / larger) ** 2
            unit = larger
        rows /= unit
        matrix += rows @ rows.T
    return _Gram(matrix, usable, unit or 1.0)


def _decompose(centred: NDArray[np.float64], n_wanted: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return falling singular values `(k,)` over the noise, k <= `n_wanted`, and eigenvectors `(n, k)`."""
    n = len(centred)
    if n == 0:
        return np.zeros(0), np.zeros((0, 0))
    values, vectors = scipy.linalg.eigh(centred, subset_by_index=(max(0, n - n_wanted), n - 1))
    sigma = np.sqrt(np.maximum(values[::-1], 0.0))
    rank = int((sigma > RANK_TOLERANCE * sigma[0]).sum())
    return sigma[:rank], vectors[:, ::-1][:, :rank]


def _fitted(block: NDArray[np.float64], fit: list[int]) -> NDArray[np.float64]:
    """Return the fitted replicas of `(N, R, p)` as rows `(N * F, p)`."""
    return block[:, fit].reshape(len(block) * len(fit), block.shape[2])


def _relative(
    block: NDArray[np.floating], fit: list[int], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `(N, R, p)` relative to the first usable fitted snapshot, and that snapshot `(p,)`.

    Relative to one of the snapshots, a constant series is exactly 0, and centring cancels fewer digits.
    """
    rows = zeroed(block, usable)
    candidates = np.argwhere(usable[:, fit])
    base = rows[candidates[0][0], fit[candidates[0][1]]].copy() if len(candidates) else np.zeros(block.shape[2])
    rows -= base
    rows[~usable] = 0.0
    return rows, base


def _centre(
    block: NDArray[np.floating], fit: list[int], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `(N, R, p)` relative to the mean of the usable fitted snapshots, 0 elsewhere, and that mean."""
    rows, base = _relative(block, fit, usable)
    offset = _fitted(rows, fit).sum(axis=0) / max(int(usable[:, fit].sum()), 1)
    rows -= offset
    rows[~usable] = 0.0
    return rows, base + offset
