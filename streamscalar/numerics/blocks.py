"""Linear algebra on wide blocks of snapshots, without overflow and with at most one copy of a block."""

import math

import numpy as np
from numpy.typing import NDArray

from streamscalar.types import REFERENCE

LARGEST_WEIGHT = 1e300
"""A snapshot with a larger magnitude anywhere counts as non-finite: differences of two could overflow."""

RANK_TOLERANCE = 1e-7
"""Singular values from a Gram matrix under this share of the first one are noise.

An eigenvalue of a Gram matrix is accurate to about `1e-16` of the first one, its root to `1e-8`.
"""


def usable_rows(rows: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which snapshots `(..., p)` hold only finite values up to `LARGEST_WEIGHT`, as `(...)`."""
    # Two reductions and no copy of the block; a NaN survives both and compares as false.
    peaks = np.maximum(rows.max(axis=-1), -rows.min(axis=-1)).astype(np.float64)
    usable: NDArray[np.bool_] = peaks <= LARGEST_WEIGHT
    return usable


def power_of_two(peak: float) -> float:
    """Return the power of two at or below `peak`, and 1 for 0: dividing by it rounds nothing."""
    return math.ldexp(1.0, math.frexp(peak)[1] - 1) if peak > 0.0 else 1.0


def n_independent(rows: NDArray[np.float64]) -> int:
    """Return how many leading `rows` `(k, P)` are unit and nearly orthogonal to those before them.

    Directions from a Gram matrix lose their orthogonality where their singular values are in its noise; from the
    first such direction on, none is a direction of the data.
    """
    overlap = rows @ rows.T
    off = np.abs(np.tril(overlap, -1)).sum(axis=1) + np.abs(np.diag(overlap) - 1.0)
    lost = np.flatnonzero(~(off < 0.5))
    return int(lost[0]) if len(lost) else len(rows)


def orthonormalizer(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower triangular matrix that makes independent rows orthonormal (Cholesky QR).

    Parameters
    ----------
    rows
        Array `(k, P)` of unit rows that are nearly orthogonal.

    Returns
    -------
    ndarray
        `T` of shape `(k, k)` float64, so that `T @ rows` has orthonormal rows. It is triangular, so the direction of
        the first row stays. Cost: one product of `k * k * P`.
    """
    return np.asarray(np.linalg.inv(np.linalg.cholesky(rows @ rows.T)))


def orthonormalize(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return unit and nearly orthogonal `rows` `(k, P)`, made orthonormal to rounding."""
    for _ in range(2):
        rows = orthonormalizer(rows) @ rows
    return rows


def pad_rows(rows: NDArray[np.float64], n_rows: int) -> NDArray[np.float64]:
    """Return the first `n_rows` of `rows` along axis 0, with zeros where there are fewer."""
    padded = np.zeros((n_rows, *rows.shape[1:]))
    kept = min(n_rows, len(rows))
    padded[:kept] = rows[:kept]
    return padded


def zeroed(block: NDArray[np.floating], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a float64 copy of a block `(S, R, p)` with unusable snapshots, false in `(S, R)`, set to 0."""
    copy: NDArray[np.float64] = block.astype(np.float64)
    copy[~usable] = 0.0
    return copy


def differences(block: NDArray[np.floating], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the differences of a block `(S, R, p)` from its reference in float64; 0 where not `usable`."""
    with np.errstate(all="ignore"):
        apart: NDArray[np.float64] = np.subtract(block, block[:, REFERENCE, None], dtype=np.float64)
    apart[~(usable & usable[:, REFERENCE, None])] = 0.0
    return apart
