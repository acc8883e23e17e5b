"""The result of an embedding from distances, and the checks that all methods share."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.types import ADVICE, Status


@dataclass(frozen=True, slots=True)
class Embedding:
    """Coordinates of N snapshots from their distances.

    Attributes
    ----------
    scores
        Coordinates `(N, K)` float64; NaN for a snapshot with a distance that is not finite, 0 along axes beyond the
        rank. All NaN unless `status` is `ok`, `not_converged` or `constant`, and where all landmarks coincide.
    method
        `classical`, `distance_pca`, `distance_pca_squared`, `smacof` or `landmark_cmds`.
    explained
        Share of each axis, `(K,)`: for `distance_pca` of the variance of the features; for `classical` and
        `landmark_cmds` of the sum of the magnitudes of all eigenvalues, which is the variance where the distance is
        Euclidean; for `smacof` of the variance of the coordinates.
    stress
        Root of `sum (D - d)^2 / sum D^2` over the given distances D, where d are the distances of the coordinates: 0
        is a perfect fit. `None` for `distance_pca`, whose coordinates do not reproduce distances.
    stresses
        Stress before the first iteration of `smacof` and after each one, never rising; empty for the other methods.
    status
        `ok`; `constant` where all distances are 0; `too_few_rows` with fewer than two usable snapshots or landmarks;
        `non_finite` where none is usable; `not_converged` where `smacof` reached `max_iterations`.
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


def check(distances: NDArray[np.float64], n_components: int) -> None:
    """Raise `BadCall` unless `distances` is a non-empty matrix without negative values and `n_components` >= 1."""
    if distances.ndim != 2 or 0 in distances.shape:
        raise BadCall("distances", "must be a matrix", str(distances.shape), kind=Kind.DATA)
    if (distances < 0.0).any():
        raise BadCall("distances", "must not be negative", str(float(np.nanmin(distances))), kind=Kind.DATA)
    if n_components < 1:
        raise BadCall("n_components", "must be at least 1", str(n_components))


def check_square(distances: NDArray[np.float64], n_components: int) -> None:
    """Raise `BadCall` unless `check` passes and `distances` is square and symmetric."""
    check(distances, n_components)
    if distances.shape[0] != distances.shape[1]:
        raise BadCall("distances", "must be square", str(distances.shape), kind=Kind.DATA)
    if not np.allclose(distances, distances.T, rtol=1e-9, atol=0.0, equal_nan=True):
        raise BadCall("distances", "must be symmetric", kind=Kind.DATA)


def usable_square(distances: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which snapshots have finite distances to each other, `(N,)`, and those distances.

    A snapshot that is not finite has no finite distance, not even to itself.
    """
    rows = np.isfinite(np.diagonal(distances))
    inner = distances[np.ix_(rows, rows)]
    finite = np.isfinite(inner).all(axis=1)
    rows[rows] = finite
    return rows, inner[np.ix_(finite, finite)]


def stress_of(distances: NDArray[np.float64], apart: NDArray[np.float64]) -> float:
    """Return the root of the summed squares of `distances - apart` over those of `distances`, of equal shape."""
    return float(np.linalg.norm(distances - apart) / np.linalg.norm(distances))


def rowwise(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `rows @ columns`, each row summed in the same order: equal rows give equal bits, which BLAS may not."""
    return np.asarray(np.einsum("nm,mk->nk", rows, columns))


def unusable(usable: NDArray[np.float64], n_components: int, n: int, method: str) -> Embedding | None:
    """Return the failed embedding of `n` snapshots where too few distances are usable, else `None`."""
    if usable.size == 0:
        return failed(Status.NON_FINITE, n_components, n, method, "No distance is usable.")
    if len(usable) < 2:
        return failed(Status.TOO_FEW_ROWS, n_components, n, method, f"{len(usable)} usable snapshot.")
    return None


def failed(status: Status, n_components: int, n: int, method: str, what: str) -> Embedding:
    """Return an embedding of `n` snapshots without coordinates."""
    nothing = np.full((n, n_components), math.nan)
    message = f"{what} {ADVICE[status]}"
    return Embedding(nothing, method, np.zeros(n_components), None, np.zeros(0), status, message)


def constant(rows: NDArray[np.bool_], n_components: int, method: str) -> Embedding:
    """Return coordinates 0 for the usable snapshots, true in `rows` `(N,)`, which do not differ."""
    scores = np.where(rows[:, None], 0.0, math.nan) * np.ones(n_components)
    message = "All distances are 0 or equal: the snapshots do not differ."
    return Embedding(scores, method, np.zeros(n_components), None, np.zeros(0), Status.CONSTANT, message)


def padded(
    coordinates: NDArray[np.float64],
    rows: NDArray[np.bool_],
    explained: NDArray[np.float64],
    n_components: int,
    method: str,
    stress: float | None,
) -> Embedding:
    """Return the embedding with `n_components` axes and NaN for the snapshots that are false in `rows`."""
    kept = min(n_components, coordinates.shape[1])
    scores = np.full((len(rows), n_components), math.nan)
    scores[rows] = 0.0
    scores[rows, :kept] = coordinates[:, :kept]
    shares = np.zeros(n_components)
    shares[:kept] = explained[:kept]
    return Embedding(scores, method, shares, stress, np.zeros(0), Status.OK, "")
