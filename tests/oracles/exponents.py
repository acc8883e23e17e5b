"""Slow and obvious versions of the further exponents, and systems whose tangent exponents are known."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tests.oracles import naive

Floats = NDArray[np.float64]

HENON_SECOND = -1.62319
LORENZ = 0.9056
"""Largest exponent of the Lorenz system at (10, 28, 8/3), per time unit."""


def line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Slope, value at 0 and R^2 of the least-squares line of y over x."""
    slope = naive.slope(x, y)
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    at_zero = mean_y - slope * mean_x
    # About the means: with the value at 0 instead, a flat window far from step 0 would lose digits.
    left = math.fsum(((float(b) - mean_y) - slope * (float(a) - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    total = math.fsum((float(b) - mean_y) ** 2 for b in y)
    return slope, at_zero, 1.0 - left / total


def best_r2(steps: NDArray[np.int64], divergence: Floats) -> tuple[float, float, int, int]:
    """Slope, R^2, first and last step of the window of best R^2, by trying all of them."""
    log_d = np.array([math.log(math.fsum(row) / len(row)) for row in divergence])
    best = (math.nan, -math.inf, 0, 0)
    for start in range(0, 101, 5):
        for length in range(30, 101, 5):
            stop = start + length
            if stop > len(log_d) or len(set(log_d[start:stop].tolist())) == 1:
                continue
            slope, _, r2 = line(steps[start:stop].astype(np.float64), log_d[start:stop])
            if r2 > best[1]:
                best = (slope, r2, int(steps[start]), int(steps[stop - 1]))
    return best


def pair_divergence(signed: Floats) -> Floats:
    """Distance of every pair of members, `(T, n_pairs)`, from the separations `(T, n)` from the first."""
    return np.stack([np.abs(signed[:, i] - signed[:, j]) for i, j in combinations(range(signed.shape[1]), 2)], axis=1)


def mean_over_pairs(signed: Floats, members: list[int]) -> Floats:
    """Mean `ln |s_i - s_j|` of every row over the pairs among `members`."""
    rows = [[math.log(abs(row[i] - row[j])) for i, j in combinations(members, 2)] for row in signed]
    return np.array([math.fsum(row) / len(row) for row in rows])


def jackknife_error(signed: Floats, slope_of: Callable[[Floats], float]) -> float:
    """Delete-one standard error of the slope of the mean over pairs, recomputed without each member."""
    members = list(range(signed.shape[1]))
    n = len(members)
    without = [slope_of(mean_over_pairs(signed, [m for m in members if m != left])) for left in members]
    mean = math.fsum(without) / n
    return math.sqrt((n - 1) / n * math.fsum((value - mean) ** 2 for value in without))


def local_slopes(steps: NDArray[np.int64], divergence: Floats, width: int) -> list[tuple[float, float, float]]:
    """Centre, slope and standard error over replicas of every window whose separations are sound."""
    found = []
    for first in range(len(steps) - width + 1):
        x, d = steps[first : first + width].astype(np.float64), divergence[first : first + width]
        if not all(math.isfinite(value) and value > 0.0 for value in d.ravel()):
            continue
        own = [naive.slope(x, np.array([math.log(value) for value in column])) for column in d.T]
        mean_log = np.array([math.fsum(math.log(value) for value in row) / len(row) for row in d])
        mean = math.fsum(own) / len(own)
        error = math.sqrt(math.fsum((value - mean) ** 2 for value in own) / max(len(own) - 1, 1) / len(own))
        found.append((math.fsum(x) / width, naive.slope(x, mean_log), error))
    return found


def intercept(epsilons: Floats, exponents: Floats) -> float:
    """Value at `1 / ln(1 / epsilon) = 0` of the line through the exponents that are there (not NaN)."""
    kept = [(1.0 / math.log(1.0 / e), y) for e, y in zip(epsilons, exponents, strict=True) if not math.isnan(y)]
    x, y = np.array(kept).T
    return line(x, y)[1]


def tangent_rates(
    steps: NDArray[np.int64], growth: Floats, burn_in: int | None
) -> tuple[list[float], list[list[float]], int]:
    """Exponent of each vector, the rates of its batches, and rows per batch, straight from the rows."""
    n_behind = len(steps) - 1 - (burn_in or 0)
    batch = 1
    while 2 * batch * 8 <= n_behind:
        batch *= 2
    origin = batch if burn_in is None else burn_in
    values, rates = [], []
    for column in growth.T:
        values.append(math.fsum(column[origin + 1 :]) / float(steps[-1] - steps[origin]))
        rates.append(
            [
                math.fsum(column[row + 1 : row + batch + 1]) / float(steps[row + batch] - steps[row])
                for row in range(origin, len(steps) - batch, batch)
            ]
        )
    return values, rates, batch


Step = Callable[[Floats], tuple[Floats, Callable[[Floats], Floats]]]
"""A state `(d,)` to the next one, and what the derivative of the step does to vectors `(d, k)`."""


def tangent_growth(step: Step, state: Floats, vectors: Floats, n_rows: int, steps_per_row: int = 1) -> Floats:
    """Growth series `(n_rows, k)` of orthonormal tangent vectors `(d, k)`; row 0 is 0."""
    rows = [np.zeros(vectors.shape[1])]
    for _ in range(n_rows - 1):
        for _ in range(steps_per_row):
            state, apply = step(state)
            vectors = apply(vectors)
        vectors, triangle = np.linalg.qr(vectors)
        rows.append(np.log(np.abs(np.diag(triangle))))
    return np.array(rows)


def logistic(state: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Logistic map at r = 4, states `(1,)`."""
    x = float(state[0])
    return np.array([4.0 * x * (1.0 - x)]), lambda v: (4.0 - 8.0 * x) * v


def henon(state: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Hénon map at a = 1.4, b = 0.3, states `(2,)`."""
    x, y = float(state[0]), float(state[1])
    jacobian = np.array([[-2.8 * x, 1.0], [0.3, 0.0]])
    return np.array([1.0 - 1.4 * x * x + y, 0.3 * x]), lambda v: np.asarray(jacobian @ v)


def lorenz(state: Floats, dt: float = 0.01) -> tuple[Floats, Callable[[Floats], Floats]]:
    """One Runge-Kutta step of the Lorenz system, states `(3,)`, and the exact derivative of that step."""

    def field(u: Floats) -> tuple[Floats, Floats]:
        x, y, z = u.tolist()
        value = np.array([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])
        return value, np.array([[-10.0, 10.0, 0.0], [28.0 - z, -1.0, -x], [y, x, -8.0 / 3.0]])

    one = np.eye(3)
    k1, j1 = field(state)
    k2, j2 = field(state + 0.5 * dt * k1)
    k3, j3 = field(state + 0.5 * dt * k2)
    k4, j4 = field(state + dt * k3)
    d1 = j1
    d2 = j2 @ (one + 0.5 * dt * d1)
    d3 = j3 @ (one + 0.5 * dt * d2)
    d4 = j4 @ (one + dt * d3)
    jacobian = one + dt / 6.0 * (d1 + 2.0 * d2 + 2.0 * d3 + d4)
    return state + dt / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4), lambda v: np.asarray(jacobian @ v)


def lifted(step: Step, columns: Floats) -> Step:
    """Lift the derivative J along the same orbit to more dimensions: `Q J Q^T` with orthonormal columns Q.

    A lifted orbit would part from the flat one within a hundred chaotic steps, by rounding.
    """

    def of_lifted(state: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
        following, apply = step(state)
        return following, lambda v: np.asarray(columns @ apply(columns.T @ v))

    return of_lifted
