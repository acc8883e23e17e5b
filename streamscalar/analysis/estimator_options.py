"""Options of an analysis."""

import zlib
from dataclasses import dataclass

import numpy as np

from streamscalar.numerics.exponents.curves import Average
from streamscalar.numerics.exponents.regime import REGULAR_BELOW
from streamscalar.numerics.intervals import IntervalMethod
from streamscalar.seeds import SeedStream, generator


@dataclass(frozen=True, slots=True)
class Options:
    """Options of an analysis.

    Attributes
    ----------
    confidence
        Stated coverage of all intervals; tests are held at level `1 - confidence`.
    interval
        Interval over initial conditions.
    n_bootstrap
        Resamples of `bootstrap_t`.
    average
        How divergence curves are averaged over replicas.
    regular_below
        Exponent per step under which training counts as regular.
    accuracy_target
        Test accuracy for `steps_to_accuracy`; `None` where the task has none.
    n_surrogates
        Surrogates of each test.
    asymptotic_rows
        Rows at the end of a run over which its asymptotic state is averaged.
    seed
        Seed of resamples and surrogates.
    is_tracked
        Whether a training loop of the user recorded the runs; messages then name arguments of `ss.track`.
    """

    confidence: float = 0.95
    interval: IntervalMethod = "student"
    n_bootstrap: int = 2000
    average: Average = "mean_log"
    regular_below: float = REGULAR_BELOW
    accuracy_target: float | None = None
    n_surrogates: int = 200
    asymptotic_rows: int = 50
    seed: int = 0
    is_tracked: bool = False

    def rng(self, purpose: str) -> np.random.Generator:
        """Return a separate generator for each purpose, so that no number depends on which others are computed."""
        return generator(self.seed, SeedStream.ESTIMATES, zlib.crc32(purpose.encode()))
