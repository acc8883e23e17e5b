"""Characteristic time of embedded trajectories: when the exponential separation of replicas saturates.

Like a Lyapunov time, it is the time for which replicas stay close to their common start. There are two estimators:
the rule of [1]_ as published, for comparison, and a fit that can report that there is no such time. The published
rule nearly always returns a step: 72 for separations 1e-8 (1 + t / 12), which grow linearly, 10 to 13 for
separations that shrink exponentially with 10 % of noise, and 15 where exponential growth ends at 74 but the
projection changes sign every 31 steps.

References
----------
.. [1] P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv 2606.30384 (2026).
.. [2] D. J. Hudson, J. Am. Stat. Assoc. 61, 1097 (1966): the exact least-squares fit of joined segments.
.. [3] R. G. Miller, Biometrika 61, 1 (1974): the jackknife.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.curves import HUNDREDFOLD, LEAST_REPLICAS, Average, mean_log
from streamscalar.numerics.exponents.divergence import LEAST_FIT_ROWS, nmle
from streamscalar.numerics.intervals import student
from streamscalar.numerics.times.replica_times import mean_over_replicas
from streamscalar.types import Estimate, Status

PUBLISHED_FLOOR = 1e-12
"""Added to separations before the logarithm by the published rule."""

PUBLISHED_FIRST_STEP = 10
"""First step that the published rule may return."""

PUBLISHED_SHARE = 0.15
"""Share of the largest slope under which the published rule counts a slope as saturated."""

PUBLISHED_HOLD_STEPS = 8
"""Steps for which the slope must stay under `PUBLISHED_SHARE`."""

DRIFT_SHARE = 0.1
"""Largest slope of a plateau, as a share of the slope of the growth before it."""

LEAST_R2 = 0.9
"""Share of the variance of ln d that a line must explain in the growth window, as in arXiv 2404.05782."""

RIVAL_SHARE = 0.5
"""Largest ratio of the squared residuals of the exponential to those of a power law.

