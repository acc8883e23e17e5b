"""Embeddings from a matrix of distances: what is left when the distance is not Euclidean, or not all are known.

They are different objects, and their coordinates may not be compared with each other:

- `classical` scaling [1]_ of RMS distances is `exact_cmds` again; of any other distance it is the projection on
  the Euclidean part of it.
- `distance_pca` [2]_ takes the distances of a snapshot from all others as its features. A coordinate is linear in
  those distances, not in the weights.
- `smacof` [3]_ moves the coordinates until their distances fit best in the least-squares sense.
- `landmark_cmds` [4]_ is classical scaling of few landmarks, and triangulation for everything else.

Two snapshots with the same bits, such as a reference and its control, get coordinates with the same bits. But all
four subtract numbers of the size of the distances, which are good to about 1e-15 of the largest one: a separation
of coordinates under 1e-12 of the spread is rounding. Project the difference of the weights instead.

References
----------
.. [1] W. S. Torgerson, Psychometrika 17, 401 (1952).
.. [2] L. Lacasa, F. J. Marín-Rodríguez, N. Masuda, L. Arola-Fernández, arXiv 2412.02715.
.. [3] I. Borg, P. J. F. Groenen, Modern Multidimensional Scaling, 2nd ed., Springer 2005, chapters 8 and 13.
.. [4] V. de Silva, J. B. Tenenbaum, Sparse multidimensional scaling using landmark points, Stanford 2004.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.blocks import power_of_two
from streamscalar.numerics.embedding.signs import orient
from streamscalar.types import ADVICE, Status


@dataclass(frozen=True, slots=True)
class Embedding:
    """Coordinates of N snapshots from their distances.

    Attributes
    ----------
    scores
        `(N, K)`; NaN for a snapshot with a distance that is not finite, and 0 along axes beyond the rank. All
        NaN unless `status` is `ok`, `not_converged` or `constant`, and where all landmarks coincide.
    method
        `classical`, `distance_pca`, `distance_pca_squared`, `smacof` or `landmark_cmds`.
    explained
        `(K,)`, share of each axis: for `distance_pca` of the variance of the features; for `classical` and
        `landmark_cmds` of the sum of magnitudes of all eigenvalues, which is the variance where the distance is
        Euclidean; for `smacof` of the variance of the coordinates themselves.
    stress
        Root of `sum (D - d)^2 / sum D^2` over the distances that were given, d those of the coordinates: 0 is
        perfect. `None` for `distance_pca`, whose coordinates do not reproduce distances.
    stresses
        Stress before the first iteration of `smacof` and after each, never rising; empty for the others.
    status
        `ok`; `constant` where all distances are 0; `too_few_rows` under two usable snapshots or landmarks;
        `non_finite` where none is usable; `not_converged` where `smacof` ran out of iterations.
    message
        What happened and what to try, where `status` is not `ok`.
    """

    scores: NDArray[np.float64]
    method: str
    explained: NDArray[np.float64]
    stress: float | None
    stresses: NDArray[np.float64]
    status: Status
    message: str


def distance_pca(distances: NDArray[np.float64], power: Literal[1, 2], n_components: int) -> Embedding:
    """Embed snapshots by a principal component analysis with their distances as features.

    This is not classical scaling: that centres the matrix of squared distances on both sides and takes the roots
    of its eigenvalues, this centres the features and takes their singular values, also where D is not square.

    Parameters
    ----------
    distances
        `(N, m)`, from every snapshot to m landmarks, or to all N. Draw landmarks evenly from all replicas
        (`even_landmarks`): from the reference alone they bias the growth of separations. A column without any
        finite entry is a landmark that was not finite, and is left out.
    power
        1: features are distances; 2: squared distances.
    n_components
        Number K of components.

    Returns
    -------
    Embedding
        Coordinates in units of distance (or its square): singular vectors times singular values over the root
        of m, so that they do not grow with the number of features. In each component the loading of largest
        magnitude is positive.

    Notes
    -----
    Cost: a singular value decomposition of `(N, m)`.

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    >>> distance_pca(line, 1, 1).scores.round(3).ravel().tolist()
    [-1.115, -0.462, 0.462, 1.115]
    """
    method = "distance_pca" if power == 1 else "distance_pca_squared"
    _check(distances, n_components)
    finite = np.isfinite(distances)
    columns = np.asarray(finite.any(axis=0))
    rows = np.asarray(finite[:, columns].all(axis=1))
    features = distances[np.ix_(rows, columns)]
    failed = _unusable(features, n_components, len(distances), method)
    if failed is not None:
        return failed
    unit = power_of_two(float(features.max()))
    features = (features / unit) ** power
    # Relative to one of the snapshots, a constant series is exactly 0.
    features -= features[0].copy()
    features -= features.mean(axis=0)
    _, sigma, loadings = np.linalg.svd(features, full_matrices=False)
    rank = int((sigma > np.finfo(np.float64).eps * max(features.shape) * sigma[0]).sum())
    if rank == 0:
        return _constant(rows, n_components, method)
    loadings = loadings[: min(rank, n_components)]
    with np.errstate(all="ignore"):
        scale = np.float64(unit) ** power / math.sqrt(features.shape[1])
        coordinates = _rowwise(features, (loadings * orient(loadings)[:, None]).T) * scale
    explained = np.square(sigma / np.linalg.norm(sigma))
    return _embedding(coordinates, rows, explained, n_components, method, None)


def classical(distances: NDArray[np.float64], n_components: int) -> Embedding:
    """Embed snapshots by classical scaling of any distance.

    Parameters
    ----------
    distances
        `(N, N)`, symmetric, 0 on the diagonal. For RMS distances use `exact_cmds`, which need
        no distances and lose no digits.
    n_components
        Number K of components. Axes with eigenvalues that are not positive are 0.

    Returns
    -------
    Embedding
        Coordinates in units of distance. In each component the coordinate of largest magnitude is positive.

    Notes
    -----
    Cost: an eigenproblem of size N.

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    >>> found = classical(line, 2)
    >>> found.scores[:, 0].round(6).tolist(), round(found.stress, 6)
    ([1.5, 0.5, -0.5, -1.5], 0.0)
    """
    _check_square(distances, n_components)
    rows, inner = _usable_square(distances)
    failed = _unusable(inner, n_components, len(distances), "classical")
    if failed is not None:
        return failed
    axes = _scale(inner, n_components)
    if axes is None:
        return _constant(rows, n_components, "classical")
    stress = _stress(inner, cdist(axes.places, axes.places))
    return _embedding(axes.places, rows, axes.shares, n_components, "classical", stress)


def landmark_cmds(
    landmark_distances: NDArray[np.float64], distances: NDArray[np.float64], n_components: int
) -> Embedding:
    """Embed snapshots by classical scaling of landmarks and triangulation.

    Parameters
    ----------
    landmark_distances
        `(m, m)`, between the landmarks. One that is not finite is left out.
    distances
        `(N, m)`, from every snapshot to the landmarks; a landmark among them gets its own coordinates again.
    n_components
        Number K of components.

    Returns
    -------
    Embedding
        Coordinates in units of distance along the principal axes of the landmarks, relative to their centre;
        they are not turned to the principal axes of all snapshots afterwards, as [4]_ offers, so that those of
        one snapshot do not depend on the others. Exact where distances are Euclidean and the snapshots lie in
        the span of the axes; otherwise the projection on them.

    Notes
    -----
    Cost: an eigenproblem of size m and a product of `N * m * K`.

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(4.0), [0.0, 3.0]))
    >>> landmark_cmds(line[[0, 3]], line, 1).scores.round(6).ravel().tolist()
    [1.5, 0.5, -0.5, -1.5]
    """
    method = "landmark_cmds"
    _check_square(landmark_distances, n_components)
    _check(distances, n_components)
    if distances.shape[1] != len(landmark_distances):
        must = f"must have {len(landmark_distances)} columns, one per landmark"
        raise BadCall("distances", must, str(distances.shape), kind=Kind.DATA)
    columns, inner = _usable_square(landmark_distances)
    failed = _unusable(inner, n_components, len(distances), method)
    if failed is not None:
        return failed
    given = distances[:, columns]
    rows = np.asarray(np.isfinite(given).all(axis=1))
    axes = _scale(inner, n_components)
    if axes is None:
        return _failed(Status.CONSTANT, n_components, len(distances), method, "All landmarks coincide.")
    if not rows.any():
        return _failed(Status.NON_FINITE, n_components, len(distances), method, "No snapshot is usable.")
    squares = np.square(given[rows] / axes.unit)
    pulls = (np.square(inner / axes.unit).mean(axis=0) - squares) / 2.0
    coordinates = _rowwise(pulls, axes.vectors / np.sqrt(axes.values)) * axes.unit
    stress = _stress(given[rows], cdist(coordinates, axes.places))
    return _embedding(coordinates, rows, axes.shares, n_components, method, stress)


def smacof(
    distances: NDArray[np.float64],
    n_components: int,
    start: NDArray[np.float64] | None = None,
    max_iterations: int = 300,
    tolerance: float = 1e-6,
) -> Embedding:
    """Embed snapshots by metric scaling: the coordinates whose distances fit the given ones best.

    Stress majorisation by the Guttman transform ([3]_, equation 8.25), which never raises the stress. What it finds is
    a local minimum. In one dimension there are very many: the transform depends on nothing but the order of the
    coordinates, and stops after finitely many steps at the first order that it keeps. On a random walk of 30
    snapshots, 16 of 20 random starts ended with over twice the stress that classical coordinates led to.

    Parameters
    ----------
    distances
        `(N, N)`, symmetric, 0 on the diagonal.
    n_components
        Number K of components.
    start
        Coordinates `(N, K)` to start from; classical ones by default. An axis that is 0 there stays 0.
    max_iterations
        Bound on the iterations.
    tolerance
        Stop where an iteration lowers the stress by no more than this share of it.

    Returns
    -------
    Embedding
        Coordinates in units of distance, centred, with the axes and signs of the start.

    Notes
    -----
    Cost of an iteration: about `4 K` passes over `(N, N)`. Memory: four such matrices.

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0)))
    >>> found = smacof(line, 1, start=np.array([[-1.0], [0.1], [2.0]]))
    >>> found.scores.round(6).ravel().tolist(), str(found.status)
    ([-1.0, 0.0, 1.0], 'ok')
    """
    method = "smacof"
    _check_square(distances, n_components)
    if start is not None and start.shape != (len(distances), n_components):
        must = f"must have shape ({len(distances)}, {n_components})"
        raise BadCall("start", must, str(start.shape), kind=Kind.DATA)
    if max_iterations < 1:
        raise BadCall("max_iterations", "must be at least 1", str(max_iterations))
    rows, inner = _usable_square(distances)
    failed = _unusable(inner, n_components, len(distances), method)
    if failed is not None:
        return failed
    if not inner.any():
        return _constant(rows, n_components, method)
    unit = power_of_two(float(inner.max()))
    inner = inner / unit
    places = classical(inner, n_components).scores if start is None else start[rows] / unit
    if not np.isfinite(places).all():
        raise BadCall("start", "must be finite where the distances are", kind=Kind.DATA)
    apart = cdist(places, places)
    stresses = [_stress(inner, apart)]
    has_converged = False
    for _ in range(max_iterations):
        moved = _guttman(inner, places, apart)
        apart = cdist(moved, moved)
        stress = _stress(inner, apart)
        if stress <= stresses[-1]:
            places = moved
            stresses.append(stress)
        has_converged = stresses[-1] <= 1e-14 or stress > stresses[-1] or _settled(stresses, tolerance)
        if has_converged:
            break
    variances = np.square(places).sum(axis=0)
    explained = variances / (variances.sum() or 1.0)
    found = _embedding(places * unit, rows, explained, n_components, method, stresses[-1])
    status = Status.OK if has_converged else Status.NOT_CONVERGED
    message = "" if has_converged else f"The stress still falls after {max_iterations} iterations."
    return Embedding(found.scores, method, found.explained, found.stress, np.array(stresses), status, message)


def _settled(stresses: list[float], tolerance: float) -> bool:
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


def _rowwise(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `rows @ columns`, every row summed in the same order: equal rows give equal bits, as BLAS may not."""
    return np.asarray(np.einsum("nm,mk->nk", rows, columns))


