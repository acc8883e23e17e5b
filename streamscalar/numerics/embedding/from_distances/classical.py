"""Classical scaling of a full matrix of distances."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from streamscalar.numerics.blocks import power_of_two
from streamscalar.numerics.embedding.from_distances.base import (
    Embedding,
    check_square,
    constant,
    padded,
    rowwise,
    stress_of,
    unusable,
    usable_square,
)
from streamscalar.numerics.embedding.signs import orient


def classical(distances: NDArray[np.float64], n_components: int) -> Embedding:
    """Embed snapshots by classical scaling of any distance.

    Parameters
    ----------
    distances
        `(N, N)`, symmetric, 0 on the diagonal. For RMS distances use `exact_cmds`, which needs no distances and loses
        no digits.
    n_components
        Number K of components. Axes with eigenvalues that are not positive are 0.

    Returns
    -------
    Embedding
        Coordinates in units of distance. In each component the coordinate of largest magnitude is positive.

    Raises
    ------
    BadCall
        If `distances` is not a symmetric matrix of values of at least 0, or `n_components` is less than 1.

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
    check_square(distances, n_components)
    rows, inner = usable_square(distances)
    failed = unusable(inner, n_components, len(distances), "classical")
    if failed is not None:
        return failed
    axes = principal_axes(inner, n_components)
    if axes is None:
        return constant(rows, n_components, "classical")
    stress = stress_of(inner, cdist(axes.places, axes.places))
    return padded(axes.places, rows, axes.shares, n_components, "classical", stress)


@dataclass(frozen=True, slots=True)
class Axes:
    """Leading k <= K axes with positive eigenvalues of the doubly centred squared distances.

    Attributes
    ----------
    values
        Eigenvalues `(k,)`, falling, in units of `unit` squared.
    vectors
        Eigenvectors `(N, k)`.
    places
        Coordinates `(N, k)` in units of distance.
    shares
        Eigenvalues over the sum of the magnitudes of all of them, `(k,)`.
    unit
        Power of two by which distances were divided.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    places: NDArray[np.float64]
    shares: NDArray[np.float64]
    unit: float


def principal_axes(distances: NDArray[np.float64], n_components: int) -> Axes | None:
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
    places = rowwise(inner, vectors / np.sqrt(values)) * unit
    return Axes(values, vectors, places, shares[:kept], unit)
