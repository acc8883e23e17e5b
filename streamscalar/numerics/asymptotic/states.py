"""Asymptotic states: where the scalar of each replica settles, with a test for drift.

The state is the mean of the coordinate over the last rows [1]_. A mean over a window exists whether or not the
series has settled, so it is reported with a test for drift. Rows are strongly autocorrelated; an ordinary trend
test would report drift in most settled series. The test here therefore works on means of two rows each (which
removes the alternation of step sizes near stability), estimates their autocorrelation with its small-sample
bias removed, and takes its degrees of freedom from the number of effectively independent rows. A drift must
also be material: below a tenth of the spread between replicas it cannot reorder them.

References
----------
.. [1] P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv 2606.30384.
.. [2] S. J. Prais, C. B. Winsten, Cowles Commission Discussion Paper 383 (1954).
.. [3] M. G. Kendall, Biometrika 41, 403 (1954): bias of the lag-one autocorrelation.
.. [4] B. Rüger, Metrika 25, 171 (1978): combination of dependent tests.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from streamscalar.errors import BadCall
from streamscalar.types import ADVICE, Estimate, Status

MATERIAL_SHARE = 0.1
"""Least drift over the window, as a share of the standard deviation between replicas, that counts."""

LEAST_WINDOW = 12
"""Rows from which a trend and its autocorrelation can be estimated together."""

LARGEST_CORRELATION = 0.99
"""Bound on the estimated autocorrelation; beyond it a drift cannot be distinguished from a random walk."""

LEAST_EFFECTIVE = 4.0
"""Least number of effectively independent pairs of rows, so that the test keeps three degrees of freedom."""

_METHOD = "mean over the last rows"


@dataclass(frozen=True, slots=True)
class AsymptoticStates:
    """One state per replica, with the result of the drift test.

    Attributes
    ----------
    values
        Mean coordinate over the window, `(R,)` float64; empty where there is none (`too_few_rows`, `non_finite`).
        Kept under the statuses `drifting`, `constant` and `too_few_replicas`, for inspection.
    drifts
        Change of the coordinate over the window along its linear trend, `(R,)`, in units of the coordinate.
    p_values
        Two-sided p-value of each drift, `(R,)`.
    is_drifting
        Whether each replica drifts by itself: significant at the requested level, and material; `(R,)`.
    status
        `ok`; `drifting`; `constant` (two states coincide: spacing 0); `too_few_rows`; `too_few_replicas` (under
        two); `non_finite`.
    message
        What was found, in one or two sentences.
    window
        First and last step used, both inclusive; `None` without a window.
    """

    values: NDArray[np.float64]
    drifts: NDArray[np.float64]
    p_values: NDArray[np.float64]
    is_drifting: NDArray[np.bool_]
    status: Status
    message: str
    window: tuple[int, int] | None

    def spread(self) -> Estimate:
        """Return the standard deviation between states (n - 1 in the denominator); no value unless `status` is ok."""
        n = len(self.values)
        if self.status is not Status.OK:
            return Estimate(None, self.status, n=n, method=_METHOD, window=self.window, message=self.message)
        value = float(self.values.std(ddof=1))
        return Estimate(value, Status.OK, n=n, method=_METHOD, window=self.window, message=self.message)


def asymptotic_states(
    steps: NDArray[np.int64], scores: NDArray[np.float64], window: int = 50, level: float = 0.05
) -> AsymptoticStates:
    """Return the asymptotic state of every replica, with a test for drift.

    A replica drifts when its linear trend over the window is significant and its change over the window is at
    least `MATERIAL_SHARE` of the standard deviation between states. The run is `drifting` when the p-value that half
    of the replicas stay under, times R over their number, is under `level` (Rüger's rule [4]_, immaterial drifts
    counted as p = 1): this keeps `level` however the replicas depend on each other, which the smallest p-value of
    many does not. The message and `is_drifting` report a minority that drifts. Source [1]_ has no such test.

    Parameters
    ----------
    steps
        Training step of each row, `(T,)`, rising and evenly spaced.
    scores
        First coordinate of each replica, `(T, R)`, all of one basis version. Leave the control out: it coincides
        with the reference.
    window
        Rows at the end that are averaged.
    level
        Level of the drift test in (0, 1).

    Returns
    -------
    AsymptoticStates

    Raises
    ------
    BadCall
        If the shapes do not agree, `window` is under `LEAST_WINDOW`, or `level` is outside (0, 1).

    Notes
    -----
    Measured at a level of .05, six replicas and 50 rows of a first-order autoregression with coefficients from -.8 to
    .9: one replica is significant in .02 to .08 of cases (.10 at .95), a run of independent replicas in under .01, one
    whose replicas move together in .06. With a slow component under white noise, where no first-order model holds,
    .12 to .17 and .01 to .04. A random walk is significant in only .19 and .03: within one window it cannot be
    distinguished from a settled series with long memory. Power: a line of 4 standard deviations over the window .99 at
    a coefficient of .5 and .38 at .8; a relaxation with time 30 and amplitude 40 times the noise .99.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scores = np.array([2.0, 1.0, 3.0]) + 0.1 * rng.standard_normal((200, 3))
    >>> found = asymptotic_states(np.arange(200), scores)
    >>> found.values.round(1).tolist(), str(found.status), found.window
    ([2.0, 1.0, 3.0], 'ok', (150, 199))
    """
    _check(steps, scores, window, level)
    n_rows, n_replicas = scores.shape
    if n_rows < window:
        return _without_states(Status.TOO_FEW_ROWS, f"{n_rows} rows; the window has {window}.", None)
    span = (int(steps[-window]), int(steps[-1]))
    rows = scores[-window:]
    if not np.isfinite(rows).all():
        n_bad = int((~np.isfinite(rows)).any(axis=0).sum())
        return _without_states(Status.NON_FINITE, f"In {n_bad} of {n_replicas} replicas.", span)
    values = rows.mean(axis=0)
    drifts, p_values = _trend(rows)
    if n_replicas < 2:
        status, what, is_material = Status.TOO_FEW_REPLICAS, f"{n_replicas} replicas: no spacing.", np.abs(drifts) > 0.0
    else:
        is_material = np.abs(drifts) >= MATERIAL_SHARE * float(values.std(ddof=1))
        status, what = _verdict(values, p_values, is_material, level)
    is_drifting = is_material & (p_values < level)
    what += f" {int(is_drifting.sum())} of {n_replicas} replicas drift by themselves (p < {level:g})."
    return AsymptoticStates(values, drifts, p_values, is_drifting, status, f"{what} {ADVICE[status]}".strip(), span)


def _check(steps: NDArray[np.int64], scores: NDArray[np.float64], window: int, level: float) -> None:
    if scores.ndim != 2 or steps.shape != scores.shape[:1]:
        raise BadCall("scores", "must have one row per step and one column per replica", str(scores.shape))
    if window < LEAST_WINDOW:
        raise BadCall("window", f"must be at least {LEAST_WINDOW} rows", str(window))
    if not 0.0 < level < 1.0:
        raise BadCall("level", "must lie between 0 and 1", str(level))


def _without_states(status: Status, what: str, window: tuple[int, int] | None) -> AsymptoticStates:
    none = np.zeros(0)
    return AsymptoticStates(none, none, none, none.astype(bool), status, f"{what} {ADVICE[status]}", window)


def _verdict(
    values: NDArray[np.float64], p_values: NDArray[np.float64], is_material: NDArray[np.bool_], level: float
) -> tuple[Status, str]:
    """Return the status of two or more replicas and a sentence about it."""
    n_coinciding = len(values) - len(np.unique(values))
    if n_coinciding:
        return Status.CONSTANT, f"{n_coinciding} of {len(values)} states coincide with another: spacing 0."
    half = math.ceil(len(values) / 2)
    combined = min(1.0, float(np.sort(np.where(is_material, p_values, 1.0))[half - 1]) * len(values) / half)
    status = Status.DRIFTING if combined < level else Status.OK
    return status, f"Drift test over all replicas: p = {combined:.3g}."


def _trend(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the change along the trend and its p-value, both `(R,)`, of rows `(window, R)`.

    Generalised least squares [2]_ on means of two rows, with a first-order autocorrelation.
    """
    n = len(rows) // 2
    pairs = rows[len(rows) - 2 * n :].reshape(n, 2, -1).mean(axis=1)
    centred = pairs - pairs.mean(axis=0)
    at = np.arange(n) - (n - 1) / 2.0
    residuals = centred - np.outer(at, at @ centred / (at @ at))
    # Residuals at the size of rounding carry no information about their correlation.
    rounding = n * np.square(16.0 * np.finfo(np.float64).eps * np.abs(pairs).max(axis=0, initial=0.0))
    rho = _autocorrelation(residuals, rounding)
    first = np.sqrt(1.0 - rho**2)
    ones = np.vstack([first, np.broadcast_to(1.0 - rho, (n - 1, len(rho)))])
    line = np.vstack([first * at[0], at[1:, None] - rho * at[:-1, None]])
    y = np.vstack([first * centred[0], centred[1:] - rho * centred[:-1]])
    a, b, c = (ones**2).sum(axis=0), (ones * line).sum(axis=0), (line**2).sum(axis=0)
    d, e = (ones * y).sum(axis=0), (line * y).sum(axis=0)
    determinant = a * c - b * b
    slope, level = (a * e - b * d) / determinant, (c * d - b * e) / determinant
    squares = np.square(y - level * ones - slope * line).sum(axis=0) + rounding
    error = np.sqrt(squares / (n - 3) * a / determinant)
    ratio = np.divide(np.abs(slope), error, out=np.zeros_like(slope), where=error > 0.0)
    effective = np.clip(n * (1.0 - rho) / (1.0 + rho), LEAST_EFFECTIVE, n)
    return slope * (len(rows) - 1) / 2.0, np.asarray(2.0 * special.stdtr(effective - 1.0, -ratio))


def _autocorrelation(residuals: NDArray[np.float64], rounding: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first-order autocorrelation `(R,)` of residuals `(n, R)` of a line.

    The larger of the lag-one value and the root of the lag-two value: under added white noise the first is too
    small. The bias of residuals of a line, -(2 + 4 rho) / n, is taken out [3]_.
    """
    n = len(residuals)
    square = np.square(residuals).sum(axis=0)
    rough = square <= rounding
    scale = np.where(rough, 1.0, square)
    one, two = ((residuals[lag:] * residuals[:-lag]).sum(axis=0) / scale for lag in (1, 2))
    raw = np.maximum(one, np.where(two > 0.0, np.sqrt(np.abs(two)), -1.0))
    rho = np.clip((n * raw + 2.0) / (n - 4.0), -LARGEST_CORRELATION, LARGEST_CORRELATION)
    return np.where(rough, 0.0, rho)
