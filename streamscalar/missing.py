"""The value of a metric that was not reported at a row: a NaN with a payload, which is no result of a computation."""

import numpy as np
from numpy.typing import NDArray

_BITS = np.uint64(0x7FF8_0000_0000_5353)

MISSING = float(_BITS.view(np.float64))
"""NaN of no computation; arrays and stores keep its bits."""


def is_missing(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where `values` were not reported, as opposed to being NaN.

    Examples
    --------
    >>> is_missing(np.array([1.0, np.nan, MISSING])).tolist()
    [False, False, True]
    """
    return np.asarray(np.ascontiguousarray(values, np.float64).view(np.uint64) == _BITS)
