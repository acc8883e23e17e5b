"""Principal component analysis with distances as features."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.numerics.blocks import power_of_two
from streamscalar.numerics.embedding.from_distances.base import (
    Embedding,
    check,
    constant,
    padded,
    rowwise,
    unusable,
)
from streamscalar.numerics.embedding.signs import orient


def distance_pca(distances: NDArray[np.float64], power: Literal[1, 2], n_components: int) -> Embedding:
    """Embed snapshots by a principal component analysis with their distances as features.

    This is not classical scaling, which centres the matrix of squared distances on both sides and takes the roots of
    its eigenvalues. Here the features are centred and decomposed by singular values, also where D is not square.

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

    Raises
    ------
    BadCall
        If `distances` is not a matrix of values of at least 0, or `n_components` is less than 1.

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
    check(distances, n_components)
    finite = np.isfinite(distances)
    columns = np.asarray(finite.any(axis=0))
    rows = np.asarray(finite[:, columns].all(axis=1))
    features = distances[np.ix_(rows, columns)]
    failed = unusable(features, n_components, len(distances), method)
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
        return constant(rows, n_components, method)
    loadings = loadings[: min(rank, n_components)]
    with np.errstate(all="ignore"):
        scale = np.float64(unit) ** power / math.sqrt(features.shape[1])
        coordinates = rowwise(features, (loadings * orient(loadings)[:, None]).T) * scale
    explained = np.square(sigma / np.linalg.norm(sigma))
    return padded(coordinates, rows, explained, n_components, method, None)
