"""Exact leading directions of a small run with few parameters: one read and a singular value decomposition."""

import math

import numpy as np

from streamscalar.numerics.blocks import differences, power_of_two, usable_rows, zeroed
from streamscalar.numerics.embedding.sources import Leading, SnapshotSource


def direct_directions(source: SnapshotSource, fit: list[int], n_components: int) -> Leading:
    """Return the leading `n_components` directions of the replicas in `fit`.

    Cost: `n * P * P` operations for n fitted snapshots, one read. Memory: three copies of the run.
    """
    block = np.concatenate(list(source.by_rows()))
    usable = usable_rows(block)
    root = math.sqrt(source.n_parameters)
    rows = zeroed(block, usable)
    fitted = usable[:, fit]
    base = rows[:, fit][fitted][:1].sum(axis=0)
    # Relative to one of the snapshots, a constant series is exactly 0 and its mean exact.
    rows -= base
    centre = rows[:, fit][fitted].sum(axis=0) / max(int(fitted.sum()), 1)
    rows -= centre
    rows[~usable] = 0.0
    chosen = rows[:, fit][fitted]
    unit = power_of_two(float(np.abs(chosen).max(initial=0.0)))
    left, sigma, right = np.linalg.svd(chosen / unit, full_matrices=False)
    rank = int((sigma > np.finfo(np.float64).eps * max(chosen.shape, default=0) * sigma[:1]).sum())
    kept = min(rank, n_components)
    components = right[:kept]
    scores = rows @ components.T
    off = scores[:, fit][fitted] / unit - left[:, :kept] * sigma[:kept]
    separation = differences(block, usable) @ components[0] / root if kept else np.zeros(usable.shape)
    return Leading(
        mean=base + centre,
        components=components,
        singular_values=sigma[: max(2, n_components)][:rank] * (unit / root),
        scores=scores / root,
        separation=separation,
        usable=usable,
        spread=float(np.linalg.norm(sigma)) * (unit / root),
        residuals=np.linalg.norm(off, axis=0) / sigma[:1],
        n_passes=1,
    )
