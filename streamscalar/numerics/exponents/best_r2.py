"""The published recipe for the exponent of an exponential phase, for comparison with figures in the literature.

References
----------
.. [1] D. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv 2404.05782.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.curves import check_rows, mean_log
from streamscalar.types import Estimate, Status

STARTS = range(0, 101, 5)
"""First rows of the candidate windows."""

LENGTHS = range(30, 101, 5)
"""Numbers of rows of the candidate windows."""

LEAST_R2 = 0.9
"""Coefficient of determination above which the best window is accepted."""

LEAST_SLOPE = 0.05
"""Slope per step above which the best window is accepted."""


def nmle_best_r2(steps: NDArray[np.int64], divergence: NDArray[np.float64], confidence: float = 0.95) -> Estimate:
    """Estimate the exponent by the recipe of arXiv 2404.05782: the window of best linear fit.

    The logarithm of the mean distance over the replicas is fitted by a line in every window of `STARTS` and
    `LENGTHS` that fits into the rows. The window of largest R^2 is selected, and accepted where R^2 exceeds
    `LEAST_R2` and the slope `LEAST_SLOPE` [1]_.

    **A trap**: where growth ends within fewer rows than the shortest window, the best line is on the saturated
    plateau. Then a chaotic run is rejected, or a slow creep is measured in place of its growth. The window of `nmle`
    cannot slide there; use this estimate only to compare with published figures.

    Parameters
    ----------
    steps
        Training step of each row, `(T,)`, rising. The windows count rows: record every step, as the source
        does, to get its windows.
    divergence
        Distances of the perturbed replicas from the reference, `(T, M)`. Rows beyond the last window (row
        199) are not used.
    confidence
        Checked and otherwise unused, as there is no interval; it gives this the signature of `nmle`.

    Returns
    -------
    Estimate
        Value in 1 per step; `n` is M and `window` the first and last step of the best window, also where it
        is rejected. Never an interval: the window was selected on the same rows that it fits, so the error
        of the fit is not the error of the estimate, and one run is one initial condition. Combine runs with
        `over_initial_conditions`; the source quotes the standard deviation over initial conditions.
        Statuses: `too_few_replicas` (M = 0), `too_few_rows` (under 30), `non_finite`, `contracted` (all
        replicas at separation 0 in some row), `no_exponential_phase` (rejected).

    Raises
    ------
    BadCall
        If the shapes do not agree or `confidence` is outside (0, 1).

    Notes
    -----
    The source leaves two cases open. Where R^2 is tied, the earliest start and then the shortest window
    is selected. A window of exactly equal values has no R^2 and is skipped.

    Cost: 315 windows, 2 ms. Each is centred on its own mean. Differences of cumulative sums over the centred
    series would be cheaper, but lose the R^2 of an almost flat window, whose squares are the small remainder of
    large ones: wrong by 4e-4 on a plateau that moves by 1e-6.

    Examples
    --------
    >>> steps = np.arange(201)
    >>> curve = np.exp(np.minimum(0.3 * steps - 18.0, 2.0) + 0.01 * np.cos(steps))
    >>> found = nmle_best_r2(steps, curve[:, None])
    >>> round(found.value, 3), found.window
    (0.3, (0, 64))
    """
    check_rows(steps, divergence, "divergence")
    if not 0.0 < confidence < 1.0:
        raise BadCall("confidence", "must lie between 0 and 1", str(confidence))
    method = "nmle, window of best R^2, log_mean"
    last = STARTS[-1] + LENGTHS[-1]
    steps, divergence = steps[:last], divergence[:last]
    failed = _unusable(divergence, method)
    if failed is not None:
        return failed
    n_replicas = divergence.shape[1]
    starts, lengths, slopes, r2 = _fits(steps.astype(np.float64), mean_log(divergence, "log_mean"))
    if len(r2) == 0:
        what = "Separations do not change in any window."
        return Estimate.failed(Status.NO_EXPONENTIAL_PHASE, n=n_replicas, method=method, what=what)
    # Lexicographic order resolves ties in favour of the earliest start, then of the shortest window.
    best = np.lexsort((lengths, starts, -r2))[0]
    window = (int(steps[starts[best]]), int(steps[starts[best] + lengths[best] - 1]))
    value, fit = float(slopes[best]), float(r2[best])
    found = f"The best of {len(r2)} windows has R^2 {fit:.4g} and slope {value:.3g} per step"
    if fit <= LEAST_R2 or value <= LEAST_SLOPE:
        what = f"{found}; the recipe accepts R^2 > {LEAST_R2:g} and slope > {LEAST_SLOPE:g}."
        return Estimate.failed(Status.NO_EXPONENTIAL_PHASE, n=n_replicas, method=method, what=what, window=window)
    message = f"{found}. No interval: the window was selected on the rows that it fits; combine initial conditions."
    return Estimate(value, Status.OK, n=n_replicas, method=method, window=window, message=message)


def _unusable(divergence: NDArray[np.float64], method: str) -> Estimate | None:
    """Return the failed estimate where no window can be fitted, or `None`.

    Unlike for the mean of logarithms, one replica at separation 0 leaves the logarithm of the mean finite.
    """
    n_rows, n_replicas = divergence.shape
    if n_replicas == 0:
        return Estimate.failed(Status.TOO_FEW_REPLICAS, method=method)
    if n_rows < LENGTHS[0]:
        what = f"{n_rows} rows; the shortest window has {LENGTHS[0]}."
        return Estimate.failed(Status.TOO_FEW_ROWS, n=n_replicas, method=method, what=what)
    is_bad = ~np.isfinite(divergence).all(axis=1)
    if is_bad.any():
        what = f"First at row {int(np.argmax(is_bad))}."
        return Estimate.failed(Status.NON_FINITE, n=n_replicas, method=method, what=what)
    is_zero = (divergence <= 0.0).all(axis=1)
    if is_zero.any():
        what = f"All replicas reached separation 0, first at row {int(np.argmax(is_zero))}."
        return Estimate.failed(Status.CONTRACTED, n=n_replicas, method=method, what=what)
    return None


def _fits(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return first row, number of rows, slope and R^2 of every window that fits and is not constant."""
    all_starts = np.array(STARTS)
    parts = []
    for length in LENGTHS:
        starts = all_starts[all_starts + length <= len(y)]
        if len(starts) == 0:
            break
        run = sliding_window_view(x, length)[starts]
        rise = sliding_window_view(y, length)[starts]
        changes = rise.min(axis=1) < rise.max(axis=1)
        starts, run, rise = starts[changes], run[changes], rise[changes]
        run = run - run.mean(axis=1, keepdims=True)
        rise = rise - rise.mean(axis=1, keepdims=True)
        slopes = (run * rise).sum(axis=1) / np.square(run).sum(axis=1)
        left = np.square(rise - slopes[:, None] * run).sum(axis=1)
        parts.append((starts, np.full(len(starts), length), slopes, 1.0 - left / np.square(rise).sum(axis=1)))
    starts, lengths, slopes, r2 = (np.concatenate(column) for column in zip(*parts, strict=True))
    return starts, lengths, slopes, r2
