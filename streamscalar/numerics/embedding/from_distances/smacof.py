"""Metric multidimensional scaling by stress majorisation."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.blocks import power_of_two
from streamscalar.numerics.embedding.from_distances.base import (
    Embedding,
    check_square,
    constant,
    padded,
    stress_of,
    unusable,
    usable_square,
)
from streamscalar.numerics.embedding.from_distances.classical import classical
from streamscalar.types import Status


def smacof(
    distances: NDArray[np.float64],
    n_components: int,
    start: NDArray[np.float64] | None = None,
    max_iterations: int = 300,
    tolerance: float = 1e-6,
) -> Embedding:
    """Embed snapshots by metric scaling: the coordinates whose distances fit the given ones best.

    Stress majorisation by the Guttman transform [1]_, which never raises the stress. The result is a local minimum.
    In one dimension there are very many: the transform depends only on the order of the coordinates, and stops after
    finitely many steps at the first order that it keeps. On a random walk of 30 snapshots, 16 of 20 random starts
    ended with over twice the stress reached from classical coordinates.

    Parameters
    ----------
    distances
        `(N, N)`, symmetric, 0 on the diagonal.
    n_components
        Number K of components.
    start
        Coordinates `(N, K)` to start from; classical ones by default. An axis that is 0 there stays 0.
    max_iterations
        Largest number of iterations.
    tolerance
        Iteration stops where it lowers the stress by at most this share of it.

    Returns
    -------
    Embedding
        Coordinates in units of distance, centred, with the axes and signs of the start.

    Raises
    ------
    BadCall
        If `distances` is not a symmetric matrix of values of at least 0, `start` has another shape or is not finite
        where the distances are, or a count is less than 1.

    Notes
    -----
    Cost of an iteration: about `4 K` passes over `(N, N)`. Memory: four such matrices. scikit-learn's `smacof` is not
    used: it multiplies by a BLAS product, which does not promise equal bits for equal snapshots, and it returns the
    last stress alone.

    References
    ----------
    .. [1] I. Borg, P. J. F. Groenen, Modern Multidimensional Scaling, 2nd ed., Springer 2005, equation 8.25.

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0)))
    >>> found = smacof(line, 1, start=np.array([[-1.0], [0.1], [2.0]]))
    >>> found.scores.round(6).ravel().tolist(), str(found.status)
    ([-1.0, 0.0, 1.0], 'ok')
    """
    method = "smacof"
    check_square(distances, n_components)
    if start is not None and start.shape != (len(distances), n_components):
        must = f"must have shape ({len(distances)}, {n_components})"
        raise BadCall("start", must, str(start.shape), kind=Kind.DATA)
    if max_iterations < 1:
        raise BadCall("max_iterations", "must be at least 1", str(max_iterations))
    rows, inner = usable_square(distances)
    failed = unusable(inner, n_components, len(distances), method)
    if failed is not None:
        return failed
    if not inner.any():
        return constant(rows, n_components, method)
    unit = power_of_two(float(inner.max()))
    inner = inner / unit
    places = classical(inner, n_components).scores if start is None else start[rows] / unit
    if not np.isfinite(places).all():
        raise BadCall("start", "must be finite where the distances are", kind=Kind.DATA)
    apart = cdist(places, places)
    stresses = [stress_of(inner, apart)]
    has_converged = False
    for _ in range(max_iterations):
        moved = _guttman(inner, places, apart)
        apart = cdist(moved, moved)
        stress = stress_of(inner, apart)
        if stress <= stresses[-1]:
            places = moved
            stresses.append(stress)
        has_converged = stresses[-1] <= 1e-14 or stress > stresses[-1] or _settled(stresses, tolerance)
        if has_converged:
            break
    variances = np.square(places).sum(axis=0)
    explained = variances / (variances.sum() or 1.0)
    found = padded(places * unit, rows, explained, n_components, method, stresses[-1])
    status = Status.OK if has_converged else Status.NOT_CONVERGED
    message = "" if has_converged else f"The stress still falls after {max_iterations} iterations; allow more."
    return Embedding(found.scores, method, found.explained, found.stress, np.array(stresses), status, message)


def _settled(stresses: list[float], tolerance: float) -> bool:
    """Return whether the last iteration lowered the stress by at most the share `tolerance`."""
    return len(stresses) > 1 and stresses[-2] - stresses[-1] <= tolerance * stresses[-2]


def _guttman(
    distances: NDArray[np.float64], places: NDArray[np.float64], apart: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the Guttman transform of `places` `(N, K)`, whose distances are `apart` `(N, N)`."""
    ratio = np.divide(distances, apart, out=np.zeros_like(distances), where=apart > 0.0)
    moved = np.empty_like(places)
    for k, axis in enumerate(places.T):
        moved[:, k] = (ratio * np.subtract.outer(axis, axis)).sum(axis=1) / len(places)
    return moved
