"""Confidence intervals over few independent values, and the mean of the estimates of several runs.

There is no percentile bootstrap: over n initial conditions it covers far less than it states when n is small (73 % at
n = 3 for a stated 95 %).

References
----------
.. [1] B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, section 12.5.
.. [2] C. J. Clopper, E. S. Pearson, Biometrika 26, 404 (1934).
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from streamscalar.errors import BadCall
from streamscalar.types import Estimate, Status

IntervalMethod = Literal["student", "bootstrap_t"]

LEAST_INITIAL_CONDITIONS = 3
"""Values under which no interval is stated."""

LEAST_BOOTSTRAP = 4
"""Values from which the bootstrap-t interval covers what it states."""


def student(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return Student's interval for the mean of `values` `(n,)`, n >= 2.

    Raises
    ------
    BadCall
        If there are fewer than two values, or `confidence` is outside (0, 1).

    Examples
    --------
    >>> low, high = student(np.array([1.0, 2.0, 3.0]), 0.95)
    >>> round(low, 4), round(high, 4)
    (-0.4841, 4.4841)
    """
    _check(values, confidence)
    n = len(values)
    half = float(special.stdtrit(n - 1, (1.0 + confidence) / 2.0)) * float(values.std(ddof=1)) / math.sqrt(n)
    mean = float(values.mean())
    return mean - half, mean + half


def bootstrap_t(
    values: NDArray[np.float64], confidence: float, n_bootstrap: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the bootstrap-t interval for the mean of `values` `(n,)`, n >= 2.

    Each resample is studentised by its own standard error [1]_. Resamples that drew one value n times have
    no error and are left out: one in nine at n = 3, which is why `over_initial_conditions` uses Student's
    interval there. Measured coverage of a stated 95 %, normal and exponential values: n = 3: .82 and .77, 4:
    .95 and .92, 10: .94 and .94; Student's: n = 3: .95 and .88, 4: .95 and .87, 10: .95 and .90.

    Parameters
    ----------
    values
        Independent values.
    confidence
        Stated coverage in (0, 1).
    n_bootstrap
        Number of resamples.
    rng
        Source of the resamples.

    Raises
    ------
    BadCall
        If there are fewer than two values, or `confidence` is outside (0, 1).
    """
    _check(values, confidence)
    n = len(values)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n)
    drawn = values[rng.integers(n, size=(n_bootstrap, n))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
    sound = errors > 1e-9 * error
    if error == 0.0 or not sound.any():
        return mean, mean
    pivots = (drawn.mean(axis=1)[sound] - mean) / errors[sound]
    tail = (1.0 - confidence) / 2.0
    below, above = np.quantile(pivots, [tail, 1.0 - tail])
    return mean - float(above) * error, mean - float(below) * error


def binomial(n_hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval for a share, which covers at least what it states [2]_.

    Parameters
    ----------
    n_hits, n
        Number of hits in n trials.
    confidence
        Stated coverage in (0, 1).

    Raises
    ------
    BadCall
        If there is no trial, or `n_hits` is outside 0..n.

    Examples
    --------
    >>> low, high = binomial(3, 3, 0.95)
    >>> round(low, 4), high
    (0.2924, 1.0)
    """
    if not 0 <= n_hits <= n or n == 0:
        raise BadCall("n_hits", f"must lie in 0..{n}, of at least one trial", str(n_hits))
    tail = (1.0 - confidence) / 2.0
    low = float(special.betaincinv(n_hits, n - n_hits + 1, tail)) if n_hits else 0.0
    high = float(special.betaincinv(n_hits + 1, n - n_hits, 1.0 - tail)) if n_hits < n else 1.0
    return low, high


def over_initial_conditions(
    estimates: Sequence[Estimate],
    method: IntervalMethod,
    confidence: float,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> Estimate:
    """Combine one estimate per initial condition into their mean with an interval.

    Parameters
    ----------
    estimates
        One per initial condition, any status.
    method, confidence, n_bootstrap, rng
        The interval; only `bootstrap_t` uses the last two. With fewer than `LEAST_BOOTSTRAP` values the interval is
        always Student's, and `method` of the result says so.

    Returns
    -------
    Estimate
        Mean of the available values; `n` counts them, and the message lists the missing ones. Statuses:
        `too_few_initial_conditions` with fewer than three values, which the message holds; the most common failing
        status with none; `missing` without any estimate.
    """
    sound = [estimate for estimate in estimates if estimate.is_ok]
    used = method if len(sound) >= LEAST_BOOTSTRAP else "student"
    name = f"mean over initial conditions, {used}" + (f"; {sound[0].method}" if sound else "")
    if not estimates:
        return Estimate.failed(Status.MISSING, method=name)
    if not sound:
        return _commonest(estimates, name)
    values = np.array([estimate.value for estimate in sound], dtype=np.float64)
    left_out = _left_out(estimates)
    if len(values) < LEAST_INITIAL_CONDITIONS:
        single = ", ".join(f"{value:.6g}" for value in values)
        what = f"Of {len(estimates)} initial conditions, {len(values)} gave a value: {single}.{left_out}"
        return Estimate.failed(Status.TOO_FEW_INITIAL_CONDITIONS, n=len(values), method=name, what=what)
    if used == "student":
        low, high = student(values, confidence)
    else:
        low, high = bootstrap_t(values, confidence, n_bootstrap, rng)
    message = f"{len(values)} of {len(estimates)} initial conditions gave a value.{left_out}"
    return Estimate(float(values.mean()), Status.OK, low, high, confidence, len(values), name, message=message)


def steps_over_initial_conditions(
    estimates: Sequence[Estimate],
    method: IntervalMethod,
    confidence: float,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> Estimate:
    """Combine steps to a target into their mean with an interval.

    Parameters
    ----------
    estimates, method, confidence, n_bootstrap, rng
        As for `over_initial_conditions`.

    Returns
    -------
    Estimate
        As `over_initial_conditions` where all initial conditions reached the target. Status `partly_reached` where
        only some did, because their mean would be too small; `not_reached`, or the most common failing status, where
        none did.
    """
    n_reached = sum(estimate.is_ok for estimate in estimates)
    if n_reached and any(estimate.status is Status.NOT_REACHED for estimate in estimates):
        what = f"{n_reached} of {len(estimates)} initial conditions reached the target."
        name = f"mean over initial conditions, {method}"
        return Estimate.failed(Status.PARTLY_REACHED, n=n_reached, method=name, what=what)
    return over_initial_conditions(estimates, method, confidence, n_bootstrap, rng)


def _check(values: NDArray[np.float64], confidence: float) -> None:
    if values.ndim != 1 or len(values) < 2:
        raise BadCall("values", "must be at least two numbers", str(values.shape))
    if not 0.0 < confidence < 1.0:
        raise BadCall("confidence", "must lie between 0 and 1", str(confidence))


def _counts(estimates: Sequence[Estimate]) -> list[tuple[Status, int]]:
    """Return the failing statuses and how often each occurs, most common first."""
    return Counter(estimate.status for estimate in estimates if not estimate.is_ok).most_common()


def _left_out(estimates: Sequence[Estimate]) -> str:
    """Return a sentence on the estimates without a value, empty if there are none."""
    counts = _counts(estimates)
    return f" Left out: {', '.join(f'{n} {status}' for status, n in counts)}." if counts else ""


def _commonest(estimates: Sequence[Estimate], method: str) -> Estimate:
    """Return an estimate with the most common failing status."""
    status, n = _counts(estimates)[0]
    what = f"{n} of {len(estimates)} initial conditions."
    return Estimate.failed(status, n=0, method=method, what=what)
