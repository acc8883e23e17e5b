"""Slow and obvious versions of the numerics, from the definitions, for small inputs."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def l1_distance(a: Floats, b: Floats) -> float:
    """Sum of absolute differences, exactly rounded."""
    return math.fsum(abs(float(x) - float(y)) for x, y in zip(a, b, strict=True))


def rms_distance(a: Floats, b: Floats) -> float:
    """Root of the mean squared difference, with an exactly rounded sum."""
    return math.sqrt(math.fsum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)) / len(a))


def classical_scaling(snapshots: Floats, n_components: int) -> tuple[Floats, Floats]:
    """Eigenvalues `(K,)` and coordinates `(N, K)` from the doubly centred squared RMS distances."""
    n = len(snapshots)
    squared = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            squared[i, j] = rms_distance(snapshots[i], snapshots[j]) ** 2
    centring = np.eye(n) - np.ones((n, n)) / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ squared @ centring)
    values, vectors = np.maximum(values[::-1], 0.0)[:n_components], vectors[:, ::-1][:, :n_components]
    return values, vectors * np.sqrt(values)


def slope(x: Floats, y: Floats) -> float:
    """Least-squares slope by its normal equation."""
    n = len(x)
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    top = math.fsum((float(a) - mean_x) * (float(b) - mean_y) for a, b in zip(x, y, strict=True))
    return top / math.fsum((float(a) - mean_x) ** 2 for a in x)


def amplitude_window(log_d: Floats) -> tuple[int, int]:
    """First and last row of the window from row 1 until d first exceeds 1 % of its level at the end."""
    n = len(log_d)
    level = math.fsum(log_d[n - max(2, n // 5) :]) / max(2, n // 5)
    last = 0
    for row in range(n):
        if log_d[row] > level + math.log(0.01):
            break
        last = row
    return 1, last