Stricter than in `nmle`, which rejects an exponential only where a power law fits much better.
"""

LARGEST_POWER = 4.0
"""Largest power of the power law; an unbounded power fits any exponential over a short window."""


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """Two joined lines.

    Attributes
    ----------
    breakpoint
        Abscissa at which they meet.
    rise, drift
        Slopes before and after it.
    residual
        Sum of squared residuals.
    """

    breakpoint: float
    rise: float
    drift: float
    residual: float


def fit_broken_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> BrokenLine:
    """Fit two joined lines by least squares, exactly, breakpoint included [2]_.

    The best breakpoint lies on a row, or between two rows where the free lines on either side meet; all these
    candidates are compared together, from cumulative sums of centred data, in O(n).

    Parameters
    ----------
    x
        Rising abscissae `(n,)`, n >= 2 `LEAST_FIT_ROWS`; each line gets at least `LEAST_FIT_ROWS` rows, a
        row at the breakpoint counting for both.
    y
        Ordinates `(n,)`.

    Returns
    -------
    BrokenLine

    Examples
    --------
    >>> found = fit_broken_line(np.arange(20.0), np.minimum(0.5 * np.arange(20.0), 4.2))
    >>> round(found.breakpoint, 6), round(found.rise, 6), round(abs(found.drift), 6)
    (8.4, 0.5, 0.0)
    """
    n, centre = len(x), float(x.mean())
    x, y = x - centre, y - y.mean()
    sums = np.cumsum([np.ones(n), x, y, x * x, x * y], axis=1)
    on = np.arange(LEAST_FIT_ROWS - 1, n - LEAST_FIT_ROWS + 1)
    left, right = sums[:, on], sums[:, -1:] - sums[:, on]
    (left_slope, left_start), (right_slope, right_start) = _free_line(left[:, :-1]), _free_line(right[:, :-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        meet = (left_start - right_start) / (right_slope - left_slope)
    between = np.flatnonzero((meet >= x[on[:-1]]) & (meet <= x[on[1:]]))
    at = np.concatenate([x[on], meet[between]])
    left, right = (np.concatenate([side, side[:, between]], axis=1) for side in (left, right))

    # Regress y on u = min(x - at, 0) and v = max(x - at, 0), whose product is 0 everywhere.
    sum_u, sum_v = left[1] - at * left[0], right[1] - at * right[0]
    uu = left[3] - 2.0 * at * left[1] + at**2 * left[0] - sum_u**2 / n
    vv = right[3] - 2.0 * at * right[1] + at**2 * right[0] - sum_v**2 / n
    uv = -sum_u * sum_v / n
    uy, vy = left[4] - at * left[2], right[4] - at * right[2]
    determinant = uu * vv - uv**2
    rise = (vv * uy - uv * vy) / determinant
    drift = (uu * vy - uv * uy) / determinant
    residual = float(y @ y) - rise * uy - drift * vy
    best = int(np.argmin(residual))
    return BrokenLine(float(at[best]) + centre, float(rise[best]), float(drift[best]), max(float(residual[best]), 0.0))


def characteristic_time_published(
    steps: NDArray[np.int64], separation: NDArray[np.float64], confidence: float = 0.95
) -> Estimate:
    """Apply the rule of [1]_ as published, for comparison; it also returns a step where there is no saturation.

    For each replica, the first step t >= 10 from which the slope of ln(separation + 1e-12) stays under 15 % of its
    largest value for 8 steps; then the mean over the replicas. The paper does not define the slope: here it is
    computed by central differences (`numpy.gradient`, one-sided at the ends). Where rows are sparse, 8 steps are the
    number of rows that covers them.

    Parameters
    ----------
    steps
        Training step of each row `(T,)`, rising, evenly spaced.
    separation
        Embedded divergence |z_j - z_0| of the perturbed replicas `(T, M)`; zeros are allowed.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        A step; the mean is over the replicas that have one, which `n` counts. Student's interval over them with
        three or more. Statuses: `too_few_replicas` (M = 0), `too_few_rows`, `non_finite`, `constant` (no separation
        changes), `not_saturated` (no replica has such a step).

    Raises
    ------
    BadCall
        As for `characteristic_time`.

    Examples
    --------
    >>> steps = np.arange(101)
    >>> characteristic_time_published(steps, np.exp(np.minimum(0.5 * steps, 20.0) - 20.0)[:, None]).value
    41.0
    >>> characteristic_time_published(steps, 1e-8 * (1.0 + steps / 13.0)[:, None]).value  # linear growth
    77.0
    """
    method = "slope under 15 % of its largest, arXiv 2606.30384"
    _check_shapes(steps, separation)
    n_rows, n_replicas = separation.shape
    if n_replicas == 0:
        return Estimate.failed(Status.TOO_FEW_REPLICAS, method=method)
    n_hold = _rows_of(PUBLISHED_HOLD_STEPS, steps)
    if n_rows < n_hold + 1 or steps[n_rows - n_hold] < PUBLISHED_FIRST_STEP:
        what = f"{n_rows} rows do not hold step {PUBLISHED_FIRST_STEP} and {PUBLISHED_HOLD_STEPS} steps after it."
        return Estimate.failed(Status.TOO_FEW_ROWS, n=n_replicas, method=method, what=what)
    if not np.isfinite(separation).all():
        return Estimate.failed(Status.NON_FINITE, n=n_replicas, method=method)
    if (separation == separation[0]).all():
        return Estimate.failed(Status.CONSTANT, n=n_replicas, method=method)
    slope = np.gradient(np.log(separation + PUBLISHED_FLOOR), steps.astype(np.float64), axis=0)
    is_low = slope < PUBLISHED_SHARE * slope.max(axis=0)
    stays = np.asarray(sliding_window_view(is_low, n_hold, axis=0).all(axis=-1))
    stays &= (steps[: len(stays)] >= PUBLISHED_FIRST_STEP)[:, None]
    times = np.where(stays.any(axis=0), steps[stays.argmax(axis=0)].astype(np.float64), np.nan)
    return mean_over_replicas(times, Status.NOT_SATURATED, method, confidence)


def characteristic_time(
    steps: NDArray[np.int64],
    separation: NDArray[np.float64],
    average: Average = "mean_log",
    confidence: float = 0.95,
) -> Estimate:
    """Estimate when exponential separation saturates, where separation is exponential and does saturate.

    A broken line is fitted to the averaged ln |z_j - z_0| from the second row on (the first carries the shape of
    the initial perturbation). The time is its breakpoint if there is an exponential phase in the sense of
    `nmle`, the line after the breakpoint is level (`DRIFT_SHARE`), and the growth before it is hundredfold,
    straight (`LEAST_R2`) and leaves under `RIVAL_SHARE` of the squared residuals of any power law
    a + p ln(t + c), 0 <= p <= 4, c >= 0.

    Zero crossings of z_j - z_0 are cusps of the logarithm, which the mean over replicas smooths. A separation of
    exactly 0 has no logarithm; it means that replica and reference coincide, or that the projection is below the
    resolution of float64, so the status is `contracted`, independent of the other rows.

    Parameters
    ----------
    steps
        Training step of each row `(T,)`, rising, evenly spaced.
    separation
        Embedded divergence |z_j - z_0| of the perturbed replicas `(T, M)`.
    average
        See `mean_log`.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        A step, on the scale of `steps`; `n` is M, `window` the growth window. With three or more replicas an
        interval, by the delete-one jackknife over replicas [3]_ with Student's quantile: the spread inside one run.
        Statuses: those of `nmle`, with `constant` where no separation changes, `no_exponential_phase` where the
        growth is not straight or a power law fits nearly as well, and `not_saturated` where there is no plateau,
        including decay after the growth.

    Raises
    ------
    BadCall
        If the shapes do not agree, or `confidence` is outside (0, 1).

    Notes
    -----
    Measured coverage of a stated 95 %, 1,000 experiments each, M = 3: .945, 5: .937 to .955, 10: .960 to .966.

    Rate of values for curves without an exponential phase, of 300 seeds each, 1 and 5 replicas, 201 and 401 rows, each
    row scattered by a factor of up to e: linear growth, contraction, |random walk|: none. Power laws up to the
    fourth, with or without a plateau: none up to a scatter of e^.6, 1 at e. A logarithm that is itself a random
    walk grows exponentially for a while by chance: up to 2 %. A power above 1 that starts after a delay: up to 3 %.
    A stretched exponential, exp(a sqrt(t)), passes in 40 %. Conversely, exponential growth after a long rest is
    rejected, as it is no line from the second row on. Cost: 1 + M fits of O(T), .8 ms of processor time for
    T = 201, M = 5.

    Examples
    --------
    >>> steps = np.arange(201)
    >>> found = characteristic_time(steps, np.exp(np.minimum(0.5 * steps - 18.0, 2.2))[:, None])
    >>> round(found.value, 6), found.window
    (40.4, (1, 40))
    >>> str(characteristic_time(steps, 1e-8 * (1.0 + steps)[:, None] ** 2).status)
    'no_exponential_phase'
    """
    method = f"broken line, {average}"
    _check_shapes(steps, separation)
    phase = nmle(steps, separation, average, confidence)
    if phase.status is Status.NO_EXPONENTIAL_PHASE and (separation == separation[0]).all():
        return Estimate.failed(Status.CONSTANT, n=phase.n, method=method)
    if not phase.is_ok:
        return replace(phase, method=method)
    x = steps[1:].astype(np.float64)
    y = mean_log(separation, average)[1:]
    fit = fit_broken_line(x, y)
    n_growth = int(np.searchsorted(x, fit.breakpoint, side="right"))
    window = (int(steps[1]), int(steps[n_growth]))
    why = _why_not(fit, x[:n_growth] - float(steps[0]), y[:n_growth])
    if why is not None:
        status, what = why
        return Estimate.failed(status, n=phase.n, method=method, what=what, window=window)
    if phase.n < LEAST_REPLICAS:
        message = f"No interval: {phase.n} perturbed replica{'s' if phase.n > 1 else ''}."
        return Estimate(fit.breakpoint, Status.OK, n=phase.n, method=method, window=window, message=message)
    without = [fit_broken_line(x, mean_log(np.delete(separation, j, axis=1), average)[1:]) for j in range(phase.n)]
    pseudo = phase.n * fit.breakpoint - (phase.n - 1) * np.array([other.breakpoint for other in without])
    low, high = student(pseudo, confidence)
    half = (high - low) / 2.0
    message = f"The interval is over the {phase.n} perturbed replicas of one run (jackknife)."
    value = fit.breakpoint
    return Estimate(value, Status.OK, value - half, value + half, confidence, phase.n, method, window, message)


def _check_shapes(steps: NDArray[np.int64], separation: NDArray[np.float64]) -> None:
    """Raise `BadCall` unless the shapes are `(T,)` and `(T, M)`."""
    if separation.ndim != 2 or steps.shape != separation.shape[:1]:
        shapes = f"{steps.shape}, {separation.shape}"
        raise BadCall("steps, separation", "must have shapes (T,), (T, M)", shapes)


def _free_line(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return slopes and intercepts of the lines with the sums n, x, y, xx, xy, `(5, K)`."""
    n, x, y, xx, xy = sums
    slope = (n * xy - x * y) / (n * xx - x * x)
    return slope, (y - slope * x) / n


