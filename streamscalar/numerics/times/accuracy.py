"""The step at which the accuracy reaches a target."""

import numpy as np
from numpy.typing import NDArray

from streamscalar.types import Estimate, Status


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
        A step. Statuses: `not_reached`; `too_few_rows` without any row.

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
