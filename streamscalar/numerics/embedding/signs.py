"""Classical multidimensional scaling of all snapshots at once: the reference for everything else.

Classical scaling of the RMS distances (Euclidean distance over the root of P) between N snapshots is the same
as the singular value decomposition of the centred snapshots divided by the root of P [1]_ [2]_: the doubly
centred matrix of squared distances, times -1/2, is the Gram matrix of those rows. So no distance is ever
computed.

References
----------
.. [1] W. S. Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 401 (1952).
.. [2] J. C. Gower, Some distance properties of latent root and vector methods, Biometrika 53, 325 (1966).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.blocks import pad_rows, power_of_two, usable_rows


@dataclass(frozen=True, slots=True)
class Solution:
    """Coordinates of snapshots and the directions that they are taken along.

    Attributes
    ----------
    mean
        Mean of the fitted snapshots, `(P,)`.
    components
        Orthonormal directions, `(K, P)`, by falling singular value; rows beyond the rank are 0.
    singular_values
        Singular values of the centred snapshots over the root of P, `(K,)`, in units of RMS distance.
    scores
        Coordinates `(N, K)`; NaN for a snapshot that was not finite.
    spread
        Root of `total_variance`; it stays finite where the square overflows.
    eigengap
        `1 - lambda_2 / lambda_1` with `lambda` the squared singular values: near 0 the leading direction is
        ill-defined by nature. 0 where nothing varies.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    scores: NDArray[np.float64]
    spread: float
    eigengap: float

    @property
    def total_variance(self) -> float:
        """Sum of all squared singular values, infinite where that overflows."""
        return squared(self.spread)

    @property
    def explained_variance_ratio(self) -> NDArray[np.float64]:
        """Share of the total variance along each component, `(K,)`; 0 where nothing varies."""
        return shares(self.singular_values, self.spread)


def squared(spread: float) -> float:
    """Return the square of a non-negative number, infinite instead of an error where that overflows."""
    return spread * spread


def shares(singular_values: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """Return the share of `spread` squared that each singular value squared has; 0 where nothing varies."""
    if spread == 0.0:
        return np.zeros_like(singular_values)
    return np.square(singular_values / spread)


def gap(singular_values: NDArray[np.float64]) -> float:
    """Return one minus the ratio of the two leading eigenvalues; 0 where nothing varies."""
    first, second = float(singular_values[0]), float(singular_values[1])
    return 1.0 - (second / first) ** 2 if first > 0.0 else 0.0


def orient(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signs `(K,)` that make the entry of largest magnitude of each component positive."""
    peaks = np.abs(components).argmax(axis=1)
    return np.where(components[np.arange(len(components)), peaks] < 0.0, -1.0, 1.0)


def align(components: NDArray[np.float64], previous: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signs that keep components continuous with an earlier basis.

    Each component is compared with the earlier component that it overlaps most, which is its namesake unless
    two directions changed places. One that overlaps nothing is oriented by its largest entry.

    Parameters
    ----------
    components
        New directions `(K, P)`.
    previous
        Earlier directions `(L, P)`.

    Returns
    -------
    ndarray
        `(K,)` of 1 and -1; multiply components and scores by it.
    """
    if len(previous) == 0:
        return orient(components)
    overlap = components @ previous.T
    strongest = overlap[np.arange(len(components)), np.abs(overlap).argmax(axis=1)]
    return np.where(strongest == 0.0, orient(components), np.where(strongest < 0.0, -1.0, 1.0))


def batch_cmds(snapshots: NDArray[np.floating], n_components: int) -> Solution:
    """Embed snapshots by a full singular value decomposition.

    Parameters
    ----------
    snapshots
        Array `(N, P)`, float32 or float64. Rows that are not finite stay out of the fit.
    n_components
        Number K of components to return.

    Returns
    -------
    Solution
        The sign of each component makes its entry of largest magnitude positive.

    Raises
    ------
    BadCall
        If `snapshots` is no matrix or `n_components` is less than 1.

    Notes
    -----
    Cost: `N * N * P` operations and two copies of the snapshots: for tests and small runs.

    Examples
    --------
    >>> line = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> batch_cmds(line, 1).scores.round(6).ravel().tolist()
    [-3.535534, 0.0, 3.535534]
    """
    if snapshots.ndim != 2 or snapshots.shape[1] == 0:
        raise BadCall("snapshots", "must have shape (snapshots, parameters)", str(snapshots.shape), kind=Kind.DATA)
    if n_components < 1:
        raise BadCall("n_components", "must be at least 1", str(n_components))
    n_snapshots, n_parameters = snapshots.shape
    usable = usable_rows(snapshots)
    scores = np.full((n_snapshots, n_components), math.nan)
    rows = snapshots[usable].astype(np.float64)
    if len(rows) == 0:
        zeros = np.zeros((n_components, n_parameters))
        return Solution(np.zeros(n_parameters), zeros, np.zeros(n_components), scores, 0.0, 0.0)
    # Relative to one of the snapshots, a constant series is exactly 0 and its mean exact.
    base = rows[0].copy()
    rows -= base
    offset = rows.mean(axis=0)
    rows -= offset
    unit = power_of_two(float(np.abs(rows).max()))
    rows /= unit
    left, sigma, right = np.linalg.svd(rows, full_matrices=False)
    scale = unit / math.sqrt(n_parameters)
    spread = float(np.linalg.norm(sigma)) * scale
    sigma[sigma <= np.finfo(np.float64).eps * max(rows.shape) * sigma[0]] = 0.0
    right[sigma == 0.0] = 0.0
    signs = orient(right)
    components = pad_rows(right * signs[:, None], n_components)
    fitted = pad_rows((left * (sigma * scale * signs)).T, n_components)
    scores[usable] = fitted.T
    values = pad_rows(sigma * scale, max(2, n_components))
    return Solution(base + offset, components, values[:n_components], scores, spread, gap(values))
