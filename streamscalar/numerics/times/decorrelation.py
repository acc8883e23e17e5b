"""Decorrelation time: when the test accuracy of a replica stops following that of its reference.

Both estimators correlate windows of 20 rows, linearly detrended, of the accuracies of the reference and of a replica
[1]_. They differ in their null distribution. The published rule compares one window at a time with circular shifts of
the whole series and stops at the first that passes; with many windows, one passes by chance while the correlation
lasts. The other one needs a run of windows that are all within chance, and its null distribution consists of runs of
whole windows at other times, which keep the autocorrelation that single rows or short blocks would lose.

References
----------
.. [1] P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv 2606.30384 (2026).
.. [2] B. V. North, D. Curtis, P. C. Sham, Am. J. Hum. Genet. 71, 439 (2002): p = (1 + hits) / (1 + draws).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.times.replica_times import mean_over_replicas
from streamscalar.types import Estimate, Status

WINDOW_ROWS = 20
"""Number of rows of a window."""

RUN_WINDOWS = 20
"""Consecutive windows over which a correlation must stay lost; they span 39 rows."""

LEAST_ROWS = 4 * WINDOW_ROWS
"""Least rows for which there are enough windows at other times for a null distribution."""

SIGNIFICANCE = 0.05
"""p-value up to which a correlation counts as more than chance."""

LEAST_SHIFTS = 19
"""Least number of shifts with which p = 1 / (1 + n) can be as small as `SIGNIFICANCE`."""

LARGEST_CORRELATION = 0.5
"""Magnitude under which a correlation may count as lost."""


def decorrelation_time_published(
    steps: NDArray[np.int64],
    reference: NDArray[np.float64],
    perturbed: NDArray[np.float64],
    rng: np.random.Generator,
    n_shifts: int = 500,
    confidence: float = 0.95,
) -> Estimate:
    """Apply the rule of [1]_ as published, for comparison.

    For each replica, the first window whose r lies inside the central 95 % of its null distribution, with p > .05
    and |r| < .5; then the mean over replicas. Where the paper leaves a choice: the null distribution shifts the whole
    series of the replica by 1..T-1 rows, drawn with replacement, and correlates the same window (a window of 20 rows
    has only 19 shifts of its own rows); p is two-sided; the time of a window is the step at its centre.

    Parameters
    ----------
    steps
        Training step of each row `(T,)`, rising, evenly spaced.
    reference, perturbed
        Test accuracies `(T,)` and `(T, M)`.
    rng
        Source of the shifts.
    n_shifts
        Number of shifts per replica.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        A step; the mean is over the replicas that have one, which `n` counts. Student's interval over them with
        three or more. Statuses: `too_few_replicas` (M = 0), `too_few_rows` (fewer than a window and a row),
        `non_finite`, `constant` (no window in which both vary), `not_decorrelated`.

    Raises
    ------
    BadCall
        As for `decorrelation_time`.

    Examples
    --------
    >>> accuracy = np.random.default_rng(1).normal(size=(201, 3))
    >>> decorrelation_time_published(
    ...     np.arange(201), accuracy[:, 0], accuracy[:, 1:], np.random.default_rng(2)
    ... ).value
    9.5
    """
    method = "first windowed r within circular shifts, arXiv 2606.30384"
    _check_call(steps, reference, perturbed, n_shifts)
    failed = _unusable(reference, perturbed, WINDOW_ROWS + 1, method)
    if failed is not None:
        return failed
    n_rows, n_replicas = perturbed.shape
    ring = np.concatenate([perturbed, perturbed[: WINDOW_ROWS - 1]])
    r = _correlations(reference, ring)
    real = _shifted(r, np.zeros(1, dtype=np.int64))[:, 0]
    if np.isnan(real).all():
        return _constant(n_replicas, method)
    every = _shifted(r, np.arange(1, n_rows))
    null = np.array([of[rng.integers(len(of), size=n_shifts)] for of in every])
    is_lost = (_share(np.abs(null), np.abs(real)) > SIGNIFICANCE) & (np.abs(real) < LARGEST_CORRELATION)
    tail = SIGNIFICANCE / 2.0
    is_lost &= (_share(null, real) > tail) & (_share(-null, -real) > tail)
    times = np.where(is_lost.any(axis=1), _centres(steps)[is_lost.argmax(axis=1)], np.nan)
    return mean_over_replicas(times, Status.NOT_DECORRELATED, method, confidence)


def decorrelation_time(
    steps: NDArray[np.int64],
    reference: NDArray[np.float64],
    perturbed: NDArray[np.float64],
    rng: np.random.Generator,
    n_shifts: int = 500,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate when accuracies lose their correlation with the reference and stay without it.

    A *run* is `RUN_WINDOWS` consecutive windows; its statistic is their largest r. This single statistic corrects for
    the many windows tested. Null distribution: the same statistic between the windows of the reference and the
    windows of the replicas at another time, a shift of the ring of windows by at least a window; for the average over
    replicas each replica has its own shift. Every shifted window is a stretch of 20 successive rows, so the
    autocorrelation within it is kept.

    1. The replicas together have lost the reference at the first run in which the largest r, averaged over
       replicas, has p > .05 (one-sided: a shared past gives a positive r). Averaging finds correlations that are
       too weak to show in one replica.
    2. The time of each replica is the centre of the first window, at most a window before that, whose run has a
       largest |r| with p > .05 and a mean |r| under .5. The estimate is the mean over all replicas.

    Windows where an accuracy is constant have no r; a run needs r in half of its windows, a mean over replicas in
    half of the replicas.

    Parameters
    ----------
    steps
        Training step of each row `(T,)`, rising, evenly spaced.
    reference, perturbed
        Test accuracies `(T,)` and `(T, M)`.
    rng
        Source of the shifts.
    n_shifts
        Number of draws for the replicas together; for a single replica all shifts are compared.
    confidence
        Stated coverage of the interval.

    Returns
    -------
    Estimate
        A step; `n` is M, `window` the first and last step of the windows of those times. With three or more replicas
        an interval: Student's over the times of the replicas, plus half a window on both sides, which is the
        resolution of a single time. Statuses: `too_few_replicas` (M = 0), `too_few_rows` (under `LEAST_ROWS`),
        `non_finite`, `constant` (no run with enough r), `not_decorrelated`, also where one replica never loses
        the reference: a mean over the others would be too early.

    Raises
    ------
    BadCall
        If the shapes do not agree, there are fewer than `LEAST_SHIFTS` shifts, or `confidence` is outside (0, 1).

    Notes
    -----
    Measured with 5 replicas and 201 rows, 100 seeds each, accuracies autocorrelated from row to row by 0, .6, .9:

    ================================================  ======  ======  ======
    share of the variance that all have in common          0      .6      .9
    ================================================  ======  ======  ======
    0: times within a window of the first              100 %   100 %   100 %
    .8 until step 70: times within 20 steps of it      100 %   100 %    99 %
    .8 until step 70: intervals that hold it            99 %    99 %    96 %
    .5 until step 70: times within 20 steps of it       81 %    66 %    54 %
    .8 to the end: `not_decorrelated`                  100 %   100 %   100 %
    .5 to the end: `not_decorrelated`                   93 %    81 %    47 %
    ================================================  ======  ======  ======

    The time of a weak correlation is too early, and two slow series correlate by chance. Where the times of the
    replicas scatter by 15 steps, 95 to 99 % of the intervals hold their mean. A learning curve that all replicas
    share and that bends within a window counts as correlation: detrending is linear. Cost: 11 ms of processor
    time for T = 201, M = 5.

    Tested and rejected: blocks shuffled inside a window (blocks of a few rows do not keep the autocorrelation, and
    20 rows have too few of them); one common shift for all replicas (the correlation among replicas then widens the
    null distribution: half of the variance shared to the end, without autocorrelation, passed in 66 %).

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> accuracy = rng.normal(size=(201, 6))
    >>> accuracy[:80] = accuracy[:80, :1]
    >>> found = decorrelation_time(np.arange(201), accuracy[:, 0], accuracy[:, 1:], np.random.default_rng(4))
    >>> abs(found.value - 80) < 10
    True
    """
    method = "runs of windowed r within shifted windows"
    _check_call(steps, reference, perturbed, n_shifts)
    failed = _unusable(reference, perturbed, LEAST_ROWS, method)
    if failed is not None:
        return failed
    n_replicas = perturbed.shape[1]
    r = _correlations(reference, perturbed)
    real = _shifted(r, np.zeros(1, dtype=np.int64))[:, 0]
    joint = _largest(_mean_of_replicas(real))
    if np.isnan(joint).all():
        return _constant(n_replicas, method)
    own = _largest(np.abs(real))
    is_small = _mean(np.abs(real)) < LARGEST_CORRELATION
    every = _shifted(r, np.arange(WINDOW_ROWS, r.shape[1] - WINDOW_ROWS + 1))
    null = np.array([of[rng.integers(len(of), size=n_shifts)] for of in every])
    chance = _share(_largest(_mean_of_replicas(null))[None], joint[None])[0]
    is_lost = chance > SIGNIFICANCE
    if not is_lost.any():
        what = f"{int(np.isnan(real).any(axis=0).sum())} of {real.shape[1]} windows hold a constant accuracy."
        return Estimate.failed(Status.NOT_DECORRELATED, n=n_replicas, method=method, what=what)
    first = max(0, int(is_lost.argmax()) - WINDOW_ROWS)
    is_own = ((_share(_largest(np.abs(every)), own) > SIGNIFICANCE) & is_small)[:, first:]
    if not is_own.any(axis=1).all():
        n_left = int((~is_own.any(axis=1)).sum())
        what = f"{n_left} of {n_replicas} replicas never lose the reference for {RUN_WINDOWS} windows."
        return Estimate.failed(Status.NOT_DECORRELATED, n=n_replicas, method=method, what=what)
    rows = first + is_own.argmax(axis=1)
    used = (int(steps[rows.min()]), int(steps[rows.max() + WINDOW_ROWS - 1]))
    blur = float(steps[WINDOW_ROWS - 1] - steps[0]) / 2.0
    return mean_over_replicas(
        _centres(steps)[rows], Status.NOT_DECORRELATED, method, confidence, blur=blur, window=used
    )


