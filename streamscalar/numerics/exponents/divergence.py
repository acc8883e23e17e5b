"""Exponents of divergence curves: the rate at which replicas leave their reference, per training step.

`ftle` is the finite-time exponent over the whole growth, defined whenever separations are positive: it separates
regular from sensitive training. `nmle` is the exponent of an exponential phase [1]_ [2]_ and exists only where there
is one. The recipe of [1]_ selects the window of best linear fit among many; where growth ends early it selects the
saturated plateau, a perfect line of slope 0. Here the window is bounded by amplitude.

References
----------
.. [1] D. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv 2404.05782.
.. [2] P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv 2506.08523.
"""

import math

import numpy as np
from numpy.typing import NDArray

from streamscalar.numerics.exponents.curves import (
    HUNDREDFOLD,
    LEAST_REPLICAS,
    Average,
    mean_log,
    saturation_level,
)
from streamscalar.numerics.intervals import student
from streamscalar.types import Estimate, Status

PHASE_GROWTH = math.log(10.0)
"""Growth of `ln d` inside the fitted window that an exponential phase needs.

Linear growth over T rows grows at most T / 100-fold there: tenfold excludes it up to 1,000 rows, and beyond, the
window is long enough to detect a power law.
"""

LEAST_FIT_ROWS = 4
"""Least rows in a fitted window: two for the parameters and two to test the fit."""

LEAST_RIVAL_ROWS = 10
"""Least rows for which a power law is distinguished from an exponential."""

POWER_LAW_SHARE = 0.25
"""A power law is reported where it leaves less than this share of the squared residuals of the exponential."""


def ftle(
    steps: NDArray[np.int64],
    divergence: NDArray[np.float64],
    average: Average = "mean_log",
    confidence: float = 0.95,
) -> Estimate:
    """Estimate the finite-time exponent over the growth of separations.

    The slope of the averaged `ln d` between its end points: from the first row to saturation, or to the last
    row where separations did not grow a hundredfold and then level off. Defined whenever every separation is
    positive, also for contraction (then it is negative) and for growth that is not exponential.

    Parameters
    ----------
    steps
        Training step of each row, `(T,)`, rising.
    divergence
        Distances of the perturbed replicas from the reference, `(T, M)`.
    average
        See `mean_log`.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        Value in 1 per step; `n` is M. With three or more replicas, `low` and `high` are Student's interval
        over the slopes of the replicas on the common window: the spread inside one run, not over other initial
        conditions. Statuses: `too_few_replicas` (M = 0), `too_few_rows` (under two), `non_finite`, `contracted`
        (a separation reached 0).

    Examples
    --------
    >>> steps = np.arange(50)
    >>> round(ftle(steps, np.exp(0.3 * steps)[:, None]).value, 6)
    0.3
    """
    method = f"ftle, end points, {average}"
    failed = _unusable(divergence, 2, method)
    if failed is not None:
        return failed
    log_d = mean_log(divergence, average)
    saturation = saturation_level(log_d)
    last = saturation.row if saturation.is_of_growth else len(log_d) - 1
    span = float(steps[last] - steps[0])
    value = float(log_d[last] - log_d[0]) / span
    slopes = (np.log(divergence[last]) - np.log(divergence[0])) / span
    end = "saturation" if saturation.is_of_growth else "the last row"
    window = (int(steps[0]), int(steps[last]))
    return _with_interval(value, slopes, confidence, method, window, f"First row to {end}.")


