"""Correlation of two times: the number, the coverage of its interval, and who is left out."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from streamscalar.errors import BadCall
from streamscalar.numerics.times import correlation
from streamscalar.numerics.times.correlation import LEAST_PAIRS, correlate_times
from streamscalar.types import Estimate, Status
from tests.oracles import times

Floats = NDArray[np.float64]


def ok(values: Sequence[float] | Floats) -> list[Estimate]:
    return [Estimate(float(value), Status.OK) for value in values]


def correlate(first: list[Estimate], second: list[Estimate], seed: int = 0, confidence: float = 0.95) -> Estimate:
    return correlate_times(first, second, confidence, np.random.default_rng(seed))


def pairs(n: int, r: float, skewed: bool, rng: np.random.Generator) -> Floats:
    """Draw `(2, n)` with correlation `r`: normal, or sums of gamma variables of skewness 1.4."""
    if skewed:
        return rng.gamma(2.0 * r, size=n) + rng.gamma(2.0 * (1.0 - r), size=(2, n))
    x, y = rng.standard_normal((2, n))
    return np.array([x, r * x + math.sqrt(1.0 - r * r) * y])


def test_it_is_pearsons_r() -> None:
    x, y = pairs(20, 0.6, True, np.random.default_rng(1))
    estimate = correlate(ok(x), ok(y))
    assert estimate.value == pytest.approx(times.pearson(x, y), rel=1e-12)
    assert estimate.n == 20
    assert f"rho {stats.spearmanr(x, y).statistic:.3f}" in estimate.message
    assert correlate(ok(x), ok(-y)).value == pytest.approx(-times.pearson(x, y), rel=1e-12)
    for n in range(LEAST_PAIRS, 20):
        assert correlate(ok(x[:n]), ok(y[:n])).value == pytest.approx(times.pearson(x[:n], y[:n]), rel=1e-12)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("n", [20, 50])
def test_the_interval_covers_what_it_states(n: int, skewed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "N_BOOTSTRAP", 500)
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(200):
        x, y = pairs(n, 0.7, skewed, rng)
        estimate = correlate_times(ok(x), ok(y), 0.95, rng)
        assert estimate.low is not None
        assert estimate.high is not None
        hits.append(estimate.low <= 0.7 <= estimate.high)
    assert 0.90 <= np.mean(hits) <= 0.99


def test_the_interval_is_the_bootstrap_t_of_z() -> None:
    x, y = pairs(12, 0.6, False, np.random.default_rng(3))
    drawn = np.random.default_rng(4).integers(12, size=(correlation.N_BOOTSTRAP, 12))[:40]
    z, error = math.atanh(times.pearson(x, y)), times.jackknife_error_of_z(x, y)
    expected = [(math.atanh(times.pearson(x[k], y[k])) - z) / times.jackknife_error_of_z(x[k], y[k]) for k in drawn]
    resampled, errors = correlation._fisher(x[drawn], y[drawn])
    np.testing.assert_allclose((resampled - z) / errors, expected, rtol=1e-9)
    estimate = correlate(ok(x), ok(y), seed=4)
    assert estimate.low is not None
    assert estimate.high is not None
    every = np.random.default_rng(4).integers(12, size=(correlation.N_BOOTSTRAP, 12))
    resampled, errors = correlation._fisher(x[every], y[every])
    below, above = np.quantile((resampled - z) / errors, [0.025, 0.975])
    assert math.atanh(estimate.low) == pytest.approx(z - above * error)
    assert math.atanh(estimate.high) == pytest.approx(z - below * error)


def test_more_confidence_is_a_wider_interval() -> None:
    x, y = pairs(20, 0.6, False, np.random.default_rng(5))
    narrow, wide = (correlate(ok(x), ok(y), confidence=confidence) for confidence in (0.8, 0.99))
    assert narrow.low is not None
    assert wide.low is not None
    assert narrow.high is not None
    assert wide.high is not None
    assert -1.0 <= wide.low < narrow.low < narrow.high < wide.high <= 1.0
    assert wide.confidence == 0.99


def test_those_left_out_are_counted_with_their_reasons() -> None:
    x, y = pairs(12, 0.6, False, np.random.default_rng(6))
    first, second = ok(x), ok(y)
    first[2] = Estimate.failed(Status.NOT_SATURATED)
    second[5] = second[6] = Estimate.failed(Status.NOT_DECORRELATED)
    first[7] = Estimate.failed(Status.NO_EXPONENTIAL_PHASE)
    second[7] = Estimate.failed(Status.CONSTANT)
    estimate = correlate(first, second)
    kept = [0, 1, 3, 4, 8, 9, 10, 11]
    assert estimate.n == 8
    assert estimate.value == pytest.approx(times.pearson(x[kept], y[kept]), rel=1e-12)
    for part in (
        "8 of 12",
        "2 second not_decorrelated",
        "1 first not_saturated",
        "1 first no_exponential_phase and second constant",
    ):
        assert part in estimate.message


def test_too_few_pairs_have_no_correlation() -> None:
    x, y = pairs(LEAST_PAIRS, 0.6, False, np.random.default_rng(7))
    assert correlate(ok(x), ok(y)).is_ok
    few = correlate(ok(x), [*ok(y[1:]), Estimate.failed(Status.CONSTANT)])
    assert few.status is Status.TOO_FEW_INITIAL_CONDITIONS
    assert few.n == 7
    assert "needs 8" in few.message
    assert "1 second constant" in few.message
    assert correlate([], []).status is Status.MISSING


def test_a_time_that_never_varies_is_constant() -> None:
    x = list(range(10))
    assert correlate(ok([20.0] * 10), ok(x)).status is Status.CONSTANT
    assert "second time is 20" in correlate(ok(x), ok([20.0] * 10)).message


def test_degenerate_data_get_no_false_interval() -> None:
    x = np.arange(10.0)
    exact = correlate(ok(x), ok(3.0 - 2.0 * x))
    assert (exact.value, exact.low, exact.high) == pytest.approx((-1.0, -1.0, -1.0))
    nearly = correlate(ok([20.0] * 9 + [21.0]), ok(x))
    assert nearly.is_ok
    assert nearly.low is None
    assert "No interval" in nearly.message


def test_bad_calls() -> None:
    with pytest.raises(BadCall, match="one estimate per initial condition"):
        correlate(ok([1.0, 2.0]), ok([1.0]))
    with pytest.raises(BadCall, match="confidence"):
        correlate(ok([1.0]), ok([1.0]), confidence=1.0)
