"""The search for the onset of sensitivity and the fastest learning rate: which rates to probe next, and when to stop.

Both searches work on the logarithm of the learning rate. They start with a coarse geometric grid. Then the bracket of
the onset is bisected, and the neighbourhood of the fastest rate is divided by golden sections; if both need nearly the
same rate, one probe serves both. The next rates follow from the probes alone, not from the budget, so that a search
with a larger budget continues one with a smaller budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from streamscalar.errors import BadCall, Kind
from streamscalar.types import Estimate, Regime, Status

N_COARSE = 5
"""Number of rates of the first grid; with a finer grid the search needs at least as many probes in total."""

MAX_WIDENINGS = N_COARSE - 1
"""Maximum number of rates beyond each end of the range, with the spacing of the grid: as far as the range is wide."""

LEAST_TOLERANCE = 0.01
"""Smallest tolerance: rates are rounded to four digits, because they name runs."""

SENSITIVE = frozenset({Regime.ONSET, Regime.CHAOTIC, Regime.DIVERGED})

_GOLDEN = (3.0 - math.sqrt(5.0)) / 2.0


class OnsetStatus(StrEnum):
    """Status of the bracket."""

    BRACKETED = "bracketed"
    """Both ends are known and within the tolerance."""
    UNDECIDED_INSIDE = "undecided_inside"
    """Both ends are known; the regime of rates between them is undecided."""
    NO_SENSITIVE_RATE = "no_sensitive_rate"
    """All decided rates are regular, also beyond the given range."""
    NO_REGULAR_RATE = "no_regular_rate"
    """No rate below the smallest sensitive one is regular, also beyond the given range."""
    NOTHING_DECIDED = "nothing_decided"
    """All rates are undecided."""
    BUDGET_EXHAUSTED = "budget_exhausted"
    """The budget was spent before the bracket was narrow enough; known ends are given."""


@dataclass(frozen=True, slots=True)
class RateProbed:
    """Result of training at one learning rate.

    Attributes
    ----------
    learning_rate
        Learning rate.
    regime
        Its regime.
    ftle, steps_to_accuracy
        Estimates over initial conditions.
    n_steps_spent
        Optimiser steps, summed over the initial conditions.
    """

    learning_rate: float
    regime: Regime
    ftle: Estimate
    steps_to_accuracy: Estimate
    n_steps_spent: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "learning_rate": self.learning_rate,
            "regime": str(self.regime),
            "ftle": self.ftle.to_json(),
            "steps_to_accuracy": self.steps_to_accuracy.to_json(),
            "n_steps_spent": self.n_steps_spent,
        }


@dataclass(frozen=True, slots=True)
class OnsetResult:
    """Result of a search.

    Attributes
    ----------
    status
        Status of the bracket.
    low, high
        The bracket: `high` is the smallest sensitive rate (onset, chaotic or diverged), `low` the largest regular rate
        below it, or the largest of all if no rate is sensitive. `None` if there is none.
    undecided
        Undecided rates between the two.
    regular_above
        Regular rates above `high`. If there are any, regimes are not ordered by the rate: the bracket is that of the
        first onset, or an artefact of few initial conditions.
    fastest
        Rate with the fewest steps to the target accuracy; `None` if no rate reached it in all initial conditions.
    steps_to_accuracy
        Estimate for the fastest rate. As the best of several noisy means it is biased downwards; measure it again with
        other initial conditions before comparing it.
    n_steps_spent, budget_steps
        Optimizer steps over all rates and initial conditions, and the budget.
    ran_out
        Whether the budget did not allow a further stage, for the onset or for the fastest rate.
    probes
        All rates, in ascending order.
    """

    status: OnsetStatus
    low: float | None
    high: float | None
    undecided: tuple[float, ...]
    regular_above: tuple[float, ...]
    fastest: float | None
    steps_to_accuracy: Estimate
    n_steps_spent: int
    budget_steps: int
    ran_out: bool
    probes: tuple[RateProbed, ...]

    @property
    def message(self) -> str:
        """The result in one sentence."""
        fastest = "no rate reached the target accuracy in every initial condition"
        if self.fastest is not None:
            n_steps = f"{self.steps_to_accuracy.value:.3g} steps to the target accuracy"
            fastest = f"fastest at {self.fastest:g}, with {n_steps}"
        budget = "which ended the search early" if self.ran_out else "and the search is complete"
        spent = f"{self.n_steps_spent:,} of {self.budget_steps:,} steps were spent, {budget}"
        return f"{'; '.join([*self._about_the_bracket(), fastest, spent])}."

    def _about_the_bracket(self) -> list[str]:
        clauses = []
        if self.low is not None and self.high is not None:
            clauses.append(f"Training is regular up to {self.low:g} and sensitive from {self.high:g}")
        elif self.low is not None:
            clauses.append(f"Training is regular up to {self.low:g} and not sensitive at any rate")
        elif self.high is not None:
            clauses.append(f"Training is sensitive from {self.high:g} and not regular at any rate below")
        else:
            clauses.append("No learning rate is decidedly regular or sensitive")
        if self.undecided:
            clauses.append(f"undecided at {_listed(self.undecided)}, which more initial conditions may settle")
        if self.regular_above:
            clauses.append(f"but regular again at {_listed(self.regular_above)}, so the order is not monotone")
        return clauses

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document."""
        return {
            "schema": 1,
            "status": str(self.status),
            "onset": {"low": self.low, "high": self.high},
            "undecided": list(self.undecided),
            "regular_above": list(self.regular_above),
            "fastest": {"learning_rate": self.fastest, "steps_to_accuracy": self.steps_to_accuracy.to_json()},
            "n_steps_spent": self.n_steps_spent,
            "budget_steps": self.budget_steps,
            "ran_out": self.ran_out,
            "probes": [probe.to_json() for probe in self.probes],
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class ProbeRates:
    """Train at these rates, and report each with a `RateProbed`."""

    learning_rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FinishSearch:
    """The search is over."""

    result: OnsetResult


SearchInstruction = ProbeRates | FinishSearch


class OnsetSearch:
    """State machine of the search: probed rates go in, rates to probe come out, until it finishes.

    An undecided rate does not move an end of the bracket: it stays inside, and the gaps between it and the two ends are
    bisected. It is not repeated with more initial conditions: if initial conditions disagree, a mean that excludes 0
    would need several times as many (measured on digits: 4 gave .076 +- .21 per step at rate 1.6, so about 16 would be
    needed), and the result lists these rates.

    A rate counts as infinitely slow if an initial condition does not reach the accuracy, or if the loss diverges. Of
    equally fast rates the smallest is chosen.

    A stage that exceeds the budget is not started, not even in part, so that a search with a larger budget can reuse
    all stages of this one.

    Parameters
    ----------
    low, high
        Range of the first grid; probes leave it if it contains no bracket, or if the fastest rate is at its edge.
    steps_per_rate
        Optimizer steps of one probe, over all its initial conditions.
    budget_steps
        Maximum number of steps in total.
    tolerance
        Relative width, `high / low - 1`, at which the bracket, and the gaps next to the fastest rate, suffice.

    Raises
    ------
    BadCall
        The range is empty, the tolerance too small, or the budget too small for the first grid.

    Examples
    --------
    >>> search = OnsetSearch(0.1, 10.0, steps_per_rate=100, budget_steps=1000)
    >>> search.start().learning_rates
    (0.1, 0.3162, 1.0, 3.162, 10.0)
    """

    def __init__(
        self, low: float, high: float, *, steps_per_rate: int, budget_steps: int, tolerance: float = 0.1
    ) -> None:
        if not (0.0 < low < math.inf and 0.0 < high < math.inf):
            raise BadCall("low, high", "must be positive learning rates", f"{low:g} and {high:g}", kind=Kind.CONFIG)
        if not LEAST_TOLERANCE <= tolerance <= 1.0:
            raise BadCall(
                "tolerance",
                f"must lie between {LEAST_TOLERANCE:g} and 1, as in 0.1",
                f"{tolerance:g}",
                kind=Kind.CONFIG,
            )
        ratio = (high / low) ** (1.0 / (N_COARSE - 1))
        if ratio <= 1.0 + tolerance:
            raise BadCall(
                "low, high",
                f"must be an ascending range of more than a factor {(1.0 + tolerance) ** (N_COARSE - 1):.3g}, for a "
                "first grid that is coarser than the tolerance",
                f"{low:g} and {high:g}",
                "Lower `low` or raise `high`",
                Kind.CONFIG,
            )
        if budget_steps < N_COARSE * steps_per_rate:
            raise BadCall(
                "budget",
                f"must be at least {N_COARSE * steps_per_rate}: {N_COARSE} rates of {steps_per_rate} steps each make "
                "the first grid",
                str(budget_steps),
                "Raise it, or lower training.n_steps or experiment.n_initial_conditions",
                Kind.CONFIG,
            )
        self._low, self._high, self._ratio = low, high, ratio
        self._narrow = 1.0 + tolerance
        self._steps_per_rate = steps_per_rate
        self._budget = budget_steps
        self._probes: dict[float, RateProbed] = {}
        self._outstanding: set[float] = set()

    def start(self) -> ProbeRates:
        """Return the first grid."""
        return self._probe([_rounded(self._low * self._ratio**index) for index in range(N_COARSE)])

    def handle(self, event: RateProbed) -> list[SearchInstruction]:
        """Return the instructions that follow from `event`: none while other rates of the stage are missing."""
        if event.learning_rate not in self._outstanding:
            raise BadCall("learning_rate", "must be a requested rate", f"{event.learning_rate:g}")
        self._outstanding.remove(event.learning_rate)
        self._probes[event.learning_rate] = event
        if self._outstanding:
            return []
        onset, speed = self._rate_for_onset(), self._rate_for_speed()
        wanted = [rate for rate in (onset, speed) if rate is not None]
        if onset is not None and speed is not None and max(wanted) / min(wanted) < math.sqrt(self._narrow):
            wanted = [onset]
        fits = self._spent + len(wanted) * self._steps_per_rate <= self._budget
        if wanted and fits:
            return [self._probe(wanted)]
        return [FinishSearch(self._result(onset_is_open=onset is not None, ran_out=bool(wanted)))]

    def _probe(self, rates: Sequence[float]) -> ProbeRates:
        self._outstanding = set(rates)
        return ProbeRates(tuple(sorted(rates)))

    @property
    def _spent(self) -> int:
        return sum(probe.n_steps_spent for probe in self._probes.values())

    def _rates(self, *regimes: Regime) -> list[float]:
        """Return the probed rates of these regimes, by default of all, in ascending order."""
        return sorted(rate for rate, probe in self._probes.items() if not regimes or probe.regime in regimes)

    def _bracket(self) -> tuple[float | None, float | None]:
        sensitive = self._rates(*SENSITIVE)
        high = sensitive[0] if sensitive else None
        below = [rate for rate in self._rates(Regime.REGULAR) if high is None or rate < high]
        return (below[-1] if below else None), high

    def _inside(self, low: float | None, high: float | None) -> list[float]:
        return [rate for rate in self._rates(Regime.UNDECIDED) if (low or 0.0) < rate < (high or math.inf)]

    def _beyond(self, *, up: bool) -> float | None:
        """Return the next rate outside the range; `None` after `MAX_WIDENINGS`."""
        farthest = max(self._probes) / self._high if up else self._low / min(self._probes)
        n_tried = round(math.log(farthest) / math.log(self._ratio))
        if n_tried >= MAX_WIDENINGS:
            return None
        factor = self._ratio ** (n_tried + 1)
        return _rounded(self._high * factor if up else self._low / factor)

    def _rate_for_onset(self) -> float | None:
        low, high = self._bracket()
        if high is None:
            return self._beyond(up=True)
        if low is None:
            return self._beyond(up=False)
        gaps = list(pairwise([low, *self._inside(low, high), high]))
        below, above = max((gaps[0], gaps[-1]), key=lambda gap: gap[1] / gap[0])
        return _rounded(math.sqrt(below * above)) if above / below > self._narrow else None

    def _cost(self, rate: float) -> float:
        probe = self._probes[rate]
        value = probe.steps_to_accuracy.value
        return math.inf if value is None or probe.regime is Regime.DIVERGED else value

    def _fastest(self) -> float | None:
        best = min(self._rates(), key=self._cost)
        return best if math.isfinite(self._cost(best)) else None

    def _rate_for_speed(self) -> float | None:
        best = self._fastest()
        if best is None:
            return None
        rates = self._rates()
        place = rates.index(best)
        if place == 0 and (rate := self._beyond(up=False)) is not None:
            return rate
        if place == len(rates) - 1 and (rate := self._beyond(up=True)) is not None:
            return rate
        neighbours = rates[max(place - 1, 0) : place] + rates[place + 1 : place + 2]
        far = max(neighbours, key=lambda rate: abs(math.log(rate / best)))
        if max(far, best) / min(far, best) <= self._narrow:
            return None
        return _rounded(best * (far / best) ** _GOLDEN)

    def _result(self, *, onset_is_open: bool, ran_out: bool) -> OnsetResult:
        low, high = self._bracket()
        inside = self._inside(low, high)
        fastest = self._fastest()
        if fastest is None:
            what = f"At none of {len(self._probes)} learning rates did every initial condition reach the accuracy."
            steps = Estimate.failed(Status.NOT_REACHED, method="fewest steps to accuracy", what=what)
        else:
            steps = self._probes[fastest].steps_to_accuracy
        return OnsetResult(
            status=self._status(low, high, onset_is_open=onset_is_open),
            low=low,
            high=high,
            undecided=tuple(inside),
            regular_above=tuple(rate for rate in self._rates(Regime.REGULAR) if high is not None and rate > high),
            fastest=fastest,
            steps_to_accuracy=steps,
            n_steps_spent=self._spent,
            budget_steps=self._budget,
            ran_out=ran_out,
            probes=tuple(self._probes[rate] for rate in self._rates()),
        )

    def _status(self, low: float | None, high: float | None, *, onset_is_open: bool) -> OnsetStatus:
        if onset_is_open:
            return OnsetStatus.BUDGET_EXHAUSTED
        if low is None and high is None:
            return OnsetStatus.NOTHING_DECIDED
        if high is None:
            return OnsetStatus.NO_SENSITIVE_RATE
        if low is None:
            return OnsetStatus.NO_REGULAR_RATE
        return OnsetStatus.BRACKETED if high / low <= self._narrow else OnsetStatus.UNDECIDED_INSIDE


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
