"""Near returns of one trajectory: pairs of rows that are close in space but not in time, and their separation."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

NEAR_SHARE = 0.05
"""Largest distance of a near return, as a share of the attractor's size."""

TOP_SHARE = 0.1
"""Mean separation at which the fit window ends, as a share of the attractor's size."""

LEFT_SHARE = 0.2
"""Distance from a state at which the trajectory has left it, as a share of the attractor's size."""

LEAST_ROWS = 50
"""Least number of states for an estimate."""

LEAST_RETURN_SHARE = 0.5
"""Share of the reference rows that must have a near return; fewer would represent only the dense regions."""

LEAST_THEILER = 10
"""Distance in rows within which another row is never a return."""

LAG_SHARE = 8
"""Pairs are followed over at most the number of rows divided by this."""

FLOW_COSINE = 0.5
"""Mean cosine between successive increments above which a trajectory counts as a flow; a random walk has 0."""

DENSE_ROWS = 400
"""Largest number of rows for which all distances cost less than a tree."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Separations of pairs of near returns by lag.

    Attributes
    ----------
    log_d
        `ln` separation of each pair at lags 0, 1, ... rows, `(n_lags, n_pairs)`.
    reference
        Row of the reference of each pair, rising, `(n_pairs,)`.
    n_candidates
        Number of rows that could have a return.
    """

    log_d: NDArray[np.float64]
    reference: NDArray[np.int64]
    n_candidates: int

    @property
    def curve(self) -> NDArray[np.float64]:
        """Mean of `log_d` over the pairs, `(n_lags,)`."""
        return np.asarray(self.log_d.mean(axis=1))

    @property
    def is_enough(self) -> bool:
        """Whether at least the share `LEAST_RETURN_SHARE` of the rows has a near return."""
        return len(self.reference) >= LEAST_RETURN_SHARE * self.n_candidates


def attractor_size(states: NDArray[np.float64], rng: np.random.Generator, n_rows: int = 200) -> float:
    """Return the geometric mean distance between two random distinct states `(T, K)`, T >= 2; 0 if none differ."""
    chosen = states if len(states) <= n_rows else states[rng.choice(len(states), n_rows, replace=False)]
    distance = cdist(chosen, chosen)
    distance = distance[distance > 0.0]
    return float(np.exp(np.log(distance).mean())) if len(distance) else 0.0


def is_flow(states: NDArray[np.float64]) -> bool:
    """Return whether rows `(T, K)` follow each other smoothly in at least three dimensions."""
    step = np.diff(states, axis=0)
    length = np.linalg.norm(step, axis=1)
    product = length[1:] * length[:-1]
    if states.shape[1] < 3 or not (product > 0.0).any():
        return False
    cosine = np.einsum("ij,ij->i", step[1:], step[:-1])[product > 0.0] / product[product > 0.0]
    return float(cosine.mean()) > FLOW_COSINE


def near_returns(states: NDArray[np.float64], size: float, across: bool) -> Growth:
    """Pair every row with its nearest return and follow the pairs until their mean separation passes the top.

    Parameters
    ----------
    states
        Trajectory `(T, K)`, T >= `LEAST_ROWS`.
    size
        Size of the attractor, > 0, in the unit of `states`.
    across
        Whether to measure separations only across the direction of motion.

    Returns
    -------
    Growth
    """
    n_lags = len(states) // LAG_SHARE
    n_candidates = len(states) - n_lags
    after = _rows_to_leave(states, LEFT_SHARE * size)[:n_candidates]
    before = _rows_to_leave(states[::-1], LEFT_SHARE * size)[::-1][:n_candidates]
    find = _nearest_dense if len(states) <= DENSE_ROWS else _nearest_by_tree
    reference, partner = find(states[:n_candidates], before, after, NEAR_SHARE * size)
    if len(reference) == 0:
        return Growth(np.empty((0, 0)), reference, n_candidates)
    velocity = np.gradient(states, axis=0) if across else None
    log_d = []
    for lag in range(n_lags):
        apart = states[reference + lag] - states[partner + lag]
        if velocity is not None:
            # For two states on one arc the mean velocity is parallel to the chord; a single velocity is not.
            along = _unit(velocity[reference + lag] + velocity[partner + lag])
            apart -= np.einsum("ij,ij->i", apart, along)[:, None] * along
        # Separations under rounding are raised to it; exact repeats of a periodic orbit reach this bound.
        log_d.append(np.log(np.maximum(np.sqrt(np.einsum("ij,ij->i", apart, apart)), 1e-15 * size)))
        if float(log_d[-1].mean()) > math.log(TOP_SHARE * size):
            break
    return Growth(np.array(log_d), reference, n_candidates)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows scaled to length 1; rows of length 0 stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0.0))


def _rows_to_leave(states: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Return after how many rows each state `(T, K)` is farther away than `radius`; T where it never is."""
    n_rows = len(states)
    left = np.full(n_rows, n_rows)
    waiting = np.arange(n_rows)
    for lag in range(1, n_rows):
        waiting = waiting[waiting + lag < n_rows]
        if len(waiting) == 0:
            break
        apart = states[waiting + lag] - states[waiting]
        gone = np.einsum("ij,ij->i", apart, apart) > radius * radius
        left[waiting[gone]] = lag
        waiting = waiting[~gone]
    return left


def _is_return(
    row: NDArray[np.int64], other: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether the trajectory left `row` before it was at `other`, in either direction of time."""
    gap = other - row
    return (gap >= np.maximum(after, LEAST_THEILER)) | (-gap >= np.maximum(before, LEAST_THEILER))


def _nearest_dense(
    states: NDArray[np.float64], before: NDArray[np.int64], after: NDArray[np.int64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows with a return within `radius` and the nearest of their returns, from all distances."""
    rows = np.arange(len(states))
    distance = cdist(states, states, "sqeuclidean")
    distance[~_is_return(rows[:, None], rows, before[:, None], after[:, None])] = np.inf
    partner = distance.argmin(axis=1)
    found = distance[rows, partner] <= radius * radius
    return rows[found], partner[found]


def _nearest_by_tree(
    states: NDArray[np.float64], before: NDArray[np.int64], after: NDArray[np.int64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the same as `_nearest_dense` from a tree, with more neighbours where all found ones are no returns."""
    n_rows = len(states)
    tree = cKDTree(states)
    partner = np.full(n_rows, -1)
    open_rows, n_neighbours = np.arange(n_rows), 8
    while len(open_rows):
        n_neighbours = min(n_neighbours, n_rows)
        _, other = tree.query(states[open_rows], n_neighbours, distance_upper_bound=radius)
        valid = _is_return(open_rows[:, None], other, before[open_rows, None], after[open_rows, None])
        valid &= other < n_rows
        nearest = valid.argmax(axis=1)
        has = valid[np.arange(len(open_rows)), nearest]
        partner[open_rows[has]] = other[has, nearest[has]]
        # A row without an empty place may have more neighbours than were requested.
        open_rows = open_rows[~has & (other[:, -1] < n_rows)]
        if n_neighbours == n_rows:
            break
        n_neighbours *= 4
    found = np.flatnonzero(partner >= 0)
    return found, partner[found]
