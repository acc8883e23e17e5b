"""Exponents of divergence curves: how fast replicas leave their reference, per training step.

Two numbers. `ftle` is the finite-time exponent over the whole growth, defined whenever separations are
positive: it tells regular training from sensitive training. `nmle` is the exponent of an exponential phase
[1]_ [2]_ and exists only where there is one. The recipe of [1]_ keeps the window of best linear fit among
many; where growth ends early that chooses the saturated plateau, a perfect line of slope 0. Here the window
is bounded by amplitude.

References
----------
.. [1] D. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv 2404.05782.
.. [2] P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv 2506.08523.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.numerics.intervals import student
from streamscalar.types import Estimate, Status

Average = Literal["mean_log", "log_mean"]

HUNDREDFOLD = math.log(100.0)
"""Growth that an exponential phase needs, and the distance its window keeps from saturation."""

PLATEAU_SHARE = 0.1
"""Largest share of the whole growth that may happen from the last fifth but one to the last fifth of a
plateau.

A curve that grows exponentially to the end gains 0.2 there; one that saturated after three quarters, 0.08.
"""

PHASE_GROWTH = math.log(10.0)
"""Growth inside the fitted window that makes it a phase.

Linear growth over T rows grows at most T / 100-fold there: tenfold leaves it none up to 1,000 rows, and beyond, the
window is long enough to tell a power law.
"""

LEAST_FIT_ROWS = 4
"""Rows in a fitted window: two parameters and two rows to contradict them."""

LEAST_RIVAL_ROWS = 10
"""Rows from which a power law can be told from an exponential."""

POWER_LAW_SHARE = 0.25
"""A power law wins where it leaves less than this share of the squared residuals of the exponential."""

LEAST_REPLICAS = 3
"""Perturbed replicas from which a run has an interval of its own."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """Where a divergence curve stops growing.

    Attributes
    ----------
    level
        Mean of `ln d` over the last fifth of the rows (at least two rows).
    growth
        `level` minus the first `ln d`.
    is_reached
        Whether the last fifth is a plateau: the mean over it exceeds the mean over the fifth before by at
        most `PLATEAU_SHARE` of `growth`. False for fewer than ten rows and where nothing has grown.
    row
        First row at which d is at least half of its saturated value.
    """

    level: float
    growth: float
    is_reached: bool
    row: int

    @property
    def is_of_growth(self) -> bool:
        """Whether the plateau ends a growth of a hundredfold at least, so that it can be a saturation."""
        return self.is_reached and self.growth >= HUNDREDFOLD


def mean_log(divergence: NDArray[np.float64], average: Average = "mean_log") -> NDArray[np.float64]:
    """Average divergence curves over replicas.

    Parameters
    ----------
    divergence
        Distances from the reference `(T, M)`, M >= 1.
    average
        `mean_log`: mean of the logarithms, the default, as it weighs each replica's growth alike. `log_mean`:
        logarithm of the mean, as in arXiv 2404.05782, which follows the fastest replica.

    Returns
    -------
    ndarray
        `ln d`, `(T,)`; minus infinity where d is 0, NaN or infinite where the data are.

    Examples
    --------
    >>> mean_log(np.array([[1.0, np.e**2]])).round(6).tolist()
    [1.0]
    """
    with np.errstate(all="ignore"):
        if average == "mean_log":
            return np.asarray(np.log(divergence).mean(axis=1))
        # The mean of d / max cannot overflow where the mean of d would.
        peak = divergence.max(axis=1)
        safe = np.where(peak > 0.0, peak, 1.0)
        return np.asarray(np.log((divergence / safe[:, None]).mean(axis=1)) + np.log(safe))


def saturation_level(log_d: NDArray[np.float64]) -> Saturation:
    """Find the plateau of a divergence curve and test whether it was reached.

    Parameters
    ----------
    log_d
        Finite `ln d`, `(T,)`, T >= 1, rows evenly spaced.

    Examples
    --------
    >>> found = saturation_level(np.minimum(np.arange(100) * 0.7 - 18.0, 2.0))
    >>> found.level, found.is_reached, found.row
    (2.0, True, 28)
    """
    n_rows = len(log_d)
    fifth = max(2, n_rows // 5)
    level = float(log_d[-fifth:].mean())
    growth = level - float(log_d[0])
    is_reached = False
    if n_rows >= 10 and growth > 0.0:
        rise = level - float(log_d[-2 * fifth : -fifth].mean())
        is_reached = rise <= PLATEAU_SHARE * growth
    row = int(np.argmax(log_d >= level - math.log(2.0)))
    return Saturation(level, growth, is_reached, row)


def ftle(
    steps: NDArray[np.int64],
    divergence: NDArray[np.float64],
    average: Average = "mean_log",
    confidence: float = 0.95,
) -> Estimate:
    """Estimate the finite-time exponent over the growth of separations.

    The slope of the averaged `ln d` between its end points: from the first row to saturation, or to the last
    row where separations did not first grow a hundredfold and then level off. Defined whenever every
    separation is positive, also for contraction (then it is negative) and for growth that is not exponential.

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
        Value in 1 per step; `n` is M. From three replicas on, `low` and `high` are Student's interval
        over the replicas' own slopes on the common window: the spread inside one run, which says nothing
        about other initial conditions. Statuses: `too_few_replicas` (M = 0), `too_few_rows` (under two),
        `non_finite`, `contracted` (a separation reached 0).

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


def steps_to_accuracy(steps: NDArray[np.int64], accuracy: NDArray[np.float64], target: float) -> Estimate:
    """Return the first recorded step at which the accuracy is at least `target`.

    Parameters
    ----------
    steps
        Training step of each row, `(T,)`.
    accuracy
        Accuracy `(T,)` in [0, 1]; NaN never reaches a target.
    target
        Accuracy to reach.

    Returns
    -------
    Estimate
        A step; `not_reached`, or `too_few_rows` without any row.

    Examples
    --------
    >>> steps_to_accuracy(np.array([0, 10, 20]), np.array([0.1, 0.8, 0.7]), 0.75).value
    10.0
    """
    method = f"first step with accuracy >= {target:g}"
    if len(steps) == 0:
        return Estimate.failed(Status.TOO_FEW_ROWS, method=method)
    reached = np.flatnonzero(accuracy >= target)
    if len(reached) == 0:
        known = accuracy[np.isfinite(accuracy)]
        best = f"The best accuracy was {float(known.max()):.4g}." if len(known) else ""
        return Estimate.failed(Status.NOT_REACHED, n=1, method=method, what=best)
    return Estimate(float(steps[reached[0]]), Status.OK, n=1, method=method)


def _unusable(divergence: NDArray[np.float64], least_rows: int, method: str) -> Estimate | None:
    """Return why no exponent can be computed at all, or `None`."""
    n_rows, n_replicas = divergence.shape
    if n_replicas == 0:
        return Estimate.failed(Status.TOO_FEW_REPLICAS, method=method)
    if n_rows < least_rows:
        what = f"{n_rows} rows, of {least_rows} that are needed."
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
