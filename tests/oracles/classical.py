"""Classical multidimensional scaling of all snapshots at once, by a full singular value decomposition."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """Mean `(P,)`, directions `(K, P)`, singular values `(K,)` over the root of P, and coordinates `(N, K)`.

    `spread` is the root of the total variance, `eigengap` 1 less the ratio of the two leading squared singular values.
    """

    mean: Floats
    components: Floats
    singular_values: Floats
    scores: Floats
    spread: float
    eigengap: float

    @property
    def total_variance(self) -> float:
        """Sum of all squared singular values; infinite where that overflows."""
        return self.spread * self.spread

    @property
    def explained_variance_ratio(self) -> Floats:
        """Share of the total variance along each component, `(K,)`; 0 where nothing varies."""
        return np.square(self.singular_values / (self.spread or 1.0))


def batch_cmds(snapshots: NDArray[np.floating], n_components: int) -> Solution:
    """Embed snapshots `(N, P)`; those that are not finite stay out, directions beyond the rank are 0.

    The sign of each direction makes its entry of largest magnitude positive.
    """
    n_parameters = snapshots.shape[1]
    usable = np.isfinite(snapshots).all(axis=1)
    scores = np.full((len(snapshots), n_components), np.nan)
    rows = snapshots[usable].astype(np.float64)
    if len(rows) == 0:
        empty = np.zeros((n_components, n_parameters))
        return Solution(empty[0], empty, np.zeros(n_components), scores, 0.0, 0.0)
    # Relative to one of the snapshots a constant series is exactly 0, and divided by the largest nothing overflows.
    base = rows[0].copy()
    rows -= base
    offset = rows.mean(axis=0)
    rows -= offset
    largest = float(np.abs(rows).max())
    unit = 2.0 ** math.frexp(largest)[1] if largest else 1.0
    left, sigma, right = np.linalg.svd(rows / unit, full_matrices=False)
    sigma[sigma <= np.finfo(np.float64).eps * max(rows.shape) * sigma[0]] = 0.0
    right[sigma == 0.0] = 0.0
    peaks = np.abs(right).argmax(axis=1)
    signs = np.where(right[np.arange(len(right)), peaks] < 0.0, -1.0, 1.0)
    scale = unit / math.sqrt(n_parameters)
    n = max(2, n_components)
    values, directions = np.zeros(n), np.zeros((n, n_parameters))
    kept = min(n, len(sigma))
    values[:kept] = sigma[:kept] * scale
    directions[:kept] = (right * signs[:, None])[:kept]
    fitted = np.zeros((len(rows), n))
    fitted[:, :kept] = (left * (sigma * scale * signs))[:, :kept]
    scores[usable] = fitted[:, :n_components]
    eigengap = 1.0 - (values[1] / values[0]) ** 2 if values[0] else 0.0
    spread = float(np.linalg.norm(sigma)) * scale
    return Solution(base + offset, directions[:n_components], values[:n_components], scores, spread, eigengap)
