"""Shared axes for runs that were embedded separately, from their bases alone: no weights are read again.

The input of each run is its mean and its K leading directions. Their joint covariance is that of all snapshots of all
runs, except for the part outside each run's directions; its leading eigenvectors are the shared axes. The stack of
scaled directions and offset means has (K + 1) rows per run, so its Gram matrix is small for any number of parameters.
`streamscalar.numerics.embedding.joint` does the same exactly, from all weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.signs import orient


@dataclass(frozen=True, slots=True)
class Basis:
    """Mean and leading directions of a run.

    Attributes
    ----------
    mean
        Mean of the fitted snapshots, `(P,)`.
    components
        Orthonormal directions `(K, P)`; rows beyond the rank are 0.
    singular_values
        Singular values of the centred fitted snapshots over the root of P, `(K,)`.
    total_variance
        Sum of the squares of all singular values, those beyond K included.
    n_snapshots
        Number of fitted snapshots.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    total_variance: float
    n_snapshots: int

    def leading(self, n_components: int) -> "Basis":
        """Return the basis with its first `n_components` directions only."""
        return Basis(
            self.mean,
            self.components[:n_components],
            self.singular_values[:n_components],
            self.total_variance,
            self.n_snapshots,
        )


@dataclass(frozen=True, slots=True)
class SharedAxes:
    """Axes of several runs together.

    Attributes
    ----------
    maps
        For each run the matrix A `(L, K)` and offset b `(L,)` that map its coordinates `z` to the shared ones,
        `A z + b`, in units of RMS distance.
    kept_share
        Share of the variance of the runs along the directions used, in [0, 1]; the rest is left out.
    """

    maps: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
    kept_share: float

    def transform(self, run: int, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return coordinates (..., K) of one run on the shared axes, `(..., L)`."""
        matrix, offset = self.maps[run]
        return np.asarray(scores[..., : matrix.shape[1]] @ matrix.T + offset)


def shared_axes(bases: Sequence[Basis], n_axes: int) -> SharedAxes:
    """Return the leading `n_axes` axes of all runs together.

    Parameters
    ----------
    bases
        One per run, of the same P, finite.
    n_axes
        Number L of axes, at most (K + 1) times the number of runs; those beyond the rank are 0.

    Returns
    -------
    SharedAxes
        The sign of each axis makes its entry of largest magnitude positive.

    Raises
    ------
    BadCall
        If there is no run, or runs have different numbers of parameters.

    Notes
    -----
    Cost: the Gram matrix of `(K + 1) n` vectors of length P, for n runs.
    """
    if len({basis.mean.shape for basis in bases}) != 1:
        sizes = ", ".join(str(len(basis.mean)) for basis in bases) or "no run"
        raise BadCall("runs", "must have one parameter layout to share an axis", sizes)
    root = math.sqrt(len(bases[0].mean))
    counts = np.array([basis.n_snapshots for basis in bases], np.float64)
    mean = np.average([basis.mean for basis in bases], axis=0, weights=counts)
    offsets = [(basis.mean - mean) / root for basis in bases]
    stack = np.concatenate(
        [
            np.concatenate([basis.singular_values[:, None] * basis.components, math.sqrt(n) * offset[None]])
            for basis, offset, n in zip(bases, offsets, counts, strict=True)
        ]
    )
    values, vectors = np.linalg.eigh(stack @ stack.T)
    values, vectors = values[::-1][:n_axes], vectors[:, ::-1][:, :n_axes]
    # An eigenvalue of rounding noise has no direction.
    is_real = values > len(stack) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    directions = np.where(is_real, vectors / np.sqrt(np.where(is_real, values, 1.0)), 0.0).T @ stack
    directions *= orient(directions)[:, None]
    total = sum(basis.total_variance for basis in bases)
    kept = sum(float(np.square(basis.singular_values).sum()) for basis in bases)
    pairs = zip(bases, offsets, strict=True)
    maps = [(directions @ basis.components.T, directions @ offset) for basis, offset in pairs]
    return SharedAxes(maps, min(1.0, kept / total) if total > 0 else 1.0)
