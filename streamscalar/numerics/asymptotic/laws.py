"""Candidate laws of rescaled spacings and their fits by maximum likelihood.

References
----------
.. [1] A. Azzalini, Scandinavian Journal of Statistics 12, 171 (1985): the skew normal law.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from streamscalar.types import Status

Floats = NDArray[np.float64]

LARGEST_SKEW = 100.0
"""Bound on the magnitude of the shape of the skew normal; beyond it the law is nearly a half normal."""

POWERS = (0.3, 20.0)
"""Bounds on the exponent of the generalised normal, from a cusp to nearly uniform."""

FREEDOMS = (0.5, 100.0)
"""Bounds on the degrees of freedom of Student's t, from heavier than Cauchy to nearly normal."""

_CHUNK = 32


@dataclass(frozen=True, slots=True)
class SpacingFit:
    """One candidate law fitted by maximum likelihood.

    Attributes
    ----------
    name
        Name of the law, `skew lognormal` for a skew normal law of log10 of the spacing.
    parameters
        Parameters by name; `loc` and `scale` of the skew lognormal are in units of log10.
    log_likelihood, aic
        Of the spacing itself for every law (the skew lognormal includes its Jacobian), so that they are comparable.
        Natural logarithm; `aic` is 2 k - 2 log likelihood with k parameters.
    ks
        Largest distance between empirical and fitted distribution function, in [0, 1].
    ks_p_value
        p-value of `ks`, in [0, 1].
    ks_method
        How it was computed: `plain: an upper bound, the parameters were fitted`, or `parametric bootstrap, n = ...`.
    status
        `ok`; `not_converged` where a shape reached its bound. The numbers are then those at the bound: the shape is
        no estimate, and the likelihood is a lower bound on that of the limit law, which the message names.
    message
        What happened; empty where `status` is `ok`.
    """

    name: str
    parameters: Mapping[str, float]
    log_likelihood: float
    aic: float
    ks: float
    ks_p_value: float
    ks_method: str
    status: Status
    message: str


def _stats() -> Any:
    # Importing it takes as long as all else that an analysis imports, and most settings have no spacings to fit.
    from scipy import stats

    return stats


def p_value_of(observed: float, drawn: Floats) -> float:
    """Return the share of draws, the observation among them, that reach the observation up to rounding."""
    return (1 + int((drawn >= observed * (1.0 - 1e-12)).sum())) / (1 + len(drawn))


SKEW_PARAMETERS = ("shape", "loc", "scale")
"""Names of the parameters of the skew normal, in SciPy's order."""


@dataclass(frozen=True, slots=True)
class Law:
    """A candidate: its name in `scipy.stats`, its parameters in SciPy's order, and its maximum-likelihood fit."""

    name: str
    scipy_name: str
    names: tuple[str, ...]
    fit: Callable[[Floats], tuple[float, ...]]
    bounds: tuple[float, float] | None = None
    limits: tuple[str, str] = ("", "")
    is_of_log10: bool = False

    @property
    def distribution(self) -> Any:
        """The distribution of SciPy."""
        return getattr(_stats(), self.scipy_name)

    def log_likelihood(self, spacings: Floats, parameters: tuple[float, ...]) -> float:
        """Return the log likelihood of the spacings themselves."""
        if not self.is_of_log10:
            return float(self.distribution.logpdf(spacings, *parameters).sum())
        jacobian = -np.log(spacings * math.log(10.0))
        return float((self.distribution.logpdf(np.log10(spacings), *parameters) + jacobian).sum())

    def at_bound(self, parameters: tuple[float, ...]) -> str:
        """Return the limit law where the shape reached its bound, else an empty string."""
        if self.bounds is None:
            return ""
        low, high = self.bounds
        if parameters[0] <= low + 0.01 * abs(low):
            return self.limits[0]
        return self.limits[1] if parameters[0] >= 0.99 * high else ""

    def ks(self, x: Floats, parameters: tuple[float, ...]) -> float:
        """Return the Kolmogorov-Smirnov distance of values `(n,)` on the scale of the law."""
        share = np.asarray(self.distribution.cdf(np.sort(x), *parameters))
        ranks = np.arange(len(x) + 1) / len(x)
        return float(max((ranks[1:] - share).max(), (share - ranks[:-1]).max()))


