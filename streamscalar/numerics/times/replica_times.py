"""The mean of the times of the replicas of one run."""

import numpy as np
from numpy.typing import NDArray

from streamscalar.numerics.exponents.curves import LEAST_REPLICAS
from streamscalar.numerics.intervals import student
from streamscalar.types import Estimate, Status


def mean_over_replicas(
    times: NDArray[np.float64],
    missing: Status,
    method: str,
    confidence: float,
    blur: float = 0.0,
    window: tuple[int, int] | None = None,
) -> Estimate:
    """Average the times of the replicas, with Student's interval where three or more have one.

    Parameters
    ----------
    times
        Time of each replica in steps, `(M,)`; NaN where a replica has none.
    missing
        Status where no replica has a time.
    method, confidence, window
        Fields of the estimate.
    blur
        Resolution of a single time in steps, added to both sides of the interval.

    Returns
    -------
    Estimate
        The mean over the replicas that have a time, which `n` counts.
    """
    known = times[np.isfinite(times)]
    if len(known) == 0:
        return Estimate.failed(missing, n=len(times), method=method)
    value = float(known.mean())
    message = f"{len(known)} of {len(times)} perturbed replicas of one run have a time."
    if len(known) < LEAST_REPLICAS:
        message += f" No interval: it needs {LEAST_REPLICAS}."
        return Estimate(value, Status.OK, n=len(known), method=method, window=window, message=message)
    low, high = student(known, confidence)
    return Estimate(value, Status.OK, low - blur, high + blur, confidence, len(known), method, window, message)