@dataclass(frozen=True, slots=True)
class _Axes:
    """Leading k <= K axes of the doubly centred matrix with positive eigenvalues, by falling eigenvalue.

    `values` `(k,)` and `vectors` `(N, k)` are in units of `unit`, `places` `(N, k)` are the coordinates, `shares`
    `(k,)` the eigenvalues over the sum of all magnitudes.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    places: NDArray[np.float64]
    shares: NDArray[np.float64]
    unit: float


def _scale(distances: NDArray[np.float64], n_components: int) -> _Axes | None:
    """Decompose the doubly centred squares of finite `distances` `(N, N)`; `None` where all are 0."""
    unit = power_of_two(float(distances.max(initial=0.0)))
    inner = np.square(distances / unit) / -2.0
    inner -= inner.mean(axis=0)
    inner -= inner.mean(axis=1)[:, None]
    values, vectors = np.linalg.eigh(inner)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > np.finfo(np.float64).eps * len(values) * np.abs(values).max()).sum())
    if rank == 0:
        return None
    shares = values / np.abs(values).sum()
    kept = min(rank, n_components)
    values, vectors = values[:kept], vectors[:, :kept]
    vectors = vectors * orient(vectors.T)
    places = _rowwise(inner, vectors / np.sqrt(values)) * unit
    return _Axes(values, vectors, places, shares[:kept], unit)


def _stress(distances: NDArray[np.float64], apart: NDArray[np.float64]) -> float:
    """Return the root of the squared misfit over the squared distances."""
    return float(np.linalg.norm(distances - apart) / np.linalg.norm(distances))


def _usable_square(distances: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which snapshots have finite distances to each other, `(N,)`, and those distances.

    A snapshot that is not finite has no finite distance at all, not even to itself.
    """
    rows = np.isfinite(np.diagonal(distances))
    inner = distances[np.ix_(rows, rows)]
    finite = np.isfinite(inner).all(axis=1)
    rows[rows] = finite
    return rows, inner[np.ix_(finite, finite)]


