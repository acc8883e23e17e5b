"""Landmarks: a few snapshots that represent all, picked evenly from all replicas.

Landmarks from the reference alone bias exponents. The reference has distance 0 from its own landmarks, also along
every parameter that training does not change, while each perturbed replica keeps the initial perturbation there: a
kink that inflates small separations. Measured with `l1` distances on a 64-256-10 network on scikit-learn's digits at
learning rate 2, 64 landmarks, exponent of the embedded divergence per step over 4 initial conditions: .661 with all
snapshots as landmarks, .656 with `even_landmarks`, .396 with landmarks from the reference.

Landmarks are picked when the run is complete. Replacing them during a run (C. Thongprayoon, N. Masuda, arXiv
2311.12646) was implemented and removed: they cover space evenly, not time, so few lie late in a run that slows down.
"""

import numpy as np

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.distances import Picked


def even_landmarks(n_rows: int, n_replicas: int, n_landmarks: int) -> Picked:
    """Pick landmarks of a run at even intervals in time, from one replica after the other.

    Parameters
    ----------
    n_rows, n_replicas
        Rows and fitted replicas of the run.
    n_landmarks
        Number of landmarks; all snapshots where there are fewer.

    Returns
    -------
    Picked
        Different snapshots by rising row. The numbers of two replicas differ by at most one.

    Raises
    ------
    BadCall
        If a count is less than 1.

    Examples
    --------
    >>> picked = even_landmarks(n_rows=12, n_replicas=2, n_landmarks=4)
    >>> picked.rows.tolist(), picked.replicas.tolist()
    ([1, 4, 7, 10], [0, 1, 0, 1])
    """
    for name, count in (("n_rows", n_rows), ("n_replicas", n_replicas), ("n_landmarks", n_landmarks)):
        if count < 1:
            raise BadCall(name, "must be at least 1", str(count))
    n_picked = min(n_landmarks, n_rows * n_replicas)
    order = np.arange(n_picked)
    # Of at most n_replicas in one row, no two can be of one replica, as they follow each other.
    return Picked((2 * order + 1) * n_rows // (2 * n_picked), order % n_replicas)
