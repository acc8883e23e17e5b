"""Signs and shares of the components of classical multidimensional scaling.

Classical scaling of the RMS distances (Euclidean distance over the root of P) between N snapshots is the same
as the singular value decomposition of the centred snapshots divided by the root of P [1]_ [2]_: the doubly
centred matrix of squared distances, times -1/2, is the Gram matrix of those rows. So no distance is ever
computed.

References
----------
.. [1] W. S. Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 401 (1952).
.. [2] J. C. Gower, Some distance properties of latent root and vector methods, Biometrika 53, 325 (1966).
"""

import numpy as np
from numpy.typing import NDArray


def squared(spread: float) -> float:
    """Return the square of a non-negative number, infinite instead of an error where that overflows."""
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

    Each component is compared with the earlier component that it overlaps most, which is its namesake unless
    two directions changed places. One that overlaps nothing is oriented by its largest entry.

    Parameters
    ----------
    components
        New directions `(K, P)`.
    previous
        Earlier directions `(L, P)`.

    Returns
    -------
    ndarray
        `(K,)` of 1 and -1; multiply components and scores by it.
    """
    if len(previous) == 0:
        return orient(components)
    overlap = components @ previous.T
    strongest = overlap[np.arange(len(components)), np.abs(overlap).argmax(axis=1)]
    return np.where(strongest == 0.0, orient(components), np.where(strongest < 0.0, -1.0, 1.0))