def fit_law(law: Law, spacings: Floats, n_bootstrap: int, rng: np.random.Generator | None) -> SpacingFit:
    """Return the maximum-likelihood fit of one law to spacings `(n,)` over 0; `fit_spacings` describes the rest."""
    x = np.log10(spacings) if law.is_of_log10 else spacings
    parameters = law.fit(x)
    log_likelihood = law.log_likelihood(spacings, parameters)
    distance = law.ks(x, parameters)
    p_value = float(_stats().kstwo.sf(distance, len(x)))
    method = "plain: an upper bound, the parameters were fitted"
    if n_bootstrap and rng is not None:
        draws = law.distribution.rvs(*parameters, size=(n_bootstrap, len(x)), random_state=rng)
        p_value = p_value_of(distance, np.array([law.ks(draw, law.fit(draw)) for draw in draws]))
        method = f"parametric bootstrap, n = {n_bootstrap}"
    limit = law.at_bound(parameters)
    status = Status.NOT_CONVERGED if limit else Status.OK
    message = f"The shape reached its bound, towards {limit}; the likelihood is a lower bound." if limit else ""
    named = dict(zip(law.names, parameters, strict=True))
    aic = 2.0 * len(parameters) - 2.0 * log_likelihood
    return SpacingFit(law.name, named, log_likelihood, aic, distance, p_value, method, status, message)


def _standardised(x: Floats) -> tuple[Floats, float, float]:
    """Return values of mean 0 and standard deviation 1, and the mean and standard deviation of `x`."""
    mean, deviation = float(x.mean()), float(x.std())
    return (x - mean) / deviation, mean, deviation


