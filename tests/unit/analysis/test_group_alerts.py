"""Alerts of groups of runs, and alerts as JSON."""

import json
import math
from dataclasses import replace

import numpy as np

from streamscalar.analysis.alerts import watch_group
from streamscalar.analysis.rules import RULES
from streamscalar.analysis.series import RunSeries
from streamscalar.config.models import AlertsSection
from streamscalar.types import ALERT_LEVELS
from tests.unit.analysis.test_alerts import first_rows, kinds, series, watch, with_loss


def group(n_runs: int = 5) -> list[RunSeries]:
    return [series(0.0005, seed=seed) for seed in range(n_runs)]


def leaving(run: RunSeries) -> RunSeries:
    """Return the run with a loss that rises from row 100 on."""
    t = np.arange(300)
    return with_loss(run, lambda loss: np.where(t > 100, loss[100] * (t / 100.0) ** 1.5, loss))


def test_a_run_that_leaves_its_group_raises_an_alert_with_the_correlation() -> None:
    alike = group()
    assert watch_group(alike) == []
    alike[2] = leaving(alike[2])
    found = watch_group(alike)
    assert [(alert.rule, alert.run_id) for alert in found] == [("decorrelated", "lr0.0005-ic2")]
    # It has to follow again before it can leave again.
    assert watch_group(alike, AlertsSection(cool_down_rows=0)) == found
    (alert,) = found
    assert alert.row is not None
    assert 110 < alert.row < 200
    assert alert.evidence["correlation"]["high"] < 0.5
    assert alert.evidence["factor_to_median"] > 1.5
    json.dumps(alert.to_json(), allow_nan=False)


def test_a_longer_group_says_the_same_and_more() -> None:
    runs = group()
    runs[2] = leaving(runs[2])
    whole = watch_group(runs)
    for n in range(0, 301, 20):
        part = watch_group([first_rows(run, n) for run in runs])
        assert part == [alert for alert in whole if alert.row is not None and alert.row < n]
    # Rows that one run alone has are not used.
    ahead = [runs[0], *(first_rows(run, 100) for run in runs[1:])]
    assert watch_group(ahead) == []


def test_a_broken_run_does_not_silence_its_group() -> None:
    runs = group(5)
    runs[2] = leaving(runs[2])
    runs[4] = with_loss(runs[4], lambda loss: np.where(np.arange(300) > 90, math.nan, loss))
    (alert,) = watch_group(runs)
    assert (alert.run_id, alert.evidence["n_runs"]) == ("lr0.0005-ic2", 4)
    runs[3] = with_loss(runs[3], lambda loss: np.where(np.arange(300) > 90, math.inf, loss))
    assert watch_group(runs) == []


def test_small_groups_and_equal_losses_say_nothing() -> None:
    runs = group(4)
    runs[2] = leaving(runs[2])
    assert len(watch_group(runs)) == 1
    assert watch_group(runs[:3]) == []
    assert watch_group(runs, AlertsSection(decorrelated="none")) == []
    assert watch_group(runs, AlertsSection(apart_factor=50.0)) == []
    # Plateaus with noise of their own are not correlated, but at the same level.
    plateau = [with_loss(run, lambda loss: np.where(np.arange(300) > 150, 0.5, loss)) for run in group()]
    noise = np.exp(0.05 * np.random.default_rng(6).standard_normal((5, 300, 1)))
    noisy = [replace(run, metrics={"loss": run.metrics["loss"] * own}) for run, own in zip(plateau, noise, strict=True)]
    assert watch_group(noisy) == []


def test_values_that_are_not_finite_have_names_in_json() -> None:
    run = with_loss(series(0.0005), lambda loss: np.where(np.arange(300) > 100, math.inf, loss))
    found = {alert.rule: alert for alert in watch(run)}
    assert found["diverged"].evidence["loss"] == "inf"
    for alert in found.values():
        json.dumps(alert.to_json(), allow_nan=False)


def test_numbers_near_the_largest_float_raise_alerts_and_no_errors() -> None:
    run = with_loss(series(0.0005), lambda loss: np.where(np.arange(300) > 100, 1.7e308, loss))
    sizes = np.where(np.arange(300) >= 150, 1e300, 1e-300)
    found = watch(replace(run, increments=run.increments * sizes[:, None, None]))
    assert kinds(found) == [("diverged", 140), ("jumped", 154)]
    assert found[0].evidence["loss"] == "inf"
    for alert in found:
        json.dumps(alert.to_json(), allow_nan=False)


def test_each_rule_is_a_level_of_the_config_and_each_threshold_belongs_to_a_rule() -> None:
    fields = AlertsSection.model_fields
    levels = {name for name, value in AlertsSection().model_dump().items() if value in ALERT_LEVELS}
    assert levels == set(RULES)
    used = {threshold for rule in RULES.values() for threshold in rule.thresholds}
    assert used | levels | {"cool_down_rows"} == set(fields)
