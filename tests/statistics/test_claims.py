"""Verdicts on the papers' claims follow from the numbers of a table."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamscalar.analysis.claims import ClaimResult, ClaimVerdict, judge_claims
from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.table import Table, analyze
from tests.unit.analysis.test_table import M, series

OPTIONS = Options(accuracy_target=0.75, n_surrogates=39, n_bootstrap=200)
"""Few draws: the verdicts here are clear, and how sure they are is a matter of the estimators' own tests."""


def judged(runs: list[RunSeries], **experiment: Any) -> dict[str, ClaimResult]:
    return {claim.claim: claim for claim in judge_claims([analyze(runs, OPTIONS, experiment)])}


def verdict(found: dict[str, ClaimResult], beginning: str) -> ClaimVerdict:
    return next(claim.verdict for claim in found.values() if claim.claim.startswith(beginning))


def sweep(embedded: float = 1.0) -> list[RunSeries]:
    """Return regular, onset-like and chaotic settings; `embedded` is the power of the scalar's separation."""
    runs = [series(rate, ic, growth) for rate, growth in ((1.0, 0.001), (5.0, 0.3), (7.5, 0.7)) for ic in range(4)]
    return [replace(run, divergence={**run.divergence, "embedded": run.divergence["l1"] ** embedded}) for run in runs]


def test_a_sweep_reproduces_sensitivity_and_refutes_it_where_all_is_regular() -> None:
    assert verdict(judged(sweep()), "Training is sensitive") is ClaimVerdict.REPRODUCED
    regular = [series(rate, ic, 0.001) for rate in (1.0, 2.0) for ic in range(4)]
    assert verdict(judged(regular), "Training is sensitive") is ClaimVerdict.REFUTED
    assert verdict(judged([series(7.5, ic, 0.7) for ic in range(4)]), "Training is sensitive") is ClaimVerdict.UNDECIDED


def test_the_scalar_keeps_the_exponent_or_does_not() -> None:
    assert verdict(judged(sweep()), "The scalar embedding keeps") is ClaimVerdict.REPRODUCED
    faster = judged(sweep(1.2))
    assert verdict(faster, "The scalar embedding keeps") is ClaimVerdict.REFUTED
    (words,) = [claim.found for claim in faster.values() if claim.claim.startswith("The scalar embedding keeps")]
    assert "of a random direction 1.00" in words
    few = judged([series(7.5, ic, 0.7) for ic in range(2)])
    assert verdict(few, "The scalar embedding keeps") is ClaimVerdict.UNDECIDED


def test_the_fastest_rate_and_the_first_with_all_positive() -> None:
    def timed(run: RunSeries) -> RunSeries:
        delay = {1.0: 40, 5.0: 5, 7.5: 60}[run.learning_rate] + run.initial_condition
        rising = np.minimum(0.1 + 0.9 * run.steps / delay, 1.0)
        return replace(run, metrics={**run.metrics, "accuracy": np.repeat(rising[:, None], M + 2, axis=1)})

    assert verdict(judged([timed(run) for run in sweep()]), "Training is fastest") is ClaimVerdict.REPRODUCED
    assert verdict(judged(sweep()[:8]), "Training is fastest") is ClaimVerdict.UNDECIDED


@pytest.mark.parametrize(("center", "expected"), [(0.285, ClaimVerdict.REPRODUCED), (0.4, ClaimVerdict.REFUTED)])
def test_iris_is_judged_by_standard_errors(center: float, expected: ClaimVerdict) -> None:
    runs = [series(1.0, ic, center * (1 + 0.02 * (ic % 5 - 2))) for ic in range(20)]
    table = analyze(runs, OPTIONS, {"task": "iris"})
    for task, found in (("iris", expected), ("digits", ClaimVerdict.UNDECIDED)):
        claims = judge_claims([replace(table, experiment={"task": task})])
        assert next(claim.verdict for claim in claims if claim.claim.startswith("Iris")) is found


def test_spacings_of_independent_states_refute_that_the_law_tells_something() -> None:
    rng = np.random.default_rng(0)
    runs = []
    for ic in range(4):
        run = series(7.5, ic, 0.7)
        states = rng.standard_normal(M + 2) + 0.01 * rng.standard_normal((201, M + 2))
        scores = run.scores.copy()
        scores[..., 0] = states
        runs.append(replace(run, scores=scores))
    found = judged(runs)
    assert verdict(found, "Rescaled spacings") is ClaimVerdict.REPRODUCED
    assert verdict(found, "That law is evidence") is ClaimVerdict.REFUTED


def test_nothing_is_claimed_of_an_empty_experiment() -> None:
    claims = judge_claims([Table({}, [], [])])
    assert {claim.verdict for claim in claims} == {ClaimVerdict.UNDECIDED}
    assert all(claim.found for claim in claims)
