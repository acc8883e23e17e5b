"""Regimes from intervals and losses."""

import pytest

from streamscalar.numerics.exponents.regime import RunEvidence, classify
from streamscalar.types import Estimate, Regime, Status

FEW = Estimate.failed(Status.TOO_FEW_INITIAL_CONDITIONS, n=1)
NO_PHASE = Estimate.failed(Status.NO_EXPONENTIAL_PHASE)


def interval(low: float, high: float, n: int = 5) -> Estimate:
    return Estimate((low + high) / 2.0, Status.OK, low, high, 0.95, n)


def runs(ftle: Estimate, nmle: Estimate, n: int = 3, n_diverged: int = 0) -> list[RunEvidence]:
    return [RunEvidence(ftle, nmle, index < n_diverged) for index in range(n)]


@pytest.mark.parametrize(
    ("ftle", "nmle", "expected"),
    [
        (interval(0.0004, 0.001), NO_PHASE, Regime.REGULAR),
        (interval(-0.3, -0.2), NO_PHASE, Regime.REGULAR),
        (interval(0.011, 0.02), NO_PHASE, Regime.ONSET),
        (interval(0.001, 0.02), NO_PHASE, Regime.UNDECIDED),
        (interval(0.5, 0.6), interval(0.6, 0.8), Regime.CHAOTIC),
        (interval(0.5, 0.6), interval(-0.1, 0.8), Regime.ONSET),
        (interval(-0.1, 0.6), interval(-0.1, 0.8), Regime.UNDECIDED),
        (interval(-0.1, 0.6), Estimate.failed(Status.NOT_SATURATED), Regime.ONSET),
        (Estimate.failed(Status.CONTRACTED), Estimate.failed(Status.CONTRACTED), Regime.REGULAR),
        (Estimate.failed(Status.NON_FINITE), Estimate.failed(Status.NON_FINITE), Regime.UNDECIDED),
    ],
)
def test_regime_follows_from_the_intervals(ftle: Estimate, nmle: Estimate, expected: Regime) -> None:
    assert classify(runs(ftle, nmle), ftle, nmle)[0] is expected
    regime, reason = classify(runs(ftle, nmle, n=1), FEW, FEW)
    assert regime is expected
    if ftle.is_ok and expected is not Regime.ONSET:
        assert "not over initial conditions" in reason


def test_divergence_of_the_majority_comes_first() -> None:
    regular = interval(0.0004, 0.001)
    assert classify(runs(regular, NO_PHASE, n_diverged=2), regular, NO_PHASE)[0] is Regime.DIVERGED
    assert classify(runs(regular, NO_PHASE, n_diverged=1), regular, NO_PHASE)[0] is Regime.REGULAR


def test_chaos_needs_the_majority_of_runs() -> None:
    growth, phase = interval(0.5, 0.6), interval(0.6, 0.8)
    mixed = [RunEvidence(growth, phase, False), *runs(growth, NO_PHASE, n=2)]
    assert classify(mixed, growth, FEW)[0] is Regime.ONSET


def test_single_runs_count_by_their_envelope() -> None:
    one, other = interval(0.001, 0.002), interval(0.012, 0.02)
    evidence = [RunEvidence(one, NO_PHASE, False), RunEvidence(other, NO_PHASE, False)]
    regime, reason = classify(evidence, FEW, FEW)
    assert regime is Regime.UNDECIDED
    assert "0.001" in reason
    assert classify(evidence[:1], FEW, FEW)[0] is Regime.REGULAR
    assert classify(evidence[1:], FEW, FEW)[0] is Regime.ONSET


def test_without_intervals_nothing_is_decided() -> None:
    bare = Estimate(0.7, Status.OK, n=1)
    regime, reason = classify(runs(bare, bare, n=1), FEW, FEW)
    assert regime is Regime.UNDECIDED
    assert "interval" in reason
    assert classify([], FEW, FEW)[0] is Regime.UNDECIDED


def test_bound_is_adjustable() -> None:
    growth = interval(0.02, 0.03)
    assert classify(runs(growth, NO_PHASE), growth, NO_PHASE, regular_below=0.05)[0] is Regime.REGULAR