def _check_call(
    steps: NDArray[np.int64], reference: NDArray[np.float64], perturbed: NDArray[np.float64], n_shifts: int
) -> None:
    if perturbed.ndim != 2 or not len(steps) == len(reference) == len(perturbed) or reference.ndim != 1:
        shapes = f"{steps.shape}, {reference.shape}, {perturbed.shape}"
        raise BadCall("steps, reference, perturbed", "must have shapes (T,), (T,), (T, M)", shapes)
    if n_shifts < LEAST_SHIFTS:
        raise BadCall("n_shifts", f"must be at least {LEAST_SHIFTS}", str(n_shifts))


def _unusable(
    reference: NDArray[np.float64], perturbed: NDArray[np.float64], least_rows: int, method: str
) -> Estimate | None:
    """Return the failed estimate where there is nothing to correlate, or `None`."""
    n_rows, n_replicas = perturbed.shape
    if n_replicas == 0:
        return Estimate.failed(Status.TOO_FEW_REPLICAS, method=method)
    if n_rows < least_rows:
        what = f"{n_rows} rows; {least_rows} are needed."
        return Estimate.failed(Status.TOO_FEW_ROWS, n=n_replicas, method=method, what=what)
    if not (np.isfinite(reference).all() and np.isfinite(perturbed).all()):
        return Estimate.failed(Status.NON_FINITE, n=n_replicas, method=method)
    return None


