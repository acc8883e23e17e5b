"""How much a worker slows a training, from simulated intervals."""

import numpy as np
import pytest

from streamscalar.tracking.training.slowdown import LEAST_SAMPLES, N_SAMPLES, Slowdown

ASSUMED = 0.25


def simulated(weight: float, n: int, busy_s: float, noise: float, seed: int = 0) -> Slowdown:
    """Return the estimate from `n` intervals of 16 ms, of which the worker is busy in a third, at times interrupted."""
    rng = np.random.default_rng(seed)
    slowdown = Slowdown(ASSUMED)
    for _ in range(n):
        worker_s = busy_s * float(rng.random() < 1 / 3)
        duration_s = 0.016 * (1.0 + noise * rng.standard_normal()) + weight * worker_s
        slowdown.add(duration_s + 0.1 * float(rng.random() < 0.05), worker_s)
    return slowdown


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.2, 0.6])
def test_the_weight_is_found_in_noise_and_interruptions(weight: float) -> None:
    found = [simulated(weight, N_SAMPLES, 0.008, 0.02, seed).weight for seed in range(40)]
    assert abs(np.mean(found) - weight) < 0.02
    assert np.std(found) < 0.02


def test_the_assumed_value_counts_until_there_is_evidence() -> None:
    assert simulated(0.0, LEAST_SAMPLES - 1, 0.008, 0.02).weight == ASSUMED
    assert simulated(0.0, N_SAMPLES, 0.0, 0.02).weight == ASSUMED, "a worker that never works"
    assert abs(simulated(0.0, N_SAMPLES, 0.0001, 0.5).weight - ASSUMED) < 0.01, "differences below the noise"


def test_a_change_is_followed() -> None:
    slowdown = simulated(0.5, N_SAMPLES, 0.008, 0.02)
    for index in range(2 * N_SAMPLES):
        worker_s = 0.008 * (index % 3 == 0)
        slowdown.add(0.016 + 0.05 * worker_s, worker_s)
    assert abs(slowdown.weight - 0.05) < 0.01
