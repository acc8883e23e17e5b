"""Exact leading directions by a restarted block Krylov iteration: one read by rows for each step.

Written here in place of `scipy.sparse.linalg.lobpcg`, which needs more reads of the source. Measured on 5 replicas with
450 rows of a 64-64-10 network on scikit-learn's digits (P = 4,810, learning rate 6, eigengap .30), reads to a residual
of 1e-9 for K = 1, without the last one, from the online basis and from random directions: 6 and 9 here; LOBPCG 9 and
15 with two directions, 24 and 32 with the guard directions (`GUARD`). For K = 16 from the online basis: 4 here, 24
there. LOBPCG needs the mean in advance, which is one of these reads, stops only when all its directions have converged,
and drops the products of all but its last two steps. Both repeat their bits; the error of the leading direction is
1e-11 here and 3e-10 to 5e-10 there, with two directions.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamscalar.numerics.blocks import (
    RANK_TOLERANCE,
    differences,
    orthonormalize,
    power_of_two,
    usable_rows,
    zeroed,
)
from streamscalar.numerics.embedding.sources import Leading, SnapshotSource

GUARD = 4
"""Directions iterated beyond the requested ones: convergence depends on the gap after the last one.

Measured on MNIST digits at learning rates 7.5 to 15 from 16 online components, number of reads to a residual of 1e-9,
including the last one: 5 for K = 16 with or without them; for K = 1 it is 6 with and 9 to 13 without.
"""

N_BLOCKS = 4
"""Blocks in the search space before a restart, which keeps the best half."""


class _Covariance:
    """`X^T X` of the centred fitted snapshots over `unit` squared, applied to directions by one full read.

    The first read also computes the mean, the unit and the spread: it uses snapshots relative to the first
    usable one and corrects the product afterwards; later reads centre before they multiply, which rounds
    less.
    """

    def __init__(self, source: SnapshotSource, fit: list[int]) -> None:
        self._source = source
        self._fit = fit
        self.mean = np.zeros(source.n_parameters)
        self.unit = 1.0
        self.spread = 0.0
        self.n_passes = 0

    def times(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the product with directions `(b, P)`, as `(b, P)`."""
        self.n_passes += 1
        return self._first(directions) if self.n_passes == 1 else self._later(directions)

    def _rows(self) -> Iterator[NDArray[np.float64]]:
        """Yield the usable fitted snapshots `(n, P)` of each block that has any."""
        for block in self._source.by_rows():
            rows = block[:, self._fit].reshape(-1, self._source.n_parameters)
            usable = usable_rows(rows)
            if usable.any():
                yield rows[usable].astype(np.float64)

    def _first(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        product = np.zeros_like(directions)
        along = np.zeros(len(directions))
        total = np.zeros(self._source.n_parameters)
        square, count, unit = 0.0, 0, 0.0
        for rows in self._rows():
            if count == 0:
                self.mean = rows[0].copy()
            count += len(rows)
            rows -= self.mean
            peak = float(np.abs(rows).max())
            if peak == 0.0:
                continue
            if peak > unit:
                larger = power_of_two(peak)
                shrink = unit / larger
                total *= shrink
                along *= shrink
                product *= shrink**2
                square *= shrink**2
                unit = larger
            rows /= unit
            coordinates = rows @ directions.T
            product += coordinates.T @ rows
            along += coordinates.sum(axis=0)
            total += rows.sum(axis=0)
            square += float(np.vdot(rows, rows))
        self.unit = unit or 1.0
        offset = total / max(count, 1)
        product -= along[:, None] * offset
        self.mean += offset * self.unit
        self.spread = math.sqrt(max(square - count * float(offset @ offset), 0.0))
        return product

    def _later(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        product = np.zeros_like(directions)
        for rows in self._rows():
            rows -= self.mean
            rows /= self.unit
            product += (rows @ directions.T).T @ rows
        return product


def krylov_directions(
    source: SnapshotSource,
    fit: list[int],
    n_components: int,
    start: NDArray[np.float64] | None,
    tolerance: float,
    max_passes: int,
) -> Leading:
    """Return the leading `n_components` directions of the replicas in `fit`.

    Each step reads the source once and multiplies the covariance with the residuals of the current
    directions; Rayleigh-Ritz on all products so far gives the next ones. Plain subspace iteration
    from the same start drops those products and needs many times the reads where the gap is small. The
    last read projects all replicas.

    `tolerance` bounds the eigenvalue residuals `|A v - lambda v| / lambda_1` of the leading two directions;
    for the first one this is the residual that is reported.
    """
    covariance = _Covariance(source, fit)
    n_block = min(max(2, n_components) + GUARD, source.n_parameters)
    basis = _start(start, n_block, source.n_parameters)
    image = covariance.times(basis)
    while True:
        values, mixing = np.linalg.eigh(_symmetric(basis @ image.T))
        values, mixing = np.maximum(values[::-1], 0.0), mixing[:, ::-1].T
        directions = mixing[:n_block] @ basis
        residuals = mixing[:n_block] @ image - values[:n_block, None] * directions
        lengths = np.linalg.norm(residuals, axis=1)
        if (lengths[:2] <= tolerance * values[0]).all() or covariance.n_passes == max_passes - 1:
            break
        fresh = _independent(residuals[lengths > 1e-14 * values[0]], basis)
        if len(fresh) == 0:
            break
        if len(basis) + len(fresh) > N_BLOCKS * n_block:
            best = mixing[: N_BLOCKS // 2 * n_block]
            basis, image = best @ basis, best @ image
        image = np.concatenate([image, covariance.times(fresh)])
        basis = np.concatenate([basis, fresh])
    sigma = np.sqrt(values[:n_block])
    n_sound = int((sigma > RANK_TOLERANCE * sigma[0]).sum())
    rank = min(n_sound, n_components)
    scale = covariance.unit / math.sqrt(source.n_parameters)
    components = directions[:rank]
    scores, separation, usable = _project(source, components, covariance.mean)
    return Leading(
        mean=covariance.mean,
        components=components,
        singular_values=sigma[: min(n_sound, max(2, n_components))] * scale,
        scores=scores,
        separation=separation,
        usable=usable,
        spread=covariance.spread * scale,
        residuals=lengths[:rank] / (sigma[:rank] * sigma[:1]),
        n_passes=covariance.n_passes + 1,
    )


def _symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return (matrix + matrix.T) / 2.0


def _start(start: NDArray[np.float64] | None, n_block: int, n_parameters: int) -> NDArray[np.float64]:
    """Return `n_block` orthonormal rows: those of `start` first, then random ones."""
    # A fixed seed: any start converges, and the same data must give the same bits.
    rows = np.random.default_rng(0).standard_normal((n_block, n_parameters))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    if start is not None:
        known = start[start.any(axis=1)][:n_block]
        rows[: len(known)] = known
    return np.ascontiguousarray(np.linalg.qr(rows.T)[0].T)


def _independent(rows: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return orthonormal rows that span the part of `rows` outside the orthonormal `basis`, possibly none."""
    rows = rows / np.linalg.norm(rows, axis=1)[:, None]
    for _ in range(2):
        rows -= (rows @ basis.T) @ basis
    values, vectors = np.linalg.eigh(rows @ rows.T)
    sound = values > 1e-10
    rows = (vectors[:, sound] / np.sqrt(values[sound])).T @ rows
    rows -= (rows @ basis.T) @ basis
    return orthonormalize(rows)


def _project(
    source: SnapshotSource, components: NDArray[np.float64], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores `(N, R, k)`, signed separations `(N, R)` and usable snapshots `(N, R)` by one read."""
    root = math.sqrt(source.n_parameters)
    scores, separation, usable = [], [], []
    for block in source.by_rows():
        usable.append(usable_rows(block))
        scores.append((zeroed(block, usable[-1]) - mean) @ components.T / root)
        leading = components[0] if len(components) else np.zeros(source.n_parameters)
        separation.append(differences(block, usable[-1]) @ leading / root)
    return np.concatenate(scores), np.concatenate(separation), np.concatenate(usable)
