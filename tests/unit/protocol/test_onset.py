"""The search against synthetic regimes whose onset and fastest rate are known."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from streamscalar.errors import BadCall
from streamscalar.protocol.onset_search import (
    MAX_WIDENINGS,
    N_COARSE,
    SENSITIVE,
    FinishSearch,
    OnsetResult,
    OnsetSearch,
    OnsetStatus,
    ProbeRates,
    RateProbed,
)
from streamscalar.types import Estimate, Regime, Status

COST = 480
PLENTY = 100 * COST
NOT_REACHED = Estimate.failed(Status.NOT_REACHED)


@dataclass
class World:
    """Training with a known onset, and a parabola of ln(rate) for the steps to accuracy around `optimum`."""

    onset: float
    optimum: float | None = None
    undecided: tuple[float, float] = (math.inf, 0.0)
    noise: Callable[[], float] = lambda: 0.0

    def regime(self, rate: float) -> Regime:
        if self.undecided[0] < rate < self.undecided[1]:
            return Regime.UNDECIDED
        steps = (self.onset, 1.5 * self.onset, 10 * self.onset)
        return (Regime.REGULAR, Regime.ONSET, Regime.CHAOTIC, Regime.DIVERGED)[sum(rate >= step for step in steps)]

    def steps(self, rate: float) -> Estimate:
        if self.optimum is None or not 1 / 8 < rate / self.optimum < 8:
            return NOT_REACHED
        value = 20 + 30 * math.log(rate / self.optimum) ** 2 + self.noise()
        return Estimate(value, Status.OK, value - 5, value + 5, 0.95, 4)

    def probed(self, rate: float) -> RateProbed:
        return RateProbed(rate, self.regime(rate), NOT_REACHED, self.steps(rate), COST)


def searched(
    world: World, low: float = 0.1, high: float = 20.0, budget: int = PLENTY, tolerance: float = 0.1
) -> tuple[OnsetResult, list[tuple[float, ...]]]:
    """Carry a search out; return its result and the stages."""
    search = OnsetSearch(low, high, steps_per_rate=COST, budget_steps=budget, tolerance=tolerance)
    stages = [search.start().learning_rates]
    while True:
        *early, last = [search.handle(world.probed(rate)) for rate in stages[-1]]
        assert not any(early)
        (instruction,) = last
        if isinstance(instruction, FinishSearch):
            return instruction.result, stages
        assert isinstance(instruction, ProbeRates)
        stages.append(instruction.learning_rates)


def test_the_first_grid_is_geometric() -> None:
    rates = OnsetSearch(0.1, 10, steps_per_rate=COST, budget_steps=PLENTY).start().learning_rates
    assert rates == (0.1, 0.3162, 1.0, 3.162, 10.0)


def test_the_bracket_holds_the_true_onset_of_100_worlds() -> None:
    rng = np.random.default_rng(1)
    n_probes = []
    for _ in range(100):
        onset = float(np.exp(rng.uniform(np.log(0.02), np.log(90))))
        result, _ = searched(World(onset, 0.8 * onset))
        assert result.status is OnsetStatus.BRACKETED
        assert result.low is not None
        assert result.high is not None
        assert result.low < onset <= result.high <= 1.1 * result.low
        assert not result.ran_out
        n_probes.append(len(result.probes))
    # A grid as fine over the same range has 56 rates.
    assert np.mean(n_probes) < 15
    assert max(n_probes) <= 18


def test_the_fastest_rate_is_within_the_tolerance_of_the_true_one() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        optimum = float(np.exp(rng.uniform(np.log(0.2), np.log(10))))
        result, _ = searched(World(optimum * 1.3, optimum))
        assert result.fastest is not None
        assert 1 / 1.1 <= result.fastest / optimum <= 1.1


def test_noise_costs_speed_but_no_more_than_itself() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        result, _ = searched(World(4.0, 3.0, noise=lambda: float(rng.uniform(-3, 3))))
        assert result.fastest is not None
        assert World(4.0, 3.0).steps(result.fastest).value == pytest.approx(20, abs=7)
        assert not result.ran_out


@pytest.mark.parametrize("n_rates", [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20])
def test_the_budget_is_respected_and_running_out_is_told_truly(n_rates: int) -> None:
    unlimited, all_stages = searched(World(2.0, 1.5))
    result, stages = searched(World(2.0, 1.5), budget=n_rates * COST + COST - 1)
    assert result.n_steps_spent == COST * sum(map(len, stages)) <= n_rates * COST
    assert stages == all_stages[: len(stages)]
    assert result.ran_out == (stages != all_stages)
    if result.ran_out:
        assert sum(map(len, all_stages[: len(stages) + 1])) > n_rates
        assert "ended the search early" in result.message
    else:
        assert result == searched(World(2.0, 1.5), budget=result.budget_steps)[0]
        assert result.probes == unlimited.probes


def test_a_budget_of_exactly_what_is_wanted_is_enough_and_one_step_less_is_not() -> None:
    unlimited, _ = searched(World(2.0, 1.5))
    enough, _ = searched(World(2.0, 1.5), budget=unlimited.n_steps_spent)
    assert enough.probes == unlimited.probes
    assert not enough.ran_out
    assert searched(World(2.0, 1.5), budget=unlimited.n_steps_spent - 1)[0].ran_out


def test_a_budget_that_ends_before_the_bracket_is_narrow_says_so() -> None:
    result, _ = searched(World(2.0), budget=N_COARSE * COST)
    assert result.status is OnsetStatus.BUDGET_EXHAUSTED
    assert (result.low, result.high) == (1.414, 5.318)
    assert result.ran_out


def test_a_budget_that_holds_the_onset_but_not_the_fastest_rate_is_still_a_bracket() -> None:
    unlimited, stages = searched(World(0.5, 3.0))
    result, _ = searched(World(0.5, 3.0), budget=(len(unlimited.probes) - 1) * COST)
    assert len(stages[-1]) == 1
    assert result.status is OnsetStatus.BRACKETED
    assert result.ran_out


def test_undecided_rates_lie_inside_and_are_named() -> None:
    result, stages = searched(World(2.0, undecided=(1.5, 2.3)))
    assert result.status is OnsetStatus.UNDECIDED_INSIDE
    assert result.low is not None
    assert result.high is not None
    assert 1.5 / 1.1 <= result.low < 1.5
    assert 2.3 <= result.high <= 2.3 * 1.1
    assert result.undecided
    assert all(1.5 < rate < 2.3 for rate in result.undecided)
    assert f"undecided at {result.undecided[0]:g}" in result.message
    assert len({rate for stage in stages for rate in stage}) == sum(map(len, stages))


def test_undecided_everywhere_is_no_bracket() -> None:
    result, _ = searched(World(2.0, undecided=(0.0, math.inf)))
    assert result.status is OnsetStatus.NOTHING_DECIDED
    assert (result.low, result.high) == (None, None)


def test_a_range_that_is_all_regular_or_all_sensitive_is_widened_so_far() -> None:
    regular, stages = searched(World(1e9))
    assert regular.status is OnsetStatus.NO_SENSITIVE_RATE
    assert regular.low == pytest.approx(4000, rel=1e-3)
    assert regular.high is None
    assert len(stages) == 1 + MAX_WIDENINGS
    sensitive, stages = searched(World(1e-9))
    assert sensitive.status is OnsetStatus.NO_REGULAR_RATE
    assert sensitive.low is None
    assert sensitive.high == pytest.approx(5e-4, rel=1e-3)
    assert len(stages) == 1 + MAX_WIDENINGS


@dataclass
class Reentrant(World):
    """Regular again in a window above the onset."""

    def regime(self, rate: float) -> Regime:
        return Regime.REGULAR if 4 < rate < 7 else super().regime(rate)


def test_a_regular_rate_above_a_sensitive_one_is_reported() -> None:
    result, _ = searched(Reentrant(1.0))
    assert result.status is OnsetStatus.BRACKETED
    assert result.low is not None
    assert result.high is not None
    assert result.low < 1.0 <= result.high
    assert result.regular_above == (5.318,)
    assert "regular again at 5.318" in result.message
    assert searched(World(1.0))[0].regular_above == ()


def test_where_nothing_reaches_the_accuracy_there_is_no_fastest_rate() -> None:
    result, stages = searched(World(2.0))
    assert result.fastest is None
    assert result.steps_to_accuracy.status is Status.NOT_REACHED
    assert "no rate reached the target accuracy" in result.message
    assert all(len(stage) == 1 for stage in stages[1:])
    assert not result.ran_out


@dataclass
class PartlyReached(World):
    """Above 1, some initial conditions never reach the accuracy."""

    def steps(self, rate: float) -> Estimate:
        return Estimate.failed(Status.PARTLY_REACHED, n=1) if rate > 1 else super().steps(rate)


def test_partly_reached_and_diverged_rates_are_never_the_fastest() -> None:
    result, _ = searched(PartlyReached(4.0, 3.0))
    assert result.fastest is not None
    assert 1 / 1.1 <= result.fastest <= 1
    result, _ = searched(World(0.2, 4.0))
    assert result.fastest is not None
    assert 2 / 1.1 <= result.fastest < 2


@pytest.mark.parametrize(("onset", "optimum"), [(10.0, 60.0), (0.5, 0.04)])
def test_a_fastest_rate_at_the_edge_is_looked_for_beyond_it(onset: float, optimum: float) -> None:
    result, _ = searched(World(onset, optimum))
    assert result.fastest is not None
    assert 1 / 1.1 <= result.fastest / optimum <= 1.1
    assert result.status is OnsetStatus.BRACKETED


def test_the_result_follows_from_the_probes_whatever_their_order() -> None:
    world = World(2.0, 1.5)
    search = OnsetSearch(0.1, 20, steps_per_rate=COST, budget_steps=PLENTY)
    rates = search.start().learning_rates
    instructions: list[ProbeRates | FinishSearch] = []
    while not instructions or isinstance(instructions[-1], ProbeRates):
        for rate in reversed(rates):
            instructions += search.handle(world.probed(rate))
        last = instructions[-1]
        rates = last.learning_rates if isinstance(last, ProbeRates) else ()
    assert isinstance(last, FinishSearch)
    assert last.result == searched(world)[0]


def test_the_result_is_a_json_document() -> None:
    result, _ = searched(World(2.0, 1.5))
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["onset"] == {"low": result.low, "high": result.high}
    assert document["fastest"]["learning_rate"] == result.fastest
    regimes = {probe["learning_rate"]: probe["regime"] for probe in document["probes"]}
    assert regimes[result.low] == "regular"
    assert regimes[result.high] in SENSITIVE


@pytest.mark.parametrize(
    ("low", "high", "budget", "tolerance", "words"),
    [
        (5, 1, PLENTY, 0.1, "ascending range of more than a factor 1.46"),
        (0, 1, PLENTY, 0.1, "positive"),
        (1, math.inf, PLENTY, 0.1, "positive"),
        (math.nan, 1, PLENTY, 0.1, "positive"),
        (1, 20, 5 * COST - 1, 0.1, "at least 2400: 5 rates of 480 steps"),
        (1, 20, PLENTY, 0.001, "between 0.01 and 1"),
    ],
)
def test_a_bad_call_says_what_is_wrong(low: float, high: float, budget: int, tolerance: float, words: str) -> None:
    with pytest.raises(BadCall, match=words):
        OnsetSearch(low, high, steps_per_rate=COST, budget_steps=budget, tolerance=tolerance)


def test_a_rate_that_was_not_asked_for_is_refused() -> None:
    search = OnsetSearch(0.1, 20, steps_per_rate=COST, budget_steps=PLENTY)
    search.start()
    with pytest.raises(BadCall, match="requested rate"):
        search.handle(World(2.0).probed(0.7))
