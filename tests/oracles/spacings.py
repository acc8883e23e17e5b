"""Spacings, their laws and tests by definition, in plain loops; the drift test with its covariance written out."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Floats = NDArray[np.float64]
Parameters = Sequence[float]


def rescaled(states: Sequence[float]) -> list[float]:
    """Gaps between neighbours in sorted order, each over the mean gap."""
    ordered = sorted(states)
    gaps = [high - low for low, high in pairwise(ordered)]
    mean = math.fsum(gaps) / len(gaps)
    return [gap / mean for gap in gaps]


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _skew_normal(x: float, p: Parameters) -> float:
    z = (x - p[1]) / p[2]
    return 2.0 / p[2] * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) * _below(p[0] * z)


def _student(x: float, p: Parameters) -> float:
    z = (x - p[1]) / p[2]
    norm = math.gamma((p[0] + 1.0) / 2.0) / math.gamma(p[0] / 2.0) / math.sqrt(p[0] * math.pi)
    return norm / p[2] * math.pow(1.0 + z * z / p[0], -(p[0] + 1.0) / 2.0)


def _logistic(x: float, p: Parameters) -> float:
    e = math.exp(-abs((x - p[0]) / p[1]))
    return e / (p[1] * (1.0 + e) ** 2)


def _general_normal(x: float, p: Parameters) -> float:
    peak = p[0] / (2.0 * p[2] * math.gamma(1.0 / p[0]))
    return float(peak * math.exp(-math.pow(abs(x - p[1]) / p[2], p[0])))


DENSITIES: dict[str, Callable[[float, Parameters], float]] = {
    "normal": lambda x, p: math.exp(-0.5 * ((x - p[0]) / p[1]) ** 2) / (p[1] * math.sqrt(2.0 * math.pi)),
    "skew normal": _skew_normal,
    "student t": _student,
    "laplace": lambda x, p: math.exp(-abs(x - p[0]) / p[1]) / (2.0 * p[1]),
    "logistic": _logistic,
    "generalised normal": _general_normal,
    # The density of s where log10 s is skew normal: that of log10 s times d(log10 s)/ds.
    "skew lognormal": lambda x, p: _skew_normal(math.log10(x), p) / (x * math.log(10.0)),
}
"""Density of a spacing by name of the law; parameters in the order shape, loc, scale."""


def log_likelihood(name: str, spacings: Sequence[float], parameters: Parameters) -> float:
    """Sum of log densities; a density that underflowed to 0 counts as e^-700."""
    density = DENSITIES[name]
    return math.fsum(math.log(density(float(x), parameters) or math.exp(-700.0)) for x in spacings)


def best_likelihood(
    name: str, spacings: Sequence[float], starts: Sequence[Parameters], bounds: Sequence[tuple[float, float]]
) -> float:
    """Largest log likelihood that a simplex search reaches from any start."""
    found = [
        optimize.minimize(
            lambda p: -log_likelihood(name, spacings, p),
            start,
            method="Nelder-Mead",
            bounds=bounds,
            options={"xatol": 1e-6, "fatol": 1e-8, "maxiter": 600},
        )
        for start in starts
    ]
    return max(-float(result.fun) for result in found)


def k_sample(samples: Sequence[Sequence[float]]) -> float:
    """Scholz and Stephens, equation 6: a sum over the distinct pooled values but the largest."""
    pooled = [value for sample in samples for value in sample]
    n = len(pooled)
    total = 0.0
    for sample in samples:
        inner = 0.0
        for at in sorted(set(pooled))[:-1]:
            multiplicity = sum(value == at for value in pooled)
            below = sum(value <= at for value in pooled)
            own = sum(value <= at for value in sample)
            inner += multiplicity * (n * own - len(sample) * below) ** 2 / (below * (n - below))
        total += inner / len(sample)
    return total / n


def distance_from(spacings: Sequence[float], law: Sequence[float]) -> float:
    """Anderson and Darling's distance from the law of which `law` are draws."""
    ordered, n = sorted(spacings), len(spacings)
    shares = [(sum(draw < x for draw in law) + 0.5) / (len(law) + 1.0) for x in ordered]
    total = math.fsum((2 * i + 1) * (math.log(shares[i]) + math.log(1.0 - shares[n - 1 - i])) for i in range(n))
    return -n - total / n


def trend_ratio(rows: Sequence[float]) -> tuple[float, float, float]:
    """Slope per row over its error, slope, and effective number, of means of two rows with explicit covariance."""
    first = len(rows) % 2
    y = np.array([(rows[i] + rows[i + 1]) / 2.0 for i in range(first, len(rows), 2)])
    n = len(y)
    design = np.array([[1.0, float(i)] for i in range(n)])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    square = sum(r * r for r in residual)
    one = sum(residual[i] * residual[i + 1] for i in range(n - 1)) / square
    two = sum(residual[i] * residual[i + 2] for i in range(n - 2)) / square
    raw = max(one, math.sqrt(two)) if two > 0.0 else one
    rho = min(0.99, max(-0.99, (n * raw + 2.0) / (n - 4.0)))
    # With unit innovations, the covariance of a first-order autoregression.
    covariance = np.array([[rho ** abs(i - j) / (1.0 - rho**2) for j in range(n)] for i in range(n)])
    inverse = np.linalg.inv(covariance)
    normal = np.linalg.inv(design.T @ inverse @ design)
    beta = normal @ design.T @ inverse @ y
    left = y - design @ beta
    error = math.sqrt(float(left @ inverse @ left) / (n - 3) * float(normal[1, 1]))
    return float(beta[1]) / error, float(beta[1]) / 2.0, min(n, max(4.0, n * (1.0 - rho) / (1.0 + rho)))