def _check(distances: NDArray[np.float64], n_components: int) -> None:
    if distances.ndim != 2 or 0 in distances.shape:
        raise BadCall("distances", "must be a matrix", str(distances.shape), kind=Kind.DATA)
    if (distances < 0.0).any():
        raise BadCall("distances", "must not be negative", str(float(np.nanmin(distances))), kind=Kind.DATA)
    if n_components < 1:
        raise BadCall("n_components", "must be at least 1", str(n_components))


def _check_square(distances: NDArray[np.float64], n_components: int) -> None:
    _check(distances, n_components)
    if distances.shape[0] != distances.shape[1]:
        raise BadCall("distances", "must be square", str(distances.shape), kind=Kind.DATA)
    if not np.allclose(distances, distances.T, rtol=1e-9, atol=0.0, equal_nan=True):
        raise BadCall("distances", "must be symmetric", kind=Kind.DATA)


def _unusable(usable: NDArray[np.float64], n_components: int, n: int, method: str) -> Embedding | None:
    """Return why there are no coordinates, or `None`."""
    if usable.size == 0:
        return _failed(Status.NON_FINITE, n_components, n, method, "No distance is usable.")
    if len(usable) < 2:
        return _failed(Status.TOO_FEW_ROWS, n_components, n, method, f"{len(usable)} usable snapshot.")
    return None