def nmle(
    steps: NDArray[np.int64],
    divergence: NDArray[np.float64],
    average: Average = "mean_log",
    confidence: float = 0.95,
) -> Estimate:
    """Estimate the exponent of the exponential phase, where there is one.

    Least-squares slope of the averaged `ln d` from the second row (the first carries the shape of the initial
    perturbation, not of the dynamics) to the last row before d first exceeds 1 % of its saturated value. The
    window is bounded by amplitude, so it cannot slide onto the plateau.

    Parameters
    ----------
    steps
        Training step of each row, `(T,)`, rising.
    divergence
        Distances of the perturbed replicas from the reference, `(T, M)`.
    average
        See `mean_log`.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        Value in 1 per step, with interval and `n` as for `ftle`. Statuses beyond those of `ftle`:
        `no_exponential_phase` (less than hundredfold growth, or less than tenfold inside the window, or, in
        windows of `LEAST_RIVAL_ROWS` rows or more, a power law of the step that leaves under `POWER_LAW_SHARE`
        of the squared residuals), `not_saturated` (hundredfold growth, but no plateau yet), `too_few_rows` (fewer
        than `LEAST_FIT_ROWS` rows recorded inside the phase).

    Examples
    --------
    >>> steps = np.arange(200)
    >>> curve = np.minimum(1e-8 * np.exp(0.7 * steps), 10.0)
    >>> found = nmle(steps, curve[:, None])
    >>> round(found.value, 6), found.window
    (0.7, (1, 23))
    """
    method = f"nmle, amplitude-bounded least squares, {average}"
    failed = _unusable(divergence, LEAST_FIT_ROWS, method)
    if failed is not None:
        return failed
    n_replicas = divergence.shape[1]
    log_d = mean_log(divergence, average)
    saturation = saturation_level(log_d)
    if saturation.growth < HUNDREDFOLD:
        grown = f"Separations grew {math.exp(saturation.growth):.3g}-fold."
        return Estimate.failed(Status.NO_EXPONENTIAL_PHASE, n=n_replicas, method=method, what=grown)
    if not saturation.is_reached:
        return Estimate.failed(Status.NOT_SATURATED, n=n_replicas, method=method)
    stop = max(1, int(np.argmax(log_d > saturation.level - HUNDREDFOLD)))
    if stop - 1 < LEAST_FIT_ROWS:
        what = f"{stop - 1} rows were recorded between the first row and 1 % of saturation."
        return Estimate.failed(Status.TOO_FEW_ROWS, n=n_replicas, method=method, what=what)
    window = (int(steps[1]), int(steps[stop - 1]))
    inside = steps[1:stop].astype(np.float64)
    value, residual = _line(inside, log_d[1:stop])
    if value * (inside[-1] - inside[0]) < PHASE_GROWTH:
        what = "Separations grow less than tenfold before they reach 1 % of their plateau."
        return Estimate.failed(Status.NO_EXPONENTIAL_PHASE, n=n_replicas, method=method, what=what, window=window)
    if len(inside) >= LEAST_RIVAL_ROWS:
        _, rival = _line(np.log(inside - float(steps[0])), log_d[1:stop])
        if rival < POWER_LAW_SHARE * residual:
            what = "Separations grow like a power of the step, not exponentially."
            return Estimate.failed(Status.NO_EXPONENTIAL_PHASE, n=n_replicas, method=method, what=what, window=window)
    slopes = np.array([_line(inside, column)[0] for column in np.log(divergence[1:stop]).T])
    return _with_interval(value, slopes, confidence, method, window, "Second row to 1 % of saturation.")


def _unusable(divergence: NDArray[np.float64], least_rows: int, method: str) -> Estimate | None:
    """Return the failed estimate where no exponent can be computed, or `None`."""
    n_rows, n_replicas = divergence.shape
    if n_replicas == 0:
        return Estimate.failed(Status.TOO_FEW_REPLICAS, method=method)
    if n_rows < least_rows:
        what = f"{n_rows} rows; {least_rows} are needed."
        return Estimate.failed(Status.TOO_FEW_ROWS, n=n_replicas, method=method, what=what)
    if not np.isfinite(divergence).all():
        bad = ~np.isfinite(divergence).all(axis=1)
        what = f"First at row {int(np.argmax(bad))}."
        return Estimate.failed(Status.NON_FINITE, n=n_replicas, method=method, what=what)
    if (divergence <= 0.0).any():
        n_zero = int((divergence <= 0.0).any(axis=0).sum())
        what = f"{n_zero} of {n_replicas} replicas reached separation 0."
        return Estimate.failed(Status.CONTRACTED, n=n_replicas, method=method, what=what)
    return None


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and sum of squared residuals of the least-squares line of y over x, both `(n,)`."""
    run, rise = x - x.mean(), y - y.mean()
    slope = float(run @ rise) / float(run @ run)
    return slope, float(np.square(rise - slope * run).sum())


def _with_interval(
    value: float,
    slopes: NDArray[np.float64],
    confidence: float,
    method: str,
    window: tuple[int, int],
    message: str,
) -> Estimate:
    """Return an estimate with Student's interval over the slopes of the replicas, `(M,)`, where M >= 3."""
    n_replicas = len(slopes)
    if n_replicas < LEAST_REPLICAS:
        message += f" No interval: {n_replicas} perturbed replica{'s' if n_replicas > 1 else ''}."
        return Estimate(value, Status.OK, n=n_replicas, method=method, window=window, message=message)
    low, high = student(slopes, confidence)
    half = (high - low) / 2.0
    message += f" The interval is over the {n_replicas} perturbed replicas of one run."
    return Estimate(value, Status.OK, value - half, value + half, confidence, n_replicas, method, window, message)
