"""Stated intervals cover the truth as often as stated, from runs to initial conditions."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.numerics.exponents.divergence import ftle, nmle
from streamscalar.numerics.intervals import over_initial_conditions
from streamscalar.types import Estimate

Floats = NDArray[np.float64]
STEPS = np.arange(100)
RATE = 0.5
N_EXPERIMENTS = 200


def run(rng: np.random.Generator, saturates: bool) -> Floats:
    """Return separations `(100, 5)` whose rate varies between initial conditions and between replicas."""
    rates = RATE + 0.05 * rng.standard_normal() + 0.02 * rng.standard_normal(5)
    log_d = -18.0 + STEPS[:, None] * rates
    if saturates:
        # Growth goes over into the plateau within a factor of e, as it does in training.
        log_d = -np.logaddexp(-log_d, -2.0)
    return np.asarray(np.exp(log_d + 0.05 * rng.standard_normal(log_d.shape)))


def share_covered(n_initial_conditions: int, exponent: str, seed: int) -> float:
    rng = np.random.default_rng(seed)
    n_hits = 0
    for _ in range(N_EXPERIMENTS):
        runs: list[Estimate] = [
            nmle(STEPS, run(rng, True)) if exponent == "nmle" else ftle(STEPS, run(rng, False))
            for _ in range(n_initial_conditions)
        ]
        found = over_initial_conditions(runs, "student", 0.95, 0, rng)
        assert found.n == n_initial_conditions
        assert found.low is not None
        assert found.high is not None
        n_hits += found.low <= RATE <= found.high
    return n_hits / N_EXPERIMENTS


@pytest.mark.parametrize("exponent", ["nmle", "ftle"])
@pytest.mark.parametrize("n_initial_conditions", [5, 20])
def test_student_over_initial_conditions_covers_the_mean_rate(n_initial_conditions: int, exponent: str) -> None:
    assert 0.9 <= share_covered(n_initial_conditions, exponent, seed=23) <= 0.99


@pytest.mark.parametrize("kind", ["linear", "contraction"])
def test_linear_growth_and_contraction_never_have_an_exponential_phase(kind: str) -> None:
    rng = np.random.default_rng(29)
    for _ in range(N_EXPERIMENTS):
        if kind == "linear":
            clean = np.log1p(np.exp(rng.uniform(-3.0, 5.0)) * STEPS[:, None] * rng.uniform(0.9, 1.1, 5))
        else:
            clean = -STEPS[:, None] * rng.uniform(0.01, 0.5) * rng.uniform(0.9, 1.1, 5)
        found = nmle(STEPS, np.exp(-18.0 + clean + 0.05 * rng.standard_normal(clean.shape)))
        assert found.value is None, found
