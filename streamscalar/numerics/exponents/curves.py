"""Divergence curves: their shape, their average over replicas, and the plateau where they saturate."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind

Average = Literal["mean_log", "log_mean"]

HUNDREDFOLD = math.log(100.0)
"""Growth of `ln d` that an exponential phase needs, and the distance that its window keeps from saturation."""

PLATEAU_SHARE = 0.1
"""Largest share of the whole growth between the means of the last two fifths of the rows of a plateau.

A curve that grows exponentially to the end gains 0.2 there; one that saturated after three quarters, 0.08.
"""

LEAST_REPLICAS = 3
"""Perturbed replicas from which a run has its own interval."""


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
        Whether the last fifth is a plateau: its mean exceeds the mean of the fifth before by at most
        `PLATEAU_SHARE` of `growth`. False for fewer than ten rows and where nothing has grown.
    row
        First row at which d is at least half of its saturated value.
    """

    level: float
    growth: float
    is_reached: bool
    row: int

    @property
    def is_of_growth(self) -> bool:
        """Whether the plateau follows at least hundredfold growth, so that it can be a saturation."""
        return self.is_reached and self.growth >= HUNDREDFOLD


def check_rows(steps: NDArray[np.int64], rows: NDArray[np.float64], name: str) -> None:
    """Raise `BadCall` unless `rows`, the argument called `name`, has shape `(T, n)` and `steps` `(T,)`."""
    if rows.ndim != 2 or steps.shape != rows.shape[:1]:
        got = f"{rows.shape} and {steps.shape}"
        raise BadCall(name, "must have shape (T, n), and steps (T,)", got, kind=Kind.DATA)


def mean_log(divergence: NDArray[np.float64], average: Average = "mean_log") -> NDArray[np.float64]:
    """Average divergence curves over replicas.

    Parameters
    ----------
    divergence
        Distances from the reference `(T, M)`, M >= 1.
    average
        `mean_log` (default): mean of the logarithms, which gives each replica's growth the same weight. `log_mean`:
        logarithm of the mean, as in arXiv 2404.05782, which follows the fastest replica.

    Returns
    -------
    ndarray
        `ln d`, `(T,)` float64; minus infinity where d is 0, NaN or infinite where the data are.

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

    Returns
    -------
    Saturation

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
