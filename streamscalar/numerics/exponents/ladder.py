"""The exponent in the limit of a vanishing perturbation, from a ladder of epsilons."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from streamscalar.errors import BadCall
from streamscalar.numerics.intervals import LEAST_INITIAL_CONDITIONS, student
from streamscalar.types import Estimate, Status

LEAST_RUNGS = 3
"""Least epsilons with an exponent for a line: two for the parameters and one to test the fit."""

ROUNDING = 1e-12
"""Deviations under this share of the largest exponent are rounding, not a misfit."""


def extrapolate(
    epsilons: NDArray[np.float64], exponents: Sequence[Sequence[Estimate]], confidence: float = 0.95
) -> Estimate:
    """Extrapolate the exponent to epsilon = 0, over initial conditions.

    A measured exponent depends on the size of the perturbation: growth from epsilon to a saturation of order 1
    takes `ln(1 / epsilon)` e-foldings, and a fixed part of them (turning towards the leading direction, folding
    before saturation) does not grow at the asymptotic rate. If that part does not depend on epsilon, the
    exponent is a straight line in `x = 1 / ln(1 / epsilon)`, and its value at x = 0 is what an infinitesimal
    perturbation would show. Each initial condition gets its own least-squares line; Student's interval is over
    their intercepts.

    Parameters
    ----------
    epsilons
        Size of the perturbation at each rung, `(E,)`, distinct, in (0, 1), E >= 3.
    exponents
        `exponents[i][e]`: the exponent of initial condition i at `epsilons[e]`, of one kind (all `nmle` or
        all `ftle`), with any status. All epsilons must have the same initial conditions.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        Value in 1 per step; `n` counts the initial conditions with at least `LEAST_RUNGS` rungs (epsilons with an
        exponent). The message holds the largest deviation from the line: the largest, over rungs, of the mean
        residual over initial conditions in its standard errors. Above Student's quantile, corrected for the number
        of rungs, it adds that the line does not fit; the value is then that of a wrong model. Statuses: `missing`
        (no initial condition), the most common failing status of the rungs (no line at all), and
        `too_few_initial_conditions` (under three lines).

    Raises
    ------
    BadCall
        If there are under three epsilons, an epsilon is repeated or outside (0, 1), an initial condition has
        another number of rungs, or `confidence` is outside (0, 1).

    Notes
    -----
    Limits that this cannot detect in general. Rungs under the resolution of the dtype: weights of order 1 do not
    change by 1e-17 in float64, and at 1e-8 in float32 most do not change at all, so such rungs measure rounding;
    leave them out. Rungs so large that growth is nonlinear from the start bend the line. Rungs without an exponent
    are left out, which biases the line if they are the slow ones. x = 0 lies beyond all rungs (from 1e-4 to 1e-12,
    x runs from .109 to .036): the error of the intercept is 1.2 times that of one exponent with five rungs from
    1e-4 to 1e-12, 3.5 times with three from 1e-8. With few initial conditions the test of the line has little power.

    Cost: `I * E` operations, under 1 ms.

    Examples
    --------
    >>> epsilons = np.array([1e-4, 1e-8, 1e-12])
    >>> def rungs(limit):
    ...     return [Estimate(limit - 2.0 / np.log(1.0 / e), Status.OK) for e in epsilons]
    >>> found = extrapolate(epsilons, [rungs(0.3), rungs(0.4), rungs(0.5)])
    >>> round(found.value, 6), round(found.low, 4), found.n
    (0.4, 0.1516, 3)
    """
    x = _abscissae(epsilons, exponents, confidence)
    method = "line in 1 / ln(1 / epsilon) at 0, student over initial conditions"
    if len(exponents) == 0:
        return Estimate.failed(Status.MISSING, method=method)
    is_there = np.array([[estimate.is_ok for estimate in rungs] for rungs in exponents])
    y = np.array([[estimate.value or 0.0 for estimate in rungs] for rungs in exponents])
    fitted = is_there.sum(axis=1) >= LEAST_RUNGS
    n_fitted = int(fitted.sum())
    seen = f"{n_fitted} of {len(exponents)} initial conditions have an exponent at {LEAST_RUNGS} epsilons or more."
    if n_fitted == 0:
        failing = Counter(estimate.status for rungs in exponents for estimate in rungs if not estimate.is_ok)
        return Estimate.failed(failing.most_common(1)[0][0], method=method, what=seen)
    is_there, y = is_there[fitted], y[fitted]
    intercepts, residuals = _lines(x, y, is_there)
    if n_fitted < LEAST_INITIAL_CONDITIONS:
        single = ", ".join(f"{value:.6g}" for value in intercepts)
        what = f"{seen} Extrapolated: {single}."
        return Estimate.failed(Status.TOO_FEW_INITIAL_CONDITIONS, n=n_fitted, method=method, what=what)
    low, high = student(intercepts, confidence)
    fit = _fit_sentence(epsilons, residuals, is_there, ROUNDING * float(np.abs(y).max()), confidence)
    value = float(intercepts.mean())
    return Estimate(value, Status.OK, low, high, confidence, n_fitted, method, message=f"{seen} {fit}")


def _abscissae(
    epsilons: NDArray[np.float64], exponents: Sequence[Sequence[Estimate]], confidence: float
) -> NDArray[np.float64]:
    """Check the arguments and return `1 / ln(1 / epsilon)`, `(E,)`."""
    if epsilons.ndim != 1 or len(epsilons) < LEAST_RUNGS:
        raise BadCall("epsilons", f"must be at least {LEAST_RUNGS} numbers", str(epsilons.shape))
    if not ((epsilons > 0.0) & (epsilons < 1.0)).all() or len(np.unique(epsilons)) < len(epsilons):
        raise BadCall("epsilons", "must be distinct and lie between 0 and 1", str(epsilons.tolist()))
    for index, rungs in enumerate(exponents):
        if len(rungs) != len(epsilons):
            raise BadCall(
                f"exponents[{index}]", f"must hold one estimate per epsilon, {len(epsilons)}", str(len(rungs))
            )
    if not 0.0 < confidence < 1.0:
        raise BadCall("confidence", "must lie between 0 and 1", str(confidence))
    return np.asarray(-1.0 / np.log(epsilons))


def _lines(
    x: NDArray[np.float64], y: NDArray[np.float64], is_there: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the value at 0, `(I,)`, and the residuals `(I, E)` of each row's line.

    `y` and residuals are 0 where there is no rung.
    """
    n = is_there.sum(axis=1)
    mean_x = np.where(is_there, x, 0.0).sum(axis=1) / n
    mean_y = y.sum(axis=1) / n
    run = np.where(is_there, x - mean_x[:, None], 0.0)
    rise = np.where(is_there, y - mean_y[:, None], 0.0)
    slopes = (run * rise).sum(axis=1) / np.square(run).sum(axis=1)
    return mean_y - slopes * mean_x, rise - slopes[:, None] * run


