"""Signs of components, and figures of their singular values, that all embeddings share."""

import numpy as np
from numpy.typing import NDArray


def squared(spread: float) -> float:
    """Return the square of a non-negative number; infinite where it overflows."""
    return spread * spread


def gap(singular_values: NDArray[np.float64]) -> float:
    """Return one minus the ratio of the two leading eigenvalues; 0 where nothing varies."""
    first, second = float(singular_values[0]), float(singular_values[1])
    return 1.0 - (second / first) ** 2 if first > 0.0 else 0.0


def orient(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signs `(K,)` that make the entry of largest magnitude of each component positive."""
    peaks = np.abs(components).argmax(axis=1)
    return np.where(components[np.arange(len(components)), peaks] < 0.0, -1.0, 1.0)


def align(components: NDArray[np.float64], previous: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signs that keep components continuous with an earlier basis.

    Each component is compared with the earlier component that it overlaps most, which has the same index unless
    two directions changed places. A component without overlap is oriented by its largest entry.

    Parameters
    ----------
    components
        New directions `(K, P)`.
    previous
        Earlier directions `(L, P)`.

    Returns
    -------
    ndarray
        `(K,)` float64 of 1 and -1; multiply components and scores by it.
    """
    if len(previous) == 0:
        return orient(components)
    overlap = components @ previous.T
    strongest = overlap[np.arange(len(components)), np.abs(overlap).argmax(axis=1)]
    return np.where(strongest == 0.0, orient(components), np.where(strongest < 0.0, -1.0, 1.0))