def _minimum(cost: Callable[[Floats], float], starts: Sequence[Sequence[float]], bounds: Any) -> list[float]:
    """Return the best of the minima reached from every start."""
    found = [optimize.minimize(cost, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    return [float(value) for value in min(found, key=lambda result: float(result.fun)).x]


def _normal(x: Floats) -> tuple[float, ...]:
    return float(x.mean()), float(x.std())


def _laplace(x: Floats) -> tuple[float, ...]:
    middle = float(np.median(x))
    return middle, float(np.abs(x - middle).mean())


def _logistic(x: Floats) -> tuple[float, ...]:
    values, mean, deviation = _standardised(x)

    def cost(at: Floats) -> float:
        z = (values - at[0]) * math.exp(-at[1])
        return float((z + 2.0 * np.logaddexp(0.0, -z)).sum() + len(z) * at[1])

    # Concave in (1 / scale, loc / scale), so one start is enough.
    loc, log_scale = _minimum(cost, [(0.0, -0.6)], [(None, None), (-12.0, 3.0)])
    return mean + deviation * loc, deviation * math.exp(log_scale)


def _student(x: Floats) -> tuple[float, ...]:
    values, mean, deviation = _standardised(x)

    def cost(at: Floats) -> float:
        freedom = math.exp(at[2])
        z = (values - at[0]) * math.exp(-at[1])
        norm = at[1] + 0.5 * math.log(freedom * math.pi) + math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)
        return float(0.5 * (freedom + 1.0) * np.log1p(z * z / freedom).sum() + len(z) * norm)

    middle = float(np.median(values))
    width = max(1.48 * float(np.median(np.abs(values - middle))), 0.01)
    low, high = math.log(FREEDOMS[0]), math.log(FREEDOMS[1])
    starts = [(middle, math.log(width), math.log(1.5)), (middle, math.log(width), math.log(5.0)), (0.0, -0.05, high)]
    loc, log_scale, log_freedom = _minimum(cost, starts, [(None, None), (-12.0, 3.0), (low, high)])
    return math.exp(log_freedom), mean + deviation * loc, deviation * math.exp(log_scale)


def _general_normal(x: Floats) -> tuple[float, ...]:
    """Fit by the profile over the exponent, where the scale has a closed form."""
    values, mean, deviation = _standardised(np.sort(x))
    n = len(values)
    stride = max(1, n // 64)

    def spent(loc: float, power: float) -> float:
        return float((np.abs(values - loc) ** power).sum())

    def location(power: float) -> float:
        if power > 1.0:  # one smooth minimum
            found = optimize.minimize_scalar(
                spent, bounds=(values[0], values[-1]), args=(power,), method="bounded", options={"xatol": 1e-7}
            )
            return float(found.x)
        # Concave between neighbours, so every minimum is at a value; search a few values, then around the best.
        coarse = [spent(at, power) for at in values[::stride]]
        first = max(0, int(np.argmin(coarse)) - 1) * stride
        near = values[first : first + 2 * stride + 1]
        return float(near[int(np.argmin([spent(at, power) for at in near]))])

    def scale(loc: float, power: float) -> float:
        return float((power * spent(loc, power) / n) ** (1.0 / power))

    def cost(log_power: float) -> float:
        power = math.exp(log_power)
        width = scale(location(power), power)
        return n * (math.log(2.0 * width / power) + math.lgamma(1.0 / power) + 1.0 / power)

    grid = np.linspace(math.log(POWERS[0]), math.log(POWERS[1]), 24)
    best = int(np.argmin([cost(at) for at in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    power = math.exp(float(optimize.minimize_scalar(cost, bounds=bounds, method="bounded").x))
    loc = location(power)
    return power, mean + deviation * loc, deviation * scale(loc, power)


def fit_skew_normals(x: Floats) -> Floats:
    """Return shape, loc and scale `(B, 3)` of the skew normal law [1]_ for each row of values `(B, n)`.

    For a given shape the likelihood is concave in (1 / scale, loc / scale), so Newton's method finds its one maximum
    from anywhere. What remains is a search in one dimension: a grid, then golden section.
    """
    return np.concatenate([_skew_normal_chunk(x[first : first + _CHUNK]) for first in range(0, len(x), _CHUNK)])


def _skew_normal_chunk(x: Floats) -> Floats:
    mean, deviation = x.mean(axis=1), x.std(axis=1)
    values = ((x - mean[:, None]) / deviation[:, None])[:, None, :]
    grid = np.linspace(-math.asinh(LARGEST_SKEW), math.asinh(LARGEST_SKEW), 21)
    shapes = np.broadcast_to(np.sinh(grid), (len(x), len(grid)))
    profile, found = _given_shape(values, shapes, _moments(shapes))
    best = np.argmax(profile, axis=1)[:, None]
    near = np.take_along_axis(found[0], best, 1), np.take_along_axis(found[1], best, 1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = (_given_shape(values, np.sinh(at), near)[0] for at in (left, right))
    for _ in range(22):  # down to 3e-5 of the bracket
        go_left = at_left > at_right
        low, high = np.where(go_left, low, left), np.where(go_left, right, high)
        new = np.where(go_left, high - golden * (high - low), low + golden * (high - low))
        at_new, _ = _given_shape(values, np.sinh(new), near)
        left, right = np.where(go_left, new, right), np.where(go_left, left, new)
        at_left, at_right = np.where(go_left, at_new, at_right), np.where(go_left, at_left, at_new)
    shape = np.sinh((low + high) / 2.0)
    _, (inverse, ratio) = _given_shape(values, shape, near)
    loc = mean + deviation * (ratio / inverse)[:, 0]
    return np.stack([shape[:, 0], loc, deviation / inverse[:, 0]], axis=1)


def _moments(shape: Floats) -> tuple[Floats, Floats]:
    """Return 1 / scale and loc / scale of the skew normal laws of mean 0 and variance 1."""
    delta = shape / np.sqrt(1.0 + shape**2)
    return np.sqrt(1.0 - 2.0 * delta**2 / math.pi), -delta * math.sqrt(2.0 / math.pi)


def _given_shape(values: Floats, shape: Floats, start: tuple[Floats, Floats]) -> tuple[Floats, tuple[Floats, Floats]]:
    """Return the largest log likelihood for each shape `(B, G)`, less a constant, and (1 / scale, loc / scale) there.

    Uses damped Newton steps on values `(B, 1, n)`.
    """
    u, v = start
    length = np.ones_like(u)
    now = _derivatives(values, shape, u, v)
    for _ in range(60):
        value, gu, gv, huu, huv, hvv = now
        determinant = huu * hvv - huv * huv
        du, dv = (huv * gv - hvv * gu) / determinant, (huv * gu - huu * gv) / determinant
        if float((gu * du + gv * dv).max()) < 1e-9:
            break
        new_u, new_v = u + length * du, v + length * dv
        new = _derivatives(values, shape, new_u, new_v)
        better = new[0] >= value
        u, v = np.where(better, new_u, u), np.where(better, new_v, v)
        now = tuple(np.where(better, after, before) for after, before in zip(new, now, strict=True))
        length = np.where(better, np.minimum(1.0, 2.0 * length), 0.5 * length)
    return now[0], (u, v)


def _derivatives(values: Floats, shape: Floats, u: Floats, v: Floats) -> tuple[Floats, ...]:
    """Return log likelihood, gradient and Hessian over (u, v), each `(B, G)`."""
    n = values.shape[-1]
    z = u[..., None] * values - v[..., None]
    a = shape[..., None]
    log_tail = special.log_ndtr(a * z)
    mills = np.exp(-0.5 * (a * z) ** 2 - 0.5 * math.log(2.0 * math.pi) - log_tail)
    first = a * mills - z
    second = -1.0 - a * mills * (a * a * z + a * mills)
    size = np.maximum(u, 1e-12)
    value = n * np.log(size) + (log_tail - 0.5 * z * z).sum(axis=-1)
    gradient = n / size + (first * values).sum(axis=-1), -first.sum(axis=-1)
    mixed = second * values
    hessian = (mixed * values).sum(axis=-1) - n / size**2, -mixed.sum(axis=-1), second.sum(axis=-1)
    return np.where(u > 0.0, value, -np.inf), *gradient, *hessian


def _one_skew_normal(x: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in fit_skew_normals(x[None])[0])


_SKEW_BOUNDS = (-LARGEST_SKEW, LARGEST_SKEW)
_HALVES = ("a half normal to the left", "a half normal to the right")
LAWS = (
    Law("normal", "norm", ("loc", "scale"), _normal),
    Law("skew normal", "skewnorm", SKEW_PARAMETERS, _one_skew_normal, _SKEW_BOUNDS, _HALVES),
    Law("student t", "t", ("df", "loc", "scale"), _student, FREEDOMS, ("heavier tails", "a normal law")),
    Law("laplace", "laplace", ("loc", "scale"), _laplace),
    Law("logistic", "logistic", ("loc", "scale"), _logistic),
    Law(
        "generalised normal",
        "gennorm",
        SKEW_PARAMETERS,
        _general_normal,
        POWERS,
        ("a sharper cusp", "a uniform law"),
    ),
    Law("skew lognormal", "skewnorm", SKEW_PARAMETERS, _one_skew_normal, _SKEW_BOUNDS, _HALVES, is_of_log10=True),
)


def log_likelihood(name: str, spacings: Floats, parameters: tuple[float, ...]) -> float:
    """Return the log likelihood of spacings `(n,)` over 0 under a law of `LAWS`, at given parameters.

    Examples
    --------
    >>> round(log_likelihood("normal", np.array([0.5, 1.5]), (1.0, 1.0)), 4)
    -2.0879
    """
    law = next(law for law in LAWS if law.name == name)
    return law.log_likelihood(spacings, parameters)
