"""Estimates how much the worker slows the training, from the training itself."""

import math
from collections import deque

import numpy as np

N_SAMPLES = 256
"""Number of newest intervals that the estimate is from."""

LEAST_SAMPLES = 24
"""Number of intervals below which the assumed value counts."""

LEAST_BUSY = 8
"""Number of intervals with most CPU time of the worker whose median says what a busy worker uses."""

REFRESH_EVERY = 8
"""Number of intervals between two estimates."""

ASSUMED_SD = 0.1
"""Standard deviation of the assumed value, as evidence against that of the intervals."""


class Slowdown:
    """Seconds by which one CPU second of the worker slows the training; no clock, no I/O.

    Intervals of equally many steps are compared: those in which the worker used much CPU time with those in which it
    used little. The difference of their median durations, over that of the mean CPU times, is one estimate; its
    standard error weighs it against an assumed value. Medians, because a step may also take long for other reasons.
    Where the worker is always or never busy, intervals hardly differ, the standard error is large, and the assumed
    value stays.

    Parameters
    ----------
    assumed
        Value before anything is measured.

    Attributes
    ----------
    weight : float
        Newest estimate, from 0 to 1.

    Examples
    --------
    >>> slowdown = Slowdown(assumed=0.25)
    >>> for index in range(200):
    ...     worker_s = 0.010 * (index % 4 == 0)
    ...     slowdown.add(0.016 + 0.05 * worker_s, worker_s)
    >>> round(slowdown.weight, 3)
    0.05
    """

    def __init__(self, assumed: float) -> None:
        self._assumed = assumed
        self._samples: deque[tuple[float, float]] = deque(maxlen=N_SAMPLES)
        self._n_added = 0
        self.weight = assumed

    def add(self, duration_s: float, worker_s: float) -> None:
        """Add an interval: its duration without what recording took in the thread, and the CPU time of the worker."""
        self._samples.append((worker_s, duration_s))
        self._n_added += 1
        if self._n_added >= LEAST_SAMPLES and self._n_added % REFRESH_EVERY == 0:
            self.weight = self._estimate()

    def _estimate(self) -> float:
        used_s, took_s = np.array(self._samples).T
        ordered = np.sort(used_s)
        middle = 0.5 * float(ordered[0] + np.median(ordered[-LEAST_BUSY:]))
        parts = [used_s <= middle, used_s > middle]
        if not parts[1].any():
            return self._assumed
        used_more_s = float(used_s[parts[1]].mean() - used_s[parts[0]].mean())
        medians = [float(np.median(took_s[part])) for part in parts]
        # Standard error of a median, from the median absolute deviation; rounding of the clock at least.
        errors = [
            1.253 * 1.483 * float(np.median(np.abs(took_s[part] - median))) / math.sqrt(np.count_nonzero(part))
            for part, median in zip(parts, medians, strict=True)
        ]
        error = max(math.hypot(*errors), 1e-7) / used_more_s
        found = (medians[1] - medians[0]) / used_more_s
        evidence, assumed = error**-2, ASSUMED_SD**-2
        return min(1.0, max(0.0, (found * evidence + self._assumed * assumed) / (evidence + assumed)))
