"""Near returns and their growth by plain loops, and trajectories of flows whose exponents are known."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.oracles.naive import slope

Floats = NDArray[np.float64]

LORENZ = 0.9056
"""Largest exponent at (10, 28, 8/3), per time unit."""

ROSSLER = 0.0714
"""Largest exponent at (.2, .2, 5.7), per time unit."""


def lorenz(s: Floats) -> Floats:
    """Velocity at a state `(3,)`."""
    x, y, z = s
    return np.array([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])


def rossler(s: Floats) -> Floats:
    """Velocity at a state `(3,)`."""
    x, y, z = s
    return np.array([-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)])


def flow(velocity: Callable[[Floats], Floats], start: Floats, sampling: float, n_rows: int, n_skipped: int) -> Floats:
    """States `(n_rows, 3)` every `sampling` time units, by Runge-Kutta steps of at most 0.01."""
    n_inner = math.ceil(sampling / 0.01)
    h, s, rows = sampling / n_inner, start, []
    for row in range(n_skipped + n_rows):
        if row >= n_skipped:
            rows.append(s)
        for _ in range(n_inner):
            a = velocity(s)
            b = velocity(s + h / 2.0 * a)
            c = velocity(s + h / 2.0 * b)
            s = s + h / 6.0 * (a + 2.0 * b + 2.0 * c + velocity(s + h * c))
    return np.array(rows)


def distance(a: Floats, b: Floats) -> float:
    """Euclidean distance."""
    return math.sqrt(math.fsum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def size(states: Floats) -> float:
    """Geometric mean of all distances between different states."""
    logs = [math.log(d) for i, a in enumerate(states) for b in states[:i] if (d := distance(a, b)) > 0.0]
    return math.exp(math.fsum(logs) / len(logs))


def has_left(states: Floats, i: int, j: int, radius: float) -> bool:
    """Whether the trajectory was farther than `radius` from row i somewhere from row i to row j, j included."""
    way = range(i + 1, j + 1) if j > i else range(j, i)
    return any(distance(states[i], states[k]) > radius for k in way)


def nearest_returns(states: Floats, n: int, radius: float, left: float, theiler: int) -> list[tuple[int, int]]:
    """Each of the first n rows with the nearest other of them that is a return within `radius`."""
    pairs = []
    for i in range(n):
        best, partner = math.inf, -1
        for j in range(n):
            d = distance(states[i], states[j])
            if abs(i - j) >= theiler and d <= radius and d < best and has_left(states, i, j, left):
                best, partner = d, j
        if partner >= 0:
            pairs.append((i, partner))
    return pairs


def separation(states: Floats, i: int, j: int, across: bool) -> float:
    """Distance of rows i and j, across the mean of their central differences if `across`."""
    apart = states[i] - states[j]
    if across:
        motion = np.zeros_like(apart)
        for row in (i, j):
            ahead, behind = min(row + 1, len(states) - 1), max(row - 1, 0)
            motion += (states[ahead] - states[behind]) / (ahead - behind)
        motion = motion / distance(motion, np.zeros_like(motion))
        apart = apart - float(apart @ motion) * motion
    return distance(apart, np.zeros_like(apart))


def mean_growth(states: Floats, pairs: list[tuple[int, int]], n_lags: int, across: bool, top: float) -> list[float]:
    """Mean log separation at each lag, up to the first above `top`."""
    curve: list[float] = []
    for lag in range(n_lags):
        logs = [math.log(separation(states, i + lag, j + lag, across)) for i, j in pairs]
        curve.append(math.fsum(logs) / len(logs))
        if curve[-1] > top:
            break
    return curve


def window_slope(curve: list[float], top: float) -> tuple[int, int, float]:
    """First lag after growth by half, last lag under `top`, and the slope between them."""
    first = next(lag for lag, c in enumerate(curve) if c >= curve[0] + math.log(1.5))
    last = next(lag for lag, c in enumerate(curve) if c > top) - 1
    return first, last, slope(np.arange(first, last + 1.0), np.array(curve[first : last + 1]))