def _constant(n_replicas: int, method: str) -> Estimate:
    """Return the failed estimate for accuracies that do not vary."""
    what = f"Accuracies hardly change within windows of {WINDOW_ROWS} rows, so they have no correlation."
    return Estimate.failed(Status.CONSTANT, n=n_replicas, method=method, what=what)


def _centres(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the step in the middle of each window."""
    return (steps[: len(steps) - WINDOW_ROWS + 1] + steps[WINDOW_ROWS - 1 :]) / 2.0


def _windows(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the detrended windows `(M, W, WINDOW_ROWS)` of `(T, M)`, of length 1; 0 where constant or a line."""
    cut = sliding_window_view(series.T, WINDOW_ROWS, axis=1)
    time = np.arange(WINDOW_ROWS) - (WINDOW_ROWS - 1) / 2.0
    cut = cut - cut.mean(axis=2, keepdims=True)
    cut = cut - (cut @ time / (time @ time))[..., None] * time
    length = np.sqrt(np.square(cut).sum(axis=2, keepdims=True))
    # The residual of a constant or a straight line is rounding.
    varies = length > 1e-12 * WINDOW_ROWS * np.abs(series).max()
    return np.where(varies, cut / np.where(varies, length, 1.0), 0.0)


def _correlations(reference: NDArray[np.float64], perturbed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return r `(M, W, V)` between window w of the reference and window v of each replica; NaN where undefined."""
    first, second = _windows(reference[:, None]), _windows(perturbed)
    r = first @ second.transpose(0, 2, 1)
    is_defined = np.asarray(first.any(axis=2))[..., None] & np.asarray(second.any(axis=2))[:, None]
    return np.asarray(np.where(is_defined, r, np.nan))


def _shifted(r: NDArray[np.float64], shifts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return r `(M, K, W)` between each window of the reference and the one `shifts` `(K,)` later on the ring."""
    n_windows, n_ring = r.shape[1:]
    window = np.arange(n_windows)
    return np.asarray(r[:, window, (window + shifts[:, None]) % n_ring])


def _share(null: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of `null` `(M, B, W)` that is at least `real` `(M, W)`, which is counted too [2]_.

    The share is NaN where `real` or over half of `null` is.
    """
    # A tolerance, as two computations of the same r may differ in the last bit.
    hits = (null >= real[:, None] - 1e-12).sum(axis=1)
    known = (~np.isnan(null)).sum(axis=1)
    is_sound = ~np.isnan(real) & (2 * known >= null.shape[1])
    return np.asarray(np.where(is_sound, (1.0 + hits) / (1.0 + known), np.nan))


def _mean_of_replicas(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the first axis, NaN where over half of it is NaN."""
    known = ~np.isnan(r)
    count = known.sum(axis=0)
    total = np.where(known, r, 0.0).sum(axis=0)
    return np.asarray(np.where(2 * count >= len(r), total / np.maximum(count, 1), np.nan))


def _is_run(r: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether at least half of each `RUN_WINDOWS` values on the last axis are known."""
    return 2 * _sums((~np.isnan(r)).astype(np.float64)) >= RUN_WINDOWS


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of each `RUN_WINDOWS` consecutive values on the last axis."""
    total = np.cumsum(values, axis=-1)
    before = np.concatenate([np.zeros_like(total[..., :1]), total[..., :-RUN_WINDOWS]], axis=-1)
    return np.asarray(total[..., RUN_WINDOWS - 1 :] - before)


def _mean(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the known values of each run on the last axis, NaN where they are too few."""
    known = ~np.isnan(r)
    count = _sums(known.astype(np.float64))
    mean = _sums(np.where(known, r, 0.0)) / np.maximum(count, 1.0)
    return np.asarray(np.where(_is_run(r), mean, np.nan))


def _largest(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest known value of each run on the last axis, NaN where they are too few."""
    largest, span = np.where(np.isnan(r), -np.inf, r), 1
    while span < RUN_WINDOWS:
        step = min(span, RUN_WINDOWS - span)
        largest = np.maximum(largest[..., :-step], largest[..., step:])
        span += step
    return np.asarray(np.where(_is_run(r), largest, np.nan))
