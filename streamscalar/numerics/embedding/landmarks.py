"""Landmarks: few snapshots that stand for all, drawn evenly from all replicas, at the end of a run or during it.

The reference alone must not supply them. It would be at distance 0 from its own landmarks, and at no distance along
every parameter that training leaves alone, while each perturbed replica keeps the initial perturbation there: a kink
that inflates small separations. Measured with `l1` distances on a 64-256-10 network on scikit-learn's digits at
learning rate 2, 64 landmarks, exponent of the embedded divergence per step over 4 initial conditions: .661 with all
snapshots as landmarks, .656 with `even_landmarks`, .396 with landmarks from the reference.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.blocks import usable_rows
from streamscalar.numerics.embedding.distances import Picked, between, every_snapshot

_DISTANCES: tuple[Literal["rms", "l1"], ...] = ("rms", "l1")

GROWTH = 1.25
"""Least factor of the radius when landmarks are replaced.

With a factor g the bound on the covering radius is `2 g^2 / (g - 1)` times the best: 8 at g = 2, 12.5 here. But at 2
half of the budget lies idle after each replacement; measured on seven runs of digits with 10 rows of landmarks, the
covering radius was 1.23 of that of evenly drawn ones at 2, and 1.04 at 1.25.
"""


def even_landmarks(n_rows: int, n_replicas: int, n_landmarks: int) -> Picked:
    """Pick landmarks of a run with even spaces in time, from one replica after the other.

    Parameters
    ----------
    n_rows, n_replicas
        Rows and fitted replicas of the run.
    n_landmarks
        How many to pick; all snapshots where there are fewer.

    Returns
    -------
    Picked
        Different snapshots by rising row. No replica has two more of them than another.

    Examples
    --------
    >>> picked = even_landmarks(n_rows=12, n_replicas=2, n_landmarks=4)
    >>> picked.rows.tolist(), picked.replicas.tolist()
    ([1, 4, 7, 10], [0, 1, 0, 1])
    """
    for name, count in (("n_rows", n_rows), ("n_replicas", n_replicas), ("n_landmarks", n_landmarks)):
        if count < 1:
            raise BadCall(name, "must be at least 1", str(count))
    n_picked = min(n_landmarks, n_rows * n_replicas)
    order = np.arange(n_picked)
    # Of at most n_replicas in one row, no two can be of one replica, as they follow each other.
    return Picked((2 * order + 1) * n_rows // (2 * n_picked), order % n_replicas)


class OnlineLandmarks:
    """Keep landmarks that cover everything seen so far, within a budget, replacing them as a run goes on.

    A landmark is a whole row, one snapshot of each replica: all replicas always have equally many, and what the
    landmarks of the reference add to a small separation those of its replicas take away. The distance of two rows is
    the largest of the distances of their replicas. A new row that is farther than `radius` from all landmarks becomes
    one. When that exceeds the budget, the radius grows, rows within it are joined to a graph, and a minimal dominating
    set of it stays [1]_.

    Parameters
    ----------
    n_replicas, n_parameters
        R and P.
    n_landmarks
        Most snapshots to keep: `n_landmarks // R` rows of landmarks, at least two.
    distance
        `rms` or `l1`; between two replicas at different rows of one run.

    Attributes
    ----------
    radius : float
        Landmarks are farther apart than this, rows within it of one are not added.
    covering_radius : float
        Bound on the distance of every usable row so far from its nearest landmark; each of its snapshots is
        within it of a landmark of its own replica. At most `5 * radius`, and at most 12.5 times the smallest
        radius within which any choice of as many rows would cover all [2]_.
    n_rows : int
        Rows seen.

    Notes
    -----
    Cost of an update with S rows and k rows of landmarks: `S k R P` differences, and `S R P` for each row that
    becomes a landmark. Memory between updates: `n_landmarks + R` snapshots as float64.

    Rows that are not finite in every replica are passed over. Landmarks depend on the rows, not on how they were
    cut into blocks.

    Landmarks cover space evenly, not time: where a run is fast early and slow later, few of them lie late. For the
    exponent of a finished run draw `even_landmarks`.

    Where this differs from [1]_: there the threshold of the graph is a parameter, and the dominating set is taken
    of landmarks and new points; here it follows from the budget as in [2]_. The dominating set is also independent
    (no two of it are joined), which makes it minimal, and keeps the landmarks apart.

    References
    ----------
    .. [1] C. Thongprayoon, N. Masuda, Online landmark replacement for out-of-sample dimensionality reduction
       methods, arXiv 2311.12646.
    .. [2] M. Charikar, C. Chekuri, T. Feder, R. Motwani, Incremental clustering and dynamic information
       retrieval, SIAM J. Comput. 33, 1417 (2004), section 3.

    Examples
    --------
    >>> model = OnlineLandmarks(n_replicas=1, n_parameters=1, n_landmarks=3)
    >>> model.update(np.arange(10.0).reshape(10, 1, 1))
    >>> model.landmarks.rows.tolist(), model.radius, model.covering_radius
    ([0, 4, 7], 2.0, 3.0)
    """

    def __init__(
        self, n_replicas: int, n_parameters: int, n_landmarks: int, distance: Literal["rms", "l1"] = "rms"
    ) -> None:
        for name, count in (("n_replicas", n_replicas), ("n_parameters", n_parameters)):
            if count < 1:
                raise BadCall(name, "must be at least 1", str(count))
        if n_landmarks < 2 * n_replicas:
            must = f"must be at least {2 * n_replicas}, two for each replica"
            raise BadCall("n_landmarks", must, str(n_landmarks))
        self.n_replicas = n_replicas
        self.n_parameters = n_parameters
        self.n_landmarks = n_landmarks
        self.distance = distance
        self.radius = 0.0
        self.covering_radius = 0.0
        self.n_rows = 0
        self._rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._weights = np.zeros((0, n_replicas, n_parameters))
        self._apart = np.zeros((0, 0))

    @property
    def landmarks(self) -> Picked:
        """Where the landmarks stand in the run, row by row, each row with all replicas in turn."""
        places = every_snapshot(len(self._rows), range(self.n_replicas))
        return Picked(self._rows[places.rows].astype(np.intp), places.replicas)

    @property
    def snapshots(self) -> NDArray[np.float64]:
        """Weights of the landmarks `(n, P)`, in the order of `landmarks`."""
        return self._weights.reshape(-1, self.n_parameters).copy()

    def update(self, block: NDArray[np.floating]) -> None:
        """Look at the next rows.

        Parameters
        ----------
        block
            Array `(S, R, P)`, float32 or float64.

        Raises
        ------
        BadCall
            If the block has another shape.
        """
        if block.ndim != 3 or block.shape[1:] != (self.n_replicas, self.n_parameters):
            must = f"must have shape (S, {self.n_replicas}, {self.n_parameters})"
            raise BadCall("block", must, str(block.shape), kind=Kind.DATA)
        offset = self.n_rows
        self.n_rows += len(block)
        usable = np.flatnonzero(usable_rows(block).all(axis=1))
        rows = block[usable]
        apart = self._between(rows, self._weights)
        for place, index in enumerate(usable):
            # The covering radius is never under the radius, so a row within that is covered already.
            if apart[place].min(initial=math.inf) <= self.radius:
                continue
            self._add(offset + int(index), rows[place], apart[place])
            apart = np.hstack([apart, self._between(rows, rows[place : place + 1])])
            if len(self._rows) > self.n_landmarks // self.n_replicas:
                apart = apart[:, self._replace()]

    def _between(self, rows: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distances `(S, k)` of rows `(S, R, P)` from rows `(k, R, P)`."""
        if 0 in (len(rows), len(others)):
            return np.zeros((len(rows), len(others)))
        found = [between(rows[:, j], others[:, j], self.distance) for j in range(self.n_replicas)]
        return np.asarray(np.max(found, axis=0))

    def _add(self, row: int, weights: NDArray[np.floating], apart: NDArray[np.float64]) -> None:
        self._rows = np.append(self._rows, row)
        self._weights = np.concatenate([self._weights, weights[None].astype(np.float64)])
        self._apart = np.pad(self._apart, (0, 1))
        self._apart[-1, :-1] = self._apart[:-1, -1] = apart

    def _replace(self) -> NDArray[np.intp]:
        """Raise the radius until landmarks can go, and return which stay."""
        closest = float(self._apart[np.triu_indices(len(self._apart), 1)].min())
        self.radius = max(GROWTH * self.radius, closest)
        stay = dominating_set(self._apart <= self.radius)
        self.covering_radius += float(self._apart[:, stay].min(axis=1).max())
        self._rows = self._rows[stay]
        self._weights = self._weights[stay]
        self._apart = self._apart[np.ix_(stay, stay)]
        return stay

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the whole state as arrays, for `from_snapshot`."""
        return {
            "n_landmarks": np.array(self.n_landmarks, dtype=np.int64),
            "distance": np.array(_DISTANCES.index(self.distance), dtype=np.int64),
            "radius": np.array(self.radius),
            "covering_radius": np.array(self.covering_radius),
            "n_rows": np.array(self.n_rows, dtype=np.int64),
            "rows": self._rows.copy(),
            "weights": self._weights.copy(),
            "apart": self._apart.copy(),
        }

    @classmethod
    def from_snapshot(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """Return a model that goes on with the bits of the one that `state` was taken from."""
        _, n_replicas, n_parameters = state["weights"].shape
        model = cls(n_replicas, n_parameters, int(state["n_landmarks"]), _DISTANCES[int(state["distance"])])
        model.radius = float(state["radius"])
        model.covering_radius = float(state["covering_radius"])
        model.n_rows = int(state["n_rows"])
        model._rows = np.array(state["rows"], dtype=np.int64)
        model._weights = np.array(state["weights"], dtype=np.float64)
        model._apart = np.array(state["apart"], dtype=np.float64)
        return model


def dominating_set(near: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return a minimal dominating set of a graph, greedily: rising indices of vertices.

    Every vertex is in the set or has a neighbour in it, no two of the set are neighbours, and so none of it can be
    left out. Of the vertices not yet dominated the one with fewest neighbours among them is taken, the first of
    several: so the set is large, as landmarks within the budget cost nothing.

    Parameters
    ----------
    near
        Symmetric adjacency `(n, n)`, true on the diagonal.

    Examples
    --------
    >>> path = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) <= 1
    >>> dominating_set(path).tolist()
    [0, 2, 4]
    """
    left = np.ones(len(near), dtype=np.bool_)
    chosen = []
    while left.any():
        dominated = np.where(left, (near & left).sum(axis=1), len(near) + 1)
        vertex = int(dominated.argmin())
        chosen.append(vertex)
        left &= ~near[vertex]
    return np.array(sorted(chosen), dtype=np.intp)