def _fit_sentence(
    epsilons: NDArray[np.float64],
    residuals: NDArray[np.float64],
    is_there: NDArray[np.bool_],
    rounding: float,
    confidence: float,
) -> str:
    """Return a sentence on the fit: the rung of largest deviation, and whether the line is rejected."""
    worst, worst_epsilon, too_bad, n_judged = 0.0, math.nan, False, 0
    for rung, epsilon in enumerate(epsilons):
        of_rung = residuals[is_there[:, rung], rung]
        n = len(of_rung)
        if n < LEAST_INITIAL_CONDITIONS:
            continue
        n_judged += 1
        mean, error = abs(float(of_rung.mean())), float(of_rung.std(ddof=1)) / math.sqrt(n)
        deviation = 0.0 if mean <= rounding else mean / error if error > 0.0 else math.inf
        quantile = float(special.stdtrit(n - 1, 1.0 - (1.0 - confidence) / (2.0 * len(epsilons))))
        too_bad = too_bad or deviation > quantile
        if n_judged == 1 or deviation > worst:
            worst, worst_epsilon = deviation, float(epsilon)
    if n_judged == 0:
        return "No epsilon has three exponents, so the line was not tested."
    verdict = " The line does not fit: the value is that of a wrong model." if too_bad else ""
    return f"Largest deviation from the line: {worst:.2g} standard errors, at epsilon {worst_epsilon:g}.{verdict}"
