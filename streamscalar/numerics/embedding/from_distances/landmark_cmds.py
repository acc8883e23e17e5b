"""Classical scaling of landmarks, and triangulation of all other snapshots."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.embedding.from_distances.base import (
    Embedding,
    check,
    check_square,
    failed,
    padded,
    rowwise,
    stress_of,
    unusable,
    usable_square,
)
from streamscalar.numerics.embedding.from_distances.classical import principal_axes
from streamscalar.types import Status


def landmark_cmds(
    landmark_distances: NDArray[np.float64], distances: NDArray[np.float64], n_components: int
) -> Embedding:
    """Embed snapshots by classical scaling of landmarks and triangulation.

    Parameters
    ----------
    landmark_distances
        `(m, m)`, between the landmarks. A landmark that is not finite is left out.
    distances
        `(N, m)`, from every snapshot to the landmarks; a snapshot that is a landmark gets the landmark's coordinates.
    n_components
        Number K of components.

    Returns
    -------
    Embedding
        Coordinates in units of distance along the principal axes of the landmarks, relative to their centre. Exact
        where distances are Euclidean and the snapshots lie in the span of the axes; otherwise the projection on them.

    Raises
    ------
    BadCall
        If a matrix holds a negative value, the first is not symmetric, the numbers of landmarks differ, or
        `n_components` is less than 1.

    Notes
    -----
    Cost: an eigenproblem of size m and a product of `N * m * K`.

    Where this differs from de Silva and Tenenbaum (2004), section 3.3: coordinates are not rotated to the principal
    axes of all snapshots afterwards, so that those of one snapshot do not depend on the others.

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(4.0), [0.0, 3.0]))
    >>> landmark_cmds(line[[0, 3]], line, 1).scores.round(6).ravel().tolist()
    [1.5, 0.5, -0.5, -1.5]
    """
    method = "landmark_cmds"
    check_square(landmark_distances, n_components)
    check(distances, n_components)
    if distances.shape[1] != len(landmark_distances):
        must = f"must have {len(landmark_distances)} columns, one per landmark"
        raise BadCall("distances", must, str(distances.shape), kind=Kind.DATA)
    columns, inner = usable_square(landmark_distances)
    unfit = unusable(inner, n_components, len(distances), method)
    if unfit is not None:
        return unfit
    given = distances[:, columns]
    rows = np.asarray(np.isfinite(given).all(axis=1))
    axes = principal_axes(inner, n_components)
    if axes is None:
        return failed(Status.CONSTANT, n_components, len(distances), method, "All landmarks coincide.")
    if not rows.any():
        return failed(Status.NON_FINITE, n_components, len(distances), method, "No snapshot is usable.")
    squares = np.square(given[rows] / axes.unit)
    pulls = (np.square(inner / axes.unit).mean(axis=0) - squares) / 2.0
    coordinates = rowwise(pulls, axes.vectors / np.sqrt(axes.values)) * axes.unit
    stress = stress_of(given[rows], cdist(coordinates, axes.places))
    return padded(coordinates, rows, axes.shares, n_components, method, stress)