def _rows_of(n_steps: int, steps: NDArray[np.int64]) -> int:
    """Return how many rows cover `n_steps` steps."""
    spacing = float(steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 1.0
    return max(1, math.ceil(n_steps / spacing))


def _why_not(fit: BrokenLine, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Status, str] | None:
    """Return why the growth `y` `(n,)` at `x` > 0 steps from the start has no characteristic time, or `None`."""
    growth = fit.rise * (float(x[-1]) - float(x[0]))
    if growth < HUNDREDFOLD:
        return Status.NO_EXPONENTIAL_PHASE, f"The fitted growth is {math.exp(growth):.3g}-fold."
    if fit.drift > DRIFT_SHARE * fit.rise:
        return Status.NOT_SATURATED, f"After step {fit.breakpoint:.0f} separations still grow, but more slowly."
    if fit.drift < -DRIFT_SHARE * fit.rise:
        return Status.NOT_SATURATED, f"After step {fit.breakpoint:.0f} separations shrink: there is no plateau."
    residual, spread = _residual(x[None], y), float(np.square(y - y.mean()).sum())
    r2 = 1.0 - float(residual[0]) / spread
    if r2 < LEAST_R2:
        return Status.NO_EXPONENTIAL_PHASE, f"ln d does not grow along a line (R^2 = {r2:.2f})."
    row = x[1] - x[0]
    offsets = row * np.concatenate([[0.0], 2.0 ** np.arange(-2, math.ceil(math.log2(len(x))) + 1)])
    rival = _residual(np.log(x + offsets[:, None]), y, LARGEST_POWER)
    if float(residual[0]) > RIVAL_SHARE * float(rival.min()):
        return Status.NO_EXPONENTIAL_PHASE, "A power of the step fits the growth nearly as well."
    return None


def _residual(x: NDArray[np.float64], y: NDArray[np.float64], largest_slope: float = math.inf) -> NDArray[np.float64]:
    """Return the squared residuals `(K,)` of the lines of `y` `(n,)` over each `x` `(K, n)`, slopes bounded."""
    run, rise = x - x.mean(axis=1, keepdims=True), y - y.mean()
    slope = np.clip(run @ rise / np.square(run).sum(axis=1), 0.0, largest_slope)
    return np.asarray(np.square(rise - slope[:, None] * run).sum(axis=1))
