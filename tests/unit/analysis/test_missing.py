"""Metrics that a tracked training does not report at every row: not reported is not NaN."""

from dataclasses import replace

import numpy as np
import pytest

from streamscalar.analysis.alerts import RunWatch
from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.run import analyze_run
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.table import analyze
from streamscalar.missing import MISSING, is_missing
from streamscalar.types import Status
from tests.unit.analysis.test_alerts import series

OPTIONS = Options(accuracy_target=0.9, n_surrogates=19, n_bootstrap=50)


def sparse(run: RunSeries, every: int, offset: int = 0) -> RunSeries:
    """Return a run that reports its metrics at every so many rows."""
    rows = np.arange(len(run.steps)) % every != offset
    metrics = {name: values.copy() for name, values in run.metrics.items()}
    for values in metrics.values():
        values[rows] = MISSING
    return replace(run, metrics=metrics)


def test_bits_survive_copies_and_are_no_other_nan() -> None:
    values = np.array([MISSING, np.nan, 0.0 / 1.0, np.inf - np.inf])
    assert is_missing(values).tolist() == [True, False, False, False]
    assert is_missing(np.frombuffer(values[::-1].tobytes())).tolist() == [False, False, False, True]
    assert is_missing(values.reshape(2, 2).T).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(("every", "offset"), [(10, 0), (10, 9), (7, 3)])
def test_a_sparse_loss_is_no_divergence_on_any_prefix(every: int, offset: int) -> None:
    run = sparse(series(0.0), every, offset)
    watch = RunWatch(options=OPTIONS)
    for n in range(1, len(run.steps) + 1, 3):
        seen = replace(
            run,
            steps=run.steps[:n],
            divergence={name: values[:n] for name, values in run.divergence.items()},
            metrics={name: values[:n] for name, values in run.metrics.items()},
            increments=run.increments[:n],
            is_complete=False,
        )
        assert not seen.has_diverged
        assert not [alert for alert in watch.update(seen) if alert.rule in ("diverged", "non_finite")]
    found = analyze_run(run, OPTIONS)
    assert found.regime != "diverged"
    rows = np.flatnonzero(np.arange(300) % every == offset)
    assert found.loss == series(0.0).metrics["loss"][rows[-1], 0]


def test_a_sparse_loss_that_rises_or_is_nan_still_counts() -> None:
    run = sparse(series(0.0), 10)
    rising = {**run.metrics, "loss": run.metrics["loss"].copy()}
    rising["loss"][290] = 1e3
    assert replace(run, metrics=rising).has_diverged
    rising["loss"][290] = np.nan
    broken = replace(run, metrics=rising)
    assert broken.has_diverged
    assert [alert.rule for alert in RunWatch(options=OPTIONS).update(broken)].count("non_finite") == 1


def test_accuracies_at_even_distances_have_a_decorrelation_time_and_others_none() -> None:
    rng = np.random.default_rng(0)
    run = series(0.0)
    noisy = replace(run, metrics={**run.metrics, "accuracy": rng.normal(size=(300, 7))})
    assert analyze_run(sparse(noisy, 2), OPTIONS).estimates["decorrelation_time"].is_ok
    uneven = sparse(noisy, 2)
    uneven.metrics["accuracy"][4] = MISSING
    assert analyze_run(uneven, OPTIONS).estimates["decorrelation_time"].status is Status.UNEVEN_STEPS


def test_what_did_not_repeat_the_training_gives_no_exponent() -> None:
    run = series(0.3).alone("the update of step 7 was not repeated.")
    found = analyze_run(run, OPTIONS)
    for key in ("ftle", "nmle", "characteristic_time", "tangent_exponent", "decorrelation_time"):
        assert found.estimates[key].status is Status.NOT_REPRODUCED
        assert found.estimates[key].message.startswith("the update of step 7 was not repeated.")
    assert found.estimates["recurrence_exponent"].status is not Status.NOT_REPRODUCED
    assert found.regime == "undecided"
    assert not found.has_diverged


def test_runs_of_different_architecture_or_config_are_not_pooled() -> None:
    runs = [replace(series(0.3, seed=seed), variant=f"hidden={h}") for h in (4, 64) for seed in range(3)]
    table = analyze(runs, OPTIONS, {})
    assert [(setting.variant, setting.n_runs) for setting in table.settings] == [("hidden=4", 3), ("hidden=64", 3)]
    assert table.to_pandas()["variant"].tolist() == ["hidden=4", "hidden=64"]
    assert [setting["variant"] for setting in table.to_json()["settings"]] == ["hidden=4", "hidden=64"]