def _failed(status: Status, n_components: int, n: int, method: str, what: str) -> Embedding:
    nothing = np.full((n, n_components), math.nan)
    message = f"{what} {ADVICE[status]}"
    return Embedding(nothing, method, np.zeros(n_components), None, np.zeros(0), status, message)


def _constant(rows: NDArray[np.bool_], n_components: int, method: str) -> Embedding:
    scores = np.where(rows[:, None], 0.0, math.nan) * np.ones(n_components)
    message = "All distances are 0 or alike: the snapshots do not differ."
    return Embedding(scores, method, np.zeros(n_components), None, np.zeros(0), Status.CONSTANT, message)


def _embedding(
    coordinates: NDArray[np.float64],
    rows: NDArray[np.bool_],
    explained: NDArray[np.float64],
    n_components: int,
    method: str,
    stress: float | None,
) -> Embedding:
    """Pad to `n_components` and mark what is not usable."""
    kept = min(n_components, coordinates.shape[1])
    scores = np.full((len(rows), n_components), math.nan)
    scores[rows] = 0.0
    scores[rows, :kept] = coordinates[:, :kept]
    shares = np.zeros(n_components)
    shares[:kept] = explained[:kept]
    return Embedding(scores, method, shares, stress, np.zeros(0), Status.OK, "")
