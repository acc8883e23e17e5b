"""Embeddings, covers and random walks from their definitions, for small inputs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tests.oracles.maps import henon, lift, trajectories
from tests.oracles.naive import l1_distance, rms_distance

Floats = NDArray[np.float64]


class ArraySource:
    """A source over an array `(N, R, P)`, cut into blocks of given sizes, which counts its reads."""

    def __init__(self, weights: NDArray[np.floating], row_step: int = 7, parameter_step: int = 17) -> None:
        self.weights = weights
        self.n_rows, self.n_replicas, self.n_parameters = weights.shape
        self.row_step, self.parameter_step = row_step, parameter_step
        self.n_reads = 0

    def by_rows(self) -> Iterator[NDArray[np.floating]]:
        """Yield some rows at a time."""
        self.n_reads += 1
        for start in range(0, self.n_rows, self.row_step):
            yield self.weights[start : start + self.row_step]

    def by_parameters(self) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yield some parameters at a time."""
        self.n_reads += 1
        for start in range(0, self.n_parameters, self.parameter_step):
            yield start, self.weights[:, :, start : start + self.parameter_step]


def distance_matrix(snapshots: Floats, others: Floats, distance: str) -> Floats:
    """Distances `(n, m)` one pair at a time, exactly rounded sums."""
    measure = {"rms": rms_distance, "l1": l1_distance}[distance]
    return np.array([[measure(a, b) for b in others] for a in snapshots])


def stress(distances: Floats, places: Floats) -> float:
    """Root of the squared misfit of all pairs over their squared distances."""
    misfit = total = 0.0
    for i in range(len(places)):
        for j in range(len(places)):
            misfit += (distances[i, j] - float(np.linalg.norm(places[i] - places[j]))) ** 2
            total += distances[i, j] ** 2
    return float(np.sqrt(misfit / total))


def guttman(distances: Floats, places: Floats) -> Floats:
    """One transform, `B(X) X / N` with the matrix B written out."""
    n = len(places)
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            apart = float(np.linalg.norm(places[i] - places[j]))
            if i != j and apart > 0.0:
                matrix[i, j] = -distances[i, j] / apart
    matrix -= np.diag(matrix.sum(axis=1))
    return matrix @ places / n


def kinked_ensemble(seed: int, n_steps: int, n_perturbed: int, epsilon: float, n_still: int) -> Floats:
    """Return a chaotic map among parameters that stand still, `(n_steps + 1, 1 + n_perturbed, 4 + n_still)`.

    Every parameter is perturbed; those that do not move keep that difference for ever, as the weights of an input
    that is always 0 do in training.
    """
    rng = np.random.default_rng(seed)
    start = rng.uniform(-0.1, 0.1, 2)
    for _ in range(100):
        start = henon(start)
    moving = lift(trajectories(henon, start, epsilon, n_perturbed, n_steps, seed), 4, seed)
    still = rng.uniform(-epsilon, epsilon, (1 + n_perturbed, n_still))
    still[0] = 0.0
    return np.concatenate([moving, np.broadcast_to(still, (n_steps + 1, *still.shape))], axis=2)


def walk(moves: Floats, rng: np.random.Generator) -> Floats:
    """Return a random walk with the given moves `(T, R, P)`, those of each row turned by one uniform rotation."""
    own, lengths = np.linalg.qr(moves.transpose(0, 2, 1))
    random, signs = np.linalg.qr(rng.standard_normal(own.shape))
    random = random * np.sign(np.diagonal(signs, axis1=1, axis2=2))[:, None]
    return np.asarray((random @ lengths).transpose(0, 2, 1).cumsum(axis=0))


def first_share(snapshots: Floats) -> float:
    """Share of the variance of `(T, R, P)` along its first principal component."""
    rows = snapshots.reshape(-1, snapshots.shape[-1])
    squares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    return float(squares[0] / squares.sum())


def products(moves: Floats) -> Floats:
    """Scalar products of the moves `(T, R, P)` of each row over P, `(T, R, R)`."""
    return np.asarray(np.einsum("tjp,tkp->tjk", moves, moves) / moves.shape[-1])
