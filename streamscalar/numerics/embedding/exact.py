"""The exact embedding of a finished run, from a source that is read in blocks.

Classical scaling of the RMS distances (Euclidean distance over the root of P) between N snapshots equals the singular
value decomposition of the centred snapshots divided by the root of P [1]_ [2]_: the doubly centred matrix of squared
distances, times -1/2, is the Gram matrix of those rows. So no distance is computed.

Three methods give the same result. A run with fewer parameters than fitted snapshots that fits in memory is
decomposed directly. Up to `gram_limit` fitted snapshots their Gram matrix is cheapest: two reads. Beyond, a block
Krylov iteration with Rayleigh-Ritz on the covariance [3]_, started from the online basis, needs one read per
iteration and a last one for the coordinates.

References
----------
.. [1] W. S. Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 401 (1952).
.. [2] J. C. Gower, Some distance properties of latent root and vector methods, Biometrika 53, 325 (1966).
.. [3] Y. Saad, Numerical Methods for Large Eigenvalue Problems, 2nd ed., SIAM 2011, chapters 5 to 7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.blocks import pad_rows
from streamscalar.numerics.embedding.direct import direct_directions
from streamscalar.numerics.embedding.gram import gram_directions
from streamscalar.numerics.embedding.krylov import krylov_directions
from streamscalar.numerics.embedding.signs import align, gap, orient, squared
from streamscalar.numerics.embedding.sources import Leading, SnapshotSource
from streamscalar.types import REFERENCE

DIRECT_VALUES = 2**22
"""Weights of a run (rows times replicas times parameters) up to which it is held in memory: 32 MiB."""


@dataclass(frozen=True, slots=True)
class ExactSolution:
    """The embedding of all snapshots of a run.

    Attributes
    ----------
    mean
        Mean of the fitted snapshots, `(P,)`.
    components
        Orthonormal directions `(K, P)` float64; rows beyond the rank, which counts singular values over 1e-7 of
        the first, are 0.
    singular_values
        Of the centred fitted snapshots over the root of P, `(K,)`, in units of RMS distance.
    scores
        Coordinates `(N, R, K)` of all replicas, fitted or not; NaN for a snapshot that was not finite.
    separation
        Signed difference of each replica from the reference along the first component, over the root of P,
        `(N, R)`: the projection of a difference, not the difference of two projections. Exactly 0 for a replica with
        the bits of the reference, NaN where either is not finite.
    spread
        Root of `total_variance`; it stays finite where the square overflows.
    eigengap
        `1 - lambda_2 / lambda_1`; 0 where nothing varies.
    residuals
        Error of each component relative to the first singular value, `(K,)`: with `X` the centred snapshots over the
        root of P, `|X v - sigma u|` for `direct` and `gram`, `|X^T u - sigma v|` for `subspace`. The angle to the
        exact direction is about the residual over the eigengap.
    n_passes
        Full reads of the source.
    method
        `direct`, `gram` or `subspace`.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    scores: NDArray[np.float64]
    separation: NDArray[np.float64]
    spread: float
    eigengap: float
    residuals: NDArray[np.float64]
    n_passes: int
    method: str

    @property
    def residual(self) -> float:
        """Residual of the leading component."""
        return float(self.residuals[0])

    @property
    def total_variance(self) -> float:
        """Sum of all squared singular values, infinite where that overflows."""
        return squared(self.spread)


def exact_cmds(
    source: SnapshotSource,
    fit: Sequence[int],
    n_components: int,
    *,
    start: NDArray[np.float64] | None = None,
    tolerance: float = 1e-9,
    max_passes: int = 60,
    gram_limit: int = 2048,
    direct_values: int = DIRECT_VALUES,
) -> ExactSolution:
    """Embed a run exactly.

    Parameters
    ----------
    source
        The recorded snapshots.
    fit
        Replicas that the basis is fitted to; others, such as a control, are only projected. Single snapshots that
        are not finite are left out of the fit.
    n_components
        Number K of components to return.
    start
        Approximate components `(L, P)`, such as the online ones: the start of the iteration, and the signs that the
        components keep.
    tolerance
        Bound on the residuals of the leading two components, relative to the leading eigenvalue; iteration stops
        there, and the other components are returned as they are. A residual bounds the error of a direction relative
        to its gap, so nearly equal leading eigenvalues need no special case: their plane converges, and a small
        `eigengap` shows that the direction inside it is arbitrary.
    max_passes
        Largest number of reads, including the last one. A solution that reached it has a residual over `tolerance`.
    gram_limit
        Largest number of fitted snapshots for which a Gram matrix is formed, or which are decomposed directly.
    direct_values
        Largest number of weights of a run that may be held in memory.

    Returns
    -------
    ExactSolution

    Raises
    ------
    BadCall
        If there is no row, if `fit` is empty or names a replica that does not exist, or if a count is too small.

    Notes
    -----
    Memory: a few blocks as float64, and either two matrices of the number of fitted snapshots squared or
    about `12 (K + 4)` vectors of P float64.
    """
    if source.n_rows < 1:
        raise BadCall("source", "must hold at least one row", str(source.n_rows))
    if not fit or not all(0 <= replica < source.n_replicas for replica in fit):
        raise BadCall("fit", f"must name replicas 0 to {source.n_replicas - 1}", str(list(fit)))
    if n_components < 1:
        raise BadCall("n_components", "must be at least 1", str(n_components))
    if max_passes < 2:
        raise BadCall("max_passes", "must be at least 2", str(max_passes))
    n_snapshots = source.n_rows * len(fit)
    n_values = source.n_rows * source.n_replicas * source.n_parameters
    if source.n_parameters < n_snapshots and n_values <= direct_values and n_snapshots <= gram_limit:
        return _finish(direct_directions(source, list(fit), n_components), n_components, start, "direct")
    if n_snapshots <= gram_limit:
        return _finish(gram_directions(source, list(fit), n_components), n_components, start, "gram")
    found = krylov_directions(source, list(fit), n_components, start, tolerance, max_passes)
    return _finish(found, n_components, start, "subspace")


def _finish(found: Leading, n_components: int, start: NDArray[np.float64] | None, method: str) -> ExactSolution:
    """Return the solution with fixed signs, padded to `n_components`, and NaN where a snapshot is not usable."""
    signs = orient(found.components) if start is None else align(found.components, start)
    scores = np.zeros((*found.scores.shape[:2], n_components))
    scores[:, :, : len(signs)] = found.scores * signs
    scores[~found.usable] = math.nan
    separation = found.separation * signs[0] + 0.0 if len(signs) else np.zeros(found.usable.shape)
    separation[~(found.usable & found.usable[:, REFERENCE, None])] = math.nan
    return ExactSolution(
        mean=found.mean,
        components=pad_rows(found.components * signs[:, None], n_components),
        singular_values=pad_rows(found.singular_values, n_components),
        scores=scores,
        separation=separation,
        spread=found.spread,
        eigengap=gap(pad_rows(found.singular_values, max(2, n_components))),
        residuals=pad_rows(found.residuals, n_components),
        n_passes=found.n_passes,
        method=method,
    )
