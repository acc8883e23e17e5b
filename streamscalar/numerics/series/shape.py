"""The shape of a scalar trajectory: features that are comparable between runs with different parameters.

They do not depend on unit, sign and origin of the coordinate, which are not comparable between two embeddings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_ROWS = 8
"""Least rows of a curve with a shape."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Features of one scalar trajectory.

    Attributes
    ----------
    speed
        Path length over range: 1 for a monotonic curve, large for one that goes back and forth.
    curvature
        Median magnitude of the second difference over that of the first: near 0 for smooth curves, 2 for alternating
        ones.
    autocorrelation
        Autocorrelation of consecutive moves, -1 to 1: positive for smooth curves, negative for overshooting ones.
    """

    speed: float
    curvature: float
    autocorrelation: float


def shape(curve: NDArray[np.float64]) -> Shape | None:
    """Return the shape of a curve `(N,)`; `None` for fewer than `LEAST_ROWS` finite rows or a constant curve.

    The first row that is not finite and all rows after it are left out.

    Examples
    --------
    >>> shape(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]))
    Shape(speed=7.0, curvature=2.0, autocorrelation=-1.0)
    """
    broken = np.flatnonzero(~np.isfinite(curve))
    finite = curve[: broken[0]] if len(broken) else curve
    if len(finite) < LEAST_ROWS:
        return None
    extent = float(np.ptp(finite))
    # Scaled first, so that squares neither overflow nor vanish.
    moves = np.diff(finite / extent) if 0 < extent < np.inf else np.zeros(0)
    if not moves.any() or not np.isfinite(moves).all():
        return None
    first = float(np.median(np.abs(moves)))
    second = float(np.median(np.abs(np.diff(moves))))
    energy = float((moves[:-1] ** 2).sum() * (moves[1:] ** 2).sum()) ** 0.5
    return Shape(
        speed=float(np.abs(moves).sum()),
        curvature=second / first if first > 0 else 0.0,
        autocorrelation=float((moves[:-1] * moves[1:]).sum()) / energy if energy > 0 else 0.0,
    )
