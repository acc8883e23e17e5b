"""Divergence curves of dynamical systems whose exponents are known."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOGISTIC = float(np.log(2.0))
HENON = 0.41922
"""Largest exponent of the Hénon map at a = 1.4, b = 0.3."""


def logistic(x: Floats) -> Floats:
    """One step at r = 4, for states `(..., 1)`."""
    return 4.0 * x * (1.0 - x)


def henon(x: Floats) -> Floats:
    """One step at a = 1.4, b = 0.3, for states `(..., 2)`."""
    return np.stack([1.0 - 1.4 * x[..., 0] ** 2 + x[..., 1], 0.3 * x[..., 0]], axis=-1)


def trajectories(
    step: Callable[[Floats], Floats], start: Floats, epsilon: float, n_perturbed: int, n_steps: int, seed: int
) -> Floats:
    """States `(n_steps + 1, 1 + n_perturbed, dimension)` of a reference and its perturbed replicas."""
    rng = np.random.default_rng(seed)
    nudge = rng.uniform(-epsilon, epsilon, (1 + n_perturbed, len(start)))
    nudge[0] = 0.0
    states = [start + nudge]
    for _ in range(n_steps):
        states.append(step(states[-1]))
    return np.array(states)


def lift(states: Floats, n_parameters: int, seed: int) -> Floats:
    """States `(..., dimension)` turned into `(..., n_parameters)` by random orthonormal columns."""
    rng = np.random.default_rng(seed)
    columns = np.linalg.qr(rng.standard_normal((n_parameters, states.shape[-1])))[0]
    return np.asarray(states @ columns.T)


def mean_divergence(
    step: Callable[[Floats], Floats], attractor: Floats, epsilon: float, n_steps: int, seed: int
) -> Floats:
    """Geometric mean of the separations from many starts `(n, dimension)`, as a curve `(n_steps + 1, 1)`."""
    curves = []
    for index, start in enumerate(attractor):
        states = trajectories(step, start, epsilon, 1, n_steps, seed + index)
        curves.append(np.log(np.abs(states[:, 1] - states[:, 0]).sum(axis=1)))
    return np.asarray(np.exp(np.mean(curves, axis=0))[:, None])
