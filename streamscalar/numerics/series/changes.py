"""Changes in a recorded series while it grows: jumps, trends, and whether one series follows another.

Rows of a training run are autocorrelated and drift, so no test here compares a row with a constant. Each result depends
only on rows that are complete, so it never changes when more rows arrive.

The test for jumps is written here because change-point packages such as ruptures segment a finished series: their
change points may move when rows arrive, and a penalty sets their sensitivity instead of the number of rows between two
false alarms. `level_changes` lists that number as measured under autocorrelation.

References
----------
.. [1] M. G. Kendall, Biometrika 41, 403 (1954): bias of the lag-one autocorrelation.
.. [2] F. E. Satterthwaite, Biometrics Bulletin 2, 110 (1946): degrees of freedom of a sum of squares.
.. [3] E. S. Page, Biometrika 41, 100 (1954): average run length of a test that is made at every row.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from streamscalar.errors import BadCall
from streamscalar.types import Estimate, Status

Floats = NDArray[np.float64]

LARGEST_CORRELATION = 0.99
"""Bound on the lag-one autocorrelation; beyond it a drift cannot be distinguished from a random walk."""

LEAST_BEFORE = 12
"""Least rows from which a line and the autocorrelation around it can be estimated together."""

TREND_BLOCKS = 40
"""Number of block means that a trend is fitted to."""

FOLLOW_BLOCKS = 30
"""Number of changes between block means for a correlation: with r = 0 its interval then ends at .42."""

_GRID = np.linspace(-0.9, LARGEST_CORRELATION, 190)
_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class LevelChanges:
    """A test for a change of level at every row of a series of N rows.

    All are NaN in the first `n_before + n_after - 1` rows, and where a row of the stretch is not finite.

    Attributes
    ----------
    shift
        Smallest distance of the newest `n_after` rows from the extrapolated line through the `n_before` rows before
        them, signed, `(N,)`, in units of the series; 0 where they do not all lie on one side.
    statistic
        `shift` over the standard error of the prediction of the mean of those rows, `(N,)`.
    threshold
        Magnitude above which `statistic` is significant, `(N,)`: it depends on the autocorrelation.
    correlation
        Assumed lag-one autocorrelation around the line, one standard error above the estimate, `(N,)`.
    """

    shift: Floats
    statistic: Floats
    threshold: Floats
    correlation: Floats


def level_changes(series: Floats, n_before: int = 40, n_after: int = 5, run_length: float = 1e5) -> LevelChanges:
    """Test at every row whether the newest rows deviate from the line through the rows before them.

    Parameters
    ----------
    series
        Values `(N,)`, rows evenly spaced, any unit.
    n_before
        Number of rows that the line is fitted to, at least `LEAST_BEFORE`.
    n_after
        Number of newest rows, all of which must lie on one side of the line: a single outlier is no change of level.
        A change is detected `n_after` rows late.
    run_length
        Mean number of rows between two false alarms [3]_, at least 2: each row is tested at level `1 / run_length`.

    Returns
    -------
    LevelChanges
        Cost: about 1 microsecond per row, in chunks of bounded memory.

    Raises
    ------
    BadCall
        If `n_before`, `n_after` or `run_length` is too small.

    Notes
    -----
    The noise around the line is modelled as a first-order autoregression: its lag-one autocorrelation is corrected
    for the bias of the fitted line [1]_ and raised by one standard error, its variance and degrees of freedom follow
    from the expected squares of the residuals [2]_. The error is that of the mean of the newest rows, while the
    statistic uses their smallest deviation. This makes the test conservative, most under heavy tails.

    Rows between two alarms, over 500 seeds of 4,000 rows of a first-order autoregression, for a stated 10,000 and
    100,000:

    =====================  =================  =================
    autocorrelation        normal             Student's t, 3
    =====================  =================  =================
    -.5 and 0              over 1e6           over 1e6
    .5                     67,000, 400,000    44,000, 180,000
    .8                     18,000, 80,000     4,400, 9,300
    .9                     11,000, 44,000     2,500, 5,100
    1 (a random walk)      9,400, 34,000      1,400, 2,400
    =====================  =================  =================

    So the stated number holds for normal noise, within a factor of three where it is large and the noise is a random
    walk. Under strong autocorrelation and heavy tails the alarms are single shocks that last, which are changes of
    level.

    Examples
    --------
    >>> series = 0.1 * np.random.default_rng(0).standard_normal(100)
    >>> series[60:] += 1.0
    >>> found = level_changes(series)
    >>> np.flatnonzero(np.abs(found.statistic) > found.threshold)[0], found.shift[64].round(2)
    (np.int64(64), np.float64(0.85))
    """
    if n_before < LEAST_BEFORE:
        raise BadCall("n_before", f"must be at least {LEAST_BEFORE}", str(n_before))
    if n_after < 1:
        raise BadCall("n_after", "must be at least 1", str(n_after))
    if not run_length >= 2.0:
        raise BadCall("run_length", "must be at least 2", f"{run_length:g}")
    width = n_before + n_after
    columns = np.full((4, len(series)), np.nan)
    if len(series) >= width:
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(series, dtype=np.float64), width)
        for first in range(0, len(windows), _CHUNK_ROWS):
            part = windows[first : first + _CHUNK_ROWS]
            rows = slice(width - 1 + first, width - 1 + first + len(part))
            columns[:, rows] = _test_windows(part, n_before, run_length)
    return LevelChanges(*columns)


def trend(series: Floats, confidence: float = 0.95) -> Estimate:
    """Estimate the change of a series over its length along a straight line.

    Parameters
    ----------
    series
        Values `(N,)`, N >= `TREND_BLOCKS`, rows evenly spaced, any unit. They are averaged in `TREND_BLOCKS` blocks;
        remaining rows at the start are left out.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        Change from the first row used to the last, in units of the series; the noise around the line is modelled as
        in `level_changes`, so autocorrelation widens the interval. `n` is the number of blocks. Statuses:
        `too_few_rows`, `non_finite`.

    Notes
    -----
    Coverage of a stated .95, over 1,000 draws of 200 rows: .97 at autocorrelations from -.5 to .95 of the rows. Of 40
    rows: .97 up to .5, .94 at .8, .90 at .9, .87 at .95, where 40 rows are three independent ones.

    Examples
    --------
    >>> found = trend(np.linspace(3.0, 1.0, 80))
    >>> round(found.value, 6), found.n
    (-2.0, 40)
    """
    method = f"line through {TREND_BLOCKS} block means, autoregressive noise"
    if len(series) < TREND_BLOCKS:
        what = f"{len(series)} rows; {TREND_BLOCKS} are needed."
        return Estimate.failed(Status.TOO_FEW_ROWS, method=method, what=what)
    if not np.isfinite(series).all():
        return Estimate.failed(Status.NON_FINITE, n=TREND_BLOCKS, method=method)
    means, size = _block_means(series, TREND_BLOCKS)
    t = np.arange(TREND_BLOCKS) - (TREND_BLOCKS - 1) / 2.0
    weights = t / float(t @ t) * ((TREND_BLOCKS * size - 1) / size)
    centred = means - means.mean()
    value = float(weights @ centred)
    residual = centred - t * float(t @ centred) / float(t @ t)
    noise = _noise(TREND_BLOCKS, tuple(weights))
    squares, correlation = _assumed_correlation(residual[None])
    error = math.sqrt(float(squares[0]) * float(np.interp(correlation[0], _GRID, noise.variance)))
    freedom = float(np.interp(correlation[0], _GRID, noise.freedom))
    half = -error * float(special.stdtrit(freedom, (1.0 - confidence) / 2.0))
    return Estimate(value, Status.OK, value - half, value + half, confidence, TREND_BLOCKS, method)


def following(own: Floats, others: Floats, confidence: float = 0.95) -> Estimate:
    """Correlate the changes of a series with those of another one at the same rows.

    Parameters
    ----------
    own, others
        Two series `(N,)`, N > `FOLLOW_BLOCKS`, averaged in `FOLLOW_BLOCKS + 1` blocks; remaining rows at the start are
        left out.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        Correlation in [-1, 1] of the changes from block to block, about 0 and not about their means, so that two
        series that fall evenly together correlate. Interval by Fisher's z; `n` counts the changes. Statuses:
        `too_few_rows`, `non_finite`, `constant` (one of them does not change).

    Notes
    -----
    Independent series: a stated .95 covers 0 in .95 of 2,000 draws of white noise, and in .97 to .98 where the rows are
    correlated; none had a lower end over .5.

    Examples
    --------
    >>> fall = np.linspace(3.0, 1.0, 62)
    >>> round(following(fall, 2.0 * fall).value, 6), round(following(fall, -fall).value, 6)
    (1.0, -1.0)
    """
    method = f"correlation of {FOLLOW_BLOCKS} changes about 0, Fisher's z"
    n_blocks = FOLLOW_BLOCKS + 1
    if len(own) < n_blocks:
        what = f"{len(own)} rows; {n_blocks} are needed."
        return Estimate.failed(Status.TOO_FEW_ROWS, method=method, what=what)
    if not (np.isfinite(own).all() and np.isfinite(others).all()):
        return Estimate.failed(Status.NON_FINITE, n=FOLLOW_BLOCKS, method=method)
    first, second = (np.diff(_block_means(series, n_blocks)[0]) for series in (own, others))
    size = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    if size == 0.0:
        return Estimate.failed(Status.CONSTANT, n=FOLLOW_BLOCKS, method=method)
    value = min(1.0, max(-1.0, float(first @ second) / size))
    # Without a mean to estimate there is one more degree of freedom than usual; successive differences of independent
    # means correlate by -1/2, which makes the variance of r half as large again.
    half = -float(special.ndtri((1.0 - confidence) / 2.0)) * math.sqrt(1.5 / (FOLLOW_BLOCKS - 2.0))
    z = math.atanh(min(1.0 - 1e-12, max(1e-12 - 1.0, value)))
    low, high = min(value, math.tanh(z - half)), max(value, math.tanh(z + half))
    return Estimate(value, Status.OK, low, high, confidence, FOLLOW_BLOCKS, method)


def _test_windows(windows: Floats, n_before: int, run_length: float) -> Floats:
    """Return shift, statistic, threshold and correlation, `(4, n)`, of each window `(n, n_before + n_after)`."""
    is_finite = np.asarray(np.isfinite(windows).all(axis=1))
    windows = np.where(is_finite[:, None], windows, np.nan)
    t = np.arange(windows.shape[1]) - (n_before - 1) / 2.0
    past, ahead = t[:n_before], t[n_before:]
    slope_weights = past / float(past @ past)
    with np.errstate(invalid="ignore", divide="ignore"):
        # The mean is subtracted first, so that a large one does not cost the digits of the deviations.
        centred = windows - windows[:, :n_before].mean(axis=1, keepdims=True)
        slope = centred[:, :n_before] @ slope_weights
        deviation = centred - slope[:, None] * t
        off = deviation[:, n_before:]
        least, most = off.min(axis=1), off.max(axis=1)
        shift = np.where(least > 0.0, least, np.where(most < 0.0, most, np.where(is_finite, 0.0, np.nan)))
        squares, correlation = _assumed_correlation(deviation[:, :n_before])
        forecast = -(1.0 / n_before + float(ahead.mean()) * slope_weights)
        noise = _noise(n_before, (*forecast, *(np.full(len(ahead), 1.0 / len(ahead)))))
        error = np.sqrt(squares * np.interp(correlation, _GRID, noise.variance))
        threshold = -special.stdtrit(np.interp(correlation, _GRID, noise.freedom), 0.5 / run_length)
        return np.stack([shift, shift / error, threshold, correlation])


def _assumed_correlation(residual: Floats) -> tuple[Floats, Floats]:
    """Return the sum of squares and the lag-one autocorrelation to assume for residuals `(n, rows)` of a line.

    The autocorrelation is 0 where all residuals are 0.
    """
    n_rows = residual.shape[1]
    squares = np.square(residual).sum(axis=1)
    lagged = (residual[:, 1:] * residual[:, :-1]).sum(axis=1)
    found = np.divide(lagged, squares, out=np.zeros_like(squares), where=squares != 0.0)
    unbiased = np.clip((found + 2.0 / n_rows) / (1.0 - 4.0 / n_rows), _GRID[0], _GRID[-1])
    raised = unbiased + np.sqrt((1.0 - np.square(unbiased)) / n_rows)
    return squares, np.asarray(np.clip(raised, _GRID[0], _GRID[-1]))


@dataclass(frozen=True, slots=True)
class _Noise:
    """Variance of a contrast over the squares of the residuals, and degrees of freedom, on the grid `_GRID`."""

    variance: Floats
    freedom: Floats


@cache
def _noise(n_fitted: int, contrast: tuple[float, ...]) -> _Noise:
    """Return the effect of first-order noise on a contrast of rows, where a line is fitted to the first `n_fitted`."""
    weights = np.array(contrast)
    index = np.arange(len(weights))
    apart = np.abs(np.subtract.outer(index, index))
    t = np.arange(n_fitted) - (n_fitted - 1) / 2.0
    keep = np.eye(n_fitted) - 1.0 / n_fitted - np.outer(t, t) / float(t @ t)
    variance, freedom = np.empty(len(_GRID)), np.empty(len(_GRID))
    for place, correlation in enumerate(_GRID):
        covariance = correlation**apart
        left = keep @ covariance[:n_fitted, :n_fitted]
        expected = float(np.trace(left))
        variance[place] = float(weights @ covariance @ weights) / expected
        freedom[place] = expected**2 / float((left * left.T).sum())
    return _Noise(variance, freedom)


def _block_means(series: Floats, n_blocks: int) -> tuple[Floats, int]:
    """Return the means of `n_blocks` equal blocks that end with the series, and the rows of each."""
    size = len(series) // n_blocks
    return series[len(series) - n_blocks * size :].reshape(n_blocks, size).mean(axis=1), size
