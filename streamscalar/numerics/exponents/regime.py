"""The dynamical regime of training at one setting, from exponents and losses."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamscalar.types import Estimate, Regime, Status

REGULAR_BELOW = 0.01
"""Exponent per step under which training counts as regular: hundredfold growth takes over 460 steps."""


@dataclass(frozen=True, slots=True)
class RunEvidence:
    """Evidence of one run about its regime.

    Attributes
    ----------
    ftle, nmle
        Exponents of the run, with intervals over its replicas where it has three or more.
    has_diverged
        Whether its loss ended above its start or is not finite.
    """

    ftle: Estimate
    nmle: Estimate
    has_diverged: bool


@dataclass(frozen=True, slots=True)
class _Bounds:
    """An interval and a description of its source."""

    low: float
    high: float
    source: str


def classify(
    runs: Sequence[RunEvidence],
    ftle: Estimate | None = None,
    nmle: Estimate | None = None,
    regular_below: float = REGULAR_BELOW,
) -> tuple[Regime, str]:
    """Decide the regime and give the reason.

    In this order: *diverged*, when the majority of runs diverged; *regular*, when the upper end of ftle lies under
    `regular_below`, or separations contracted to 0 in the majority of runs; *chaotic*, when the majority of runs
    have an exponential phase that saturates and the lower end of nmle lies above 0; *onset*, when the lower end of
    ftle lies above `regular_below`, or separations grew a hundredfold without saturating in the majority of runs;
    otherwise *undecided*.

    Parameters
    ----------
    runs
        One entry per initial condition.
    ftle, nmle
        The same exponents over initial conditions, `None` for a single run. Where one has no interval (fewer
        than three initial conditions gave a value), the envelope of the runs' intervals over replicas is used
        instead, and the reason says so.
    regular_below
        Upper bound of a regular exponent, per step.

    Returns
    -------
    tuple
        The regime and a sentence with the reason.
    """
    n = len(runs)
    if n == 0:
        return Regime.UNDECIDED, "There is no run."
    n_diverged = sum(run.has_diverged for run in runs)
    if 2 * n_diverged > n:
        return (
            Regime.DIVERGED,
            f"The loss ended above its start, or is not finite, in {n_diverged} of {n} runs.",
        )
    growth = _bounds(ftle, [run.ftle for run in runs])
    if growth is not None and growth.high < regular_below:
        return (
            Regime.REGULAR,
            f"ftle is at most {growth.high:.3g} < {regular_below:g} per step ({growth.source}).",
        )
    n_contracted = sum(run.ftle.status is Status.CONTRACTED for run in runs)
    if 2 * n_contracted > n:
        return Regime.REGULAR, f"Separations contracted to 0 in {n_contracted} of {n} runs."
    n_exponential = sum(run.nmle.is_ok for run in runs)
    phase = _bounds(nmle, [run.nmle for run in runs])
    if 2 * n_exponential > n and phase is not None and phase.low > 0.0:
        reason = f"nmle is at least {phase.low:.3g} > 0 per step ({phase.source}), with saturation in"
        return Regime.CHAOTIC, f"{reason} {n_exponential} of {n} runs."
    if growth is not None and growth.low > regular_below:
        reason = f"ftle is at least {growth.low:.3g} > {regular_below:g} per step ({growth.source}), without a"
        return Regime.ONSET, f"{reason} saturated exponential phase that is sure in the majority of runs."
    n_growing = sum(run.nmle.status is Status.NOT_SATURATED for run in runs)
    if 2 * n_growing > n:
        return Regime.ONSET, f"Separations grew a hundredfold without saturating in {n_growing} of {n} runs."
    if growth is None:
        return Regime.UNDECIDED, _without_interval(runs)
    reason = f"ftle lies between {growth.low:.3g} and {growth.high:.3g} per step ({growth.source})"
    return Regime.UNDECIDED, f"{reason}, which leaves both regular and sensitive training possible."


def _bounds(over_runs: Estimate | None, single: Sequence[Estimate]) -> _Bounds | None:
    """Return the interval over initial conditions, or the envelope of the intervals of the runs, or `None`."""
    if over_runs is not None and over_runs.low is not None and over_runs.high is not None:
        return _Bounds(over_runs.low, over_runs.high, f"interval over {over_runs.n} initial conditions")
    lows = [estimate.low for estimate in single if estimate.low is not None]
    highs = [estimate.high for estimate in single if estimate.high is not None]
    if not lows or not highs:
        return None
    runs = f"{len(lows)} run{'s' if len(lows) > 1 else ''}"
    return _Bounds(min(lows), max(highs), f"interval over the replicas of {runs}, not over initial conditions")


def _without_interval(runs: Sequence[RunEvidence]) -> str:
    """Return the reason why ftle has no interval."""
    failing = [run.ftle for run in runs if not run.ftle.is_ok]
    if failing:
        return f"ftle has no interval: {failing[0].message or failing[0].status}"
    return "ftle has no interval: under three perturbed replicas, and under three initial conditions."
