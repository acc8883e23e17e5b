"""Separations of replicas from their reference, accumulated in float64."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.blocks import power_of_two
from streamscalar.types import REFERENCE


@dataclass(frozen=True, slots=True)
class Separations:
    """Distances of every replica from the reference, row by row.

    Attributes
    ----------
    l1
        Sum of absolute differences over all P parameters, `(S, R)` float64.
    rms
        Euclidean distance divided by the root of P, `(S, R)` float64.
    random
        Signed difference along one fixed random direction, divided by the root of P, `(S, R)`
        float64; `None` without a direction. It is the control of the scalar embedding: a projection that
        does not depend on the data.
    """

    l1: NDArray[np.float64]
    rms: NDArray[np.float64]
    random: NDArray[np.float64] | None


def separations(
    weights: NDArray[np.floating],
    reference: int = REFERENCE,
    direction: NDArray[np.float64] | None = None,
) -> Separations:
    """Compute the distances of each replica from the reference.

    Differences are computed and summed in float64, one replica of one row at a time: a separation of 1e-12
    between weights of order 1 is kept, which neither float32 sums nor the form `a^2 + b^2 - 2ab` guarantees.
    Sums are NumPy's pairwise sums and not a BLAS product, so they depend neither on the number of threads nor
    on how the rows were cut into blocks.

    Parameters
    ----------
    weights
        Block `(S, R, P)`, float32 or float64: rows, replicas, parameters.
    reference
        Index of the reference on the replica axis; its own column is exactly 0.
    direction
        Unit vector `(P,)` for the random projection.

    Returns
    -------
    Separations
        Infinite or NaN where the weights are; a bit-identical replica has exactly 0.

    Raises
    ------
    BadCall
        If `weights` does not have three dimensions with replicas and parameters, or `direction` another length.

    Notes
    -----
    Memory beyond the result: two vectors of P float64.

    Examples
    --------
    >>> block = np.array([[[0.0, 0.0], [3.0, -4.0]]])
    >>> found = separations(block)
    >>> float(found.l1[0, 1]), round(float(found.rms[0, 1]), 6)
    (7.0, 3.535534)
    """
    if weights.ndim != 3 or 0 in weights.shape[1:]:
        raise BadCall("weights", "must have shape (rows, replicas, parameters)", str(weights.shape), kind=Kind.DATA)
    n_rows, n_replicas, n_parameters = weights.shape
    if direction is not None and direction.shape != (n_parameters,):
        must = f"must have shape ({n_parameters},) like one snapshot"
        raise BadCall("direction", must, str(direction.shape), kind=Kind.DATA)
    l1 = np.zeros((n_rows, n_replicas))
    rms = np.zeros((n_rows, n_replicas))
    random = None if direction is None else np.zeros((n_rows, n_replicas))
    difference = np.empty(n_parameters)
    work = np.empty(n_parameters)
    root = math.sqrt(n_parameters)
    others = [replica for replica in range(n_replicas) if replica != reference % n_replicas]
    with np.errstate(all="ignore"):
        for row in range(n_rows):
            origin = weights[row, reference]
            for replica in others:
                np.subtract(weights[row, replica], origin, out=difference, dtype=np.float64)
                l1[row, replica] = np.abs(difference, out=work).sum()
                rms[row, replica] = _norm(difference, work) / root
                if direction is not None and random is not None:
                    along = np.multiply(difference, direction, out=work).sum()
                    random[row, replica] = along / root
    return Separations(l1, rms, random)


def _norm(vector: NDArray[np.float64], work: NDArray[np.float64]) -> float:
    """Return the Euclidean norm, scaled where squares leave the range of float64."""
    square = float(np.multiply(vector, vector, out=work).sum())
    if 1e-280 < square < math.inf:
        return math.sqrt(square)
    peak = float(np.abs(vector, out=work).max())
    if peak == 0.0 or not math.isfinite(peak):
        return peak
    unit = power_of_two(peak)
    np.divide(vector, unit, out=work)
    return unit * math.sqrt(float(np.multiply(work, work, out=work).sum()))


def random_direction(n_parameters: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a unit vector `(P,)`, uniform on the sphere, drawn from `rng`."""
    direction = rng.standard_normal(n_parameters)
    return np.asarray(direction / np.linalg.norm(direction))


def pair_distances(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the L1 distances between all pairs of replicas.

    Parameters
    ----------
    weights
        Block `(S, m, P)`, float32 or float64.

    Returns
    -------
    ndarray
        `(S, m (m - 1) / 2)` float64, pairs in the order (0, 1), (0, 2), ..., (1, 2), ...; infinite or NaN where the
        weights are. Cost: `m (m - 1) / 2` sums over P per row.

    Examples
    --------
    >>> pair_distances(np.array([[[0.0, 0.0], [3.0, -4.0], [0.0, 1.0]]])).tolist()
    [[7.0, 1.0, 8.0]]
    """
    n_members = weights.shape[1]
    first, second = np.triu_indices(n_members, 1)
    found = np.zeros((len(weights), len(first)))
    difference = np.empty(weights.shape[2])
    with np.errstate(all="ignore"):
        for row, rows in enumerate(weights):
            for pair, (j, k) in enumerate(zip(first, second, strict=True)):
                np.subtract(rows[j], rows[k], out=difference, dtype=np.float64)
                found[row, pair] = np.abs(difference, out=difference).sum()
    return found


def increment_products(weights: NDArray[np.floating], previous: NDArray[np.floating] | None) -> NDArray[np.float64]:
    """Return the scalar products of the moves of the replicas since the row before, over P.

    Parameters
    ----------
    weights
        Block `(S, m, P)`, float32 or float64.
    previous
        Row before the block, `(m, P)`; `None` at the start of a run, whose first products are 0.

    Returns
    -------
    ndarray
        `(S, m, m)` float64; not finite where the weights are not.
    """
    n_rows, n_members, n_parameters = weights.shape
    found = np.zeros((n_rows, n_members, n_members))
    before = weights[0] if previous is None else previous
    with np.errstate(all="ignore"):
        for row, now in enumerate(weights):
            moved = np.subtract(now, before, dtype=np.float64)
            found[row] = moved @ moved.T / n_parameters
            before = now
    return found
