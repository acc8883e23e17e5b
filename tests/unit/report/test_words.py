"""What a table lets one say, situation by situation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamscalar.analysis.quantities import keys
from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.analysis.spacing_analysis import Spacings
from streamscalar.analysis.table import Table
from streamscalar.numerics.asymptotic.laws import SpacingFit
from streamscalar.numerics.asymptotic.spacings import SpacingFits
from streamscalar.numerics.asymptotic.states import AsymptoticStates
from streamscalar.report.phrases import interval, labels, listed, lower
from streamscalar.report.words import conclusions
from streamscalar.types import ADVICE, Estimate, Regime, Status

NONE = np.zeros(0)
NO_STATES = AsymptoticStates(NONE, NONE, NONE, NONE.astype(bool), Status.TOO_FEW_ROWS, "", None)


def ok(value: float, half: float | None = None, n: int = 4) -> Estimate:
    if half is None:
        return Estimate(value, Status.OK, n=n, method="exact embedding")
    return Estimate(value, Status.OK, value - half, value + half, 0.95, n, "exact embedding")


def failed(status: Status) -> Estimate:
    return Estimate.failed(status)


def no_spacings() -> Spacings:
    few = failed(Status.TOO_FEW_REPLICAS)
    return Spacings((), 0, SpacingFits((), 0, Status.TOO_FEW_REPLICAS, ""), None, few, few)


def run(lr: float, ic: int, estimates: Mapping[str, Estimate], **facts: Any) -> RunEstimates:
    found = {name: failed(Status.MISSING) for name in keys("run")} | {"ftle": ok(0.5, 0.1)} | dict(estimates)
    return RunEstimates(
        **{
            "run_id": f"lr{lr:g}_ic{ic}",
            "learning_rate": lr,
            "epsilon": 1e-8,
            "initial_condition": ic,
            "is_complete": True,
            "n_rows": 41,
            "n_planned": 41,
            "estimates": found,
            "states": NO_STATES,
            "regime": Regime.CHAOTIC,
            "regime_reason": "",
            "variant": "",
            "has_diverged": False,
            "control_divergence": 0.0,
            "eigengap": 0.8,
            "loss": 0.1,
            "accuracy": 0.9,
            **facts,
        }
    )


def setting(lr: float, regime: Regime = Regime.CHAOTIC, n: int = 4, **estimates: Estimate) -> SettingEstimates:
    found = {name: failed(Status.MISSING) for name in keys("setting")} | {"ftle": ok(0.5, 0.1)} | estimates
    return SettingEstimates(lr, 1e-8, "", regime, "Ftle lies between both.", n, found, no_spacings())


def table(*pairs: tuple[SettingEstimates, list[RunEstimates]], **facts: Any) -> Table:
    runs = [one for _, own in pairs for one in own]
    return Table({"task": "digits"}, [found for found, _ in pairs], runs, **facts)


def said(found: Table) -> str:
    sentences = conclusions(found)
    for sentence in sentences:
        assert sentence.endswith((".", ")."))
        assert not any(word in sentence for word in ("None", "nan", "_replicas", "Status"))
    return " ".join(sentences)


def runs(lr: float, n: int = 4, **facts: Any) -> list[RunEstimates]:
    return [run(lr, ic, {}, **facts) for ic in range(n)]


def test_an_empty_store_concludes_nothing() -> None:
    assert conclusions(Table({}, [], [])) == ["No run has started, so nothing can be concluded."]


def test_regimes_and_where_all_initial_conditions_are_sensitive() -> None:
    share = Estimate(1.0, Status.OK, 0.4, 1.0, 0.95, 4)
    text = said(
        table(
            (setting(1, Regime.REGULAR, positive_fraction=Estimate(0.0, Status.OK, 0.0, 0.6, 0.95, 4)), runs(1)),
            (setting(2, Regime.ONSET), runs(2)),
            (setting(5, positive_fraction=share), runs(5)),
            (setting(9, Regime.DIVERGED), runs(9)),
        )
    )
    assert "Training is regular at lr 1; at the onset at lr 2; chaotic at lr 5; diverging at lr 9." in text
    assert "positive exponent is lr 5; with 4 of them the true share may be as low as 40%" in text
    assert "over 4 initial conditions with a stated coverage of 95% each" in text


def test_two_initial_conditions_give_no_interval_and_a_sentence() -> None:
    few = failed(Status.TOO_FEW_INITIAL_CONDITIONS)
    text = said(table((setting(5, n=2, ftle=few, nmle=few, nmle_embedded=few), runs(5, 2))))
    assert "At lr 5 there are fewer than 3 initial conditions" in text
    assert "stated coverage" not in text
    assert "have no value" not in text


def test_an_undecided_regime_carries_its_reason() -> None:
    text = said(table((setting(5, Regime.UNDECIDED), runs(5))))
    assert "At lr 5 the regime is undecided: ftle lies between both." in text


def test_quantities_missing_for_one_reason_share_a_sentence() -> None:
    no_phase, never = failed(Status.NO_EXPONENTIAL_PHASE), failed(Status.NOT_REACHED)
    found = setting(1, Regime.REGULAR, nmle=no_phase, nmle_embedded=no_phase, steps_to_accuracy=never)
    text = said(table((found, runs(1)), (setting(5, nmle=ok(0.6, 0.1), nmle_embedded=ok(0.7, 0.1)), runs(5))))
    assert "The exponent of the exponential phase and the exponent of the scalar have no value at lr 1. " in text
    assert f"The number of steps to the target accuracy has no value at lr 1. {ADVICE[Status.NOT_REACHED]}" in text


@pytest.mark.parametrize(
    ("scalar", "random", "words"),
    [
        (0.01, 0.2, "The exponent of the scalar is nearer to that of the weights than a random direction's at lr 5."),
        (0.2, 0.01, "At lr 5 a random direction keeps the exponent of the weights better than the scalar."),
        (0.1, 0.1, "At lr 5 a random direction keeps the exponent of the weights as well as the scalar"),
    ],
)
def test_the_random_direction_is_judged_over_initial_conditions(scalar: float, random: float, words: str) -> None:
    own = [
        run(
            5,
            ic,
            {
                "nmle": ok(0.6),
                "nmle_embedded": ok(0.6 + scalar + 0.01 * (-1) ** ic),
                "nmle_random_direction": ok(0.6 - random - 0.01 * (-1) ** (ic // 2)),
            },
        )
        for ic in range(4)
    ]
    assert words in said(table((setting(5), own)))
    few = said(table((setting(5, n=2), own[:2])))
    assert "Too few initial conditions have exponents" in few
    assert words not in few


def test_the_scalar_is_compared_with_a_random_walk() -> None:
    above = setting(1, explained_variance=ok(0.9, 0.02), explained_variance_walk=ok(0.61, 0.02))
    unsure = setting(5, explained_variance=ok(0.65, 0.1), explained_variance_walk=ok(0.61, 0.02))
    alone = setting(9, explained_variance=ok(0.3, 0.1))
    text = said(table((above, runs(1)), (unsure, runs(5, eigengap=0.05)), (alone, runs(9))))
    assert "The scalar holds 30% to 90% of the variance" in text
    assert "more than a random walk with the same moves would give at lr 1." in text
    assert "At lr 5 it is not significantly more than a random walk" in text
    assert "At lr 9 there is no random walk to compare it with." in text
    assert "At lr 5 the two leading directions hold nearly the same variance (eigengap under 0.1)" in text


def test_single_runs_stand_in_for_the_share_of_variance() -> None:
    few = failed(Status.TOO_FEW_INITIAL_CONDITIONS)
    own = [run(5, 0, {"explained_variance": ok(0.42), "explained_variance_walk": ok(0.3)})]
    found = setting(5, n=1, explained_variance=few, explained_variance_walk=few)
    assert "The scalar holds 42% of the variance" in said(table((found, own)))


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (0.0, "stayed at their reference bit for bit in 4 runs"),
        (3e-9, "left their reference in 4 of 4 runs, by an L1 distance of up to 3e-09"),
        (float("nan"), "In 4 runs the weights did not stay finite"),
        (None, "No unperturbed copy was trained"),
    ],
)
def test_the_noise_floor(control: float | None, words: str) -> None:
    assert words in said(table((setting(5), runs(5, control_divergence=control))))


def test_unfinished_runs_and_live_embeddings_are_provisional() -> None:
    live = {"explained_variance": replace(ok(0.5), method="live embedding")}
    own = [*runs(5, 3), run(5, 3, live, is_complete=False, n_rows=10)]
    text = said(table((setting(5), own)))
    assert "1 of 4 runs is incomplete (10 of 41 rows)" in text
    assert "1 of 4 runs is analysed with the live embedding" in text
    assert "incomplete" not in said(table((setting(5), runs(5))))


def test_without_replicas_nothing_is_said_about_sensitivity() -> None:
    none = failed(Status.TOO_FEW_REPLICAS)
    own = [run(5, ic, {"ftle": none, "nmle": none}, control_divergence=None) for ic in range(3)]
    text = said(table((setting(5, Regime.UNDECIDED, ftle=none, nmle=none, nmle_embedded=none), own)))
    assert "sensitivity to initial conditions is unknown" in text
    assert "unperturbed copy" not in text
    assert "undecided" not in text


def test_fastest_training_names_its_rivals() -> None:
    text = said(
        table(
            (setting(1, Regime.REGULAR, steps_to_accuracy=ok(70, 5)), runs(1)),
            (setting(2, steps_to_accuracy=ok(30, 5)), runs(2)),
            (setting(3, steps_to_accuracy=ok(36, 5)), runs(3)),
        )
    )
    assert "fastest at lr 2 (30 [25, 35] steps, chaotic); not distinguishable from it: lr 3." in text


def test_the_ladder_is_extrapolated_and_a_bad_line_is_told() -> None:
    bad = replace(ok(0.3, 0.05), message="The line does not fit: the value is that of a wrong model.")
    text = said(table((setting(1), runs(1)), ladders={1.0: {"nmle": bad}}))
    assert "nmle at lr 1 is 0.3 [0.25, 0.35] per step over 4 initial conditions (the line does not fit)." in text
    own = [run(1, ic, {"nmle": ok(0.3)}) for ic in range(3)]
    assert "how they depend on it was not measured" in said(table((setting(1), own)))


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (ok(0.004), "differ from those of independent draws (p = 0.004)"),
        (failed(Status.NOT_SIGNIFICANT), "do not differ significantly from those of independent draws"),
        (failed(Status.CONSTANT), f"is unknown: {lower(ADVICE[Status.CONSTANT])}"),
    ],
)
def test_spacings_against_independent_draws(difference: Estimate, words: str) -> None:
    fit = SpacingFit(
        "skew lognormal", {"shape": -2.0, "loc": 0.3, "scale": 0.9}, -9.0, 24.0, 0.1, 0.5, "", Status.OK, ""
    )
    fits = SpacingFits((fit,), 20, Status.OK, "")
    found = setting(5)
    found = replace(
        found,
        estimates={**found.estimates, "spacing_difference": difference},
        spacings=Spacings((np.ones(10), np.ones(10)), 1, fits, None, difference, difference),
    )
    text = said(table((found, runs(5))))
    assert words in text
    assert "20 spacings of asymptotic states at lr 5" in text
    assert "1 of 2 runs still drift" in text


def test_settings_are_named_by_what_differs() -> None:
    grid = [replace(setting(lr), epsilon=epsilon) for lr in (1, 5) for epsilon in (1e-8, 1e-6)]
    both = Table({}, grid, [])
    assert labels(grid[:3], both) == "lr 1 and 5 (epsilon 1e-08)"
    assert labels(grid, both) == "every setting"
    assert labels(grid[1:2], Table({}, grid[:2], [])) == "epsilon 1e-06"
    sweep = [setting(lr) for lr in (0.1, 0.5, 1, 2.5, 5, 7.5)]
    assert labels(sweep[1:5], Table({}, sweep, [])) == "lr 0.5 to 5"
    assert labels([sweep[0], *sweep[2:5]], Table({}, sweep, [])) == "lr 0.1, 1, 2.5 and 5"
    assert listed(["one", "two"]) == "one and two"
    assert interval(failed(Status.NOT_REACHED)) == "not reached"
