"""Alerts from plain series and from real training: which arise, and that prefixes, blocks and restarts agree."""

import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.analysis.alerts import RunWatch, silent
from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.rules import Alert, checkpoints
from streamscalar.analysis.series import RunSeries
from streamscalar.config.models import AlertsSection
from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.divergence import nmle
from streamscalar.types import Status

Floats = NDArray[np.float64]

M = 5
OPTIONS = Options(accuracy_target=0.9)


def series(rate: float, n_rows: int = 300, seed: int = 0) -> RunSeries:
    """Return a complete run whose separations grow at `rate` and level off, with falling loss and moves."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_rows)
    rates = rate * (1.0 + 0.03 * rng.standard_normal(M))
    separations = np.zeros((n_rows, M + 2))
    separations[:, 1 : M + 1] = np.exp(np.minimum(-10.0 + t[:, None] * rates, 5.0))
    noise = np.exp(0.02 * rng.standard_normal(n_rows))
    loss = np.repeat((7.0 / (1.0 + t / 10.0) * noise)[:, None], M + 2, axis=1)
    moves = 0.01 / (1.0 + t / 20.0) * np.exp(0.05 * rng.standard_normal(n_rows))
    increments = np.square(moves)[:, None, None] * np.ones((1 + M, 1 + M))
    increments[0] = 0.0
    return RunSeries(
        run_id=f"lr{rate:g}-ic{seed}",
        learning_rate=rate,
        epsilon=1e-8,
        initial_condition=seed,
        seed=seed,
        n_parameters=1000,
        n_perturbed=M,
        has_control=True,
        is_complete=True,
        n_planned=n_rows,
        steps=2 * t,
        divergence={"l1": separations, "rms": separations, "embedded": separations, "random": separations},
        pairs=np.zeros((n_rows, M * (M + 1) // 2)),
        increments=increments,
        scores=rng.standard_normal((n_rows, M + 2, 3)),
        metrics={"loss": loss, "accuracy": np.full((n_rows, M + 2), 0.5)},
        explained_variance=0.4,
        eigengap=0.3,
        embedding_is_exact=True,
    )


def first_rows(run: RunSeries, n: int) -> RunSeries:
    return replace(
        run,
        steps=run.steps[:n],
        divergence={name: column[:n] for name, column in run.divergence.items()},
        metrics={name: column[:n] for name, column in run.metrics.items()},
        pairs=run.pairs[:n],
        increments=run.increments[:n],
        scores=run.scores[:n],
        is_complete=run.is_complete and n == len(run.steps),
    )


def with_loss(run: RunSeries, change: Callable[[Floats], Floats]) -> RunSeries:
    loss = run.metrics["loss"]
    return replace(run, metrics={**run.metrics, "loss": np.repeat(change(loss[:, 0])[:, None], M + 2, axis=1)})


def with_moves(run: RunSeries, factors: Floats) -> RunSeries:
    return replace(run, increments=run.increments * np.square(factors)[:, None, None])


def watch(run: RunSeries, sizes: Iterable[int] | None = None, rules: AlertsSection | None = None) -> list[Alert]:
    """Return the alerts of a run fed in these numbers of rows, by row."""
    watcher = RunWatch(rules, OPTIONS)
    found = []
    for n in [len(run.steps)] if sizes is None else sizes:
        found += watcher.update(first_rows(run, n))
    return sorted(found, key=lambda alert: (alert.row, alert.rule))


def kinds(found: list[Alert]) -> list[tuple[str, int | None]]:
    return [(alert.rule, alert.row) for alert in found]


def after(row: int, value: float, n_rows: int = 300) -> Floats:
    return np.where(np.arange(n_rows) >= row, value, 1.0)


def busy() -> dict[str, RunSeries]:
    """Return runs to which everything happens."""
    steady = series(0.0005)
    late = series(0.0)
    grown = np.exp(np.clip((np.arange(300) - 80.0) * 0.5, 0.0, 18.0))[:, None] * late.divergence["l1"]
    broken = steady.metrics["loss"].copy()
    broken[170:173, 2] = np.nan
    broken[180, 1] = np.inf
    return {
        "regular": steady,
        "chaotic": series(0.5),
        "left regular": replace(late, divergence={"l1": grown}),
        "jumps": with_moves(steady, after(120, 5.0) * after(220, 0.1)),
        "diverges": with_loss(steady, lambda loss: loss * after(100, 40.0)),
        "stalls": with_loss(steady, lambda loss: np.where(np.arange(300) > 80, loss[80], loss)),
        "breaks": replace(steady, metrics={"loss": broken}),
    }


def test_each_run_raises_what_happened_to_it() -> None:
    found = {name: kinds(watch(run)) for name, run in busy().items()}
    assert found == {
        "regular": [],
        "chaotic": [("became_chaotic", 74)],
        "left regular": [("left_regular", 124), ("became_chaotic", 199)],
        "jumps": [("jumped", 124)],
        "diverges": [("diverged", 139)],
        "stalls": [("stalled", 149)],
        "breaks": [("non_finite", 170)],
    }


@pytest.mark.parametrize("name", list(busy()))
def test_rows_blocks_and_the_whole_give_the_same_alerts(name: str) -> None:
    run = busy()[name]
    rules = AlertsSection(cool_down_rows=30)
    whole = watch(run, rules=rules)
    assert watch(run, range(301), rules) == whole
    rng = np.random.default_rng(1)
    for _ in range(5):
        sizes = [*np.sort(rng.integers(0, 300, rng.integers(1, 40))).tolist(), 300, 300]
        assert watch(run, sizes, rules) == whole
    # A reader may be behind: fewer rows than before change nothing.
    assert watch(run, [200, 150, 300, 10], rules) == whole


def test_alerts_are_json_and_say_where_and_why() -> None:
    for run in busy().values():
        for alert in watch(run):
            assert alert.id == f"{run.run_id}.{alert.rule}.{alert.row}"
            assert alert.row is not None
            assert alert.step == 2 * alert.row
            assert alert.message.endswith(".")
            assert json.loads(json.dumps(alert.to_json(), allow_nan=False))["evidence"] == alert.evidence


def test_coordinates_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    for run in busy().values():
        turned = replace(run, scores=-7.0 * rng.standard_normal(run.scores.shape), embedding_is_exact=False)
        assert watch(turned) == watch(run)


def test_a_jump_is_dated_and_measured() -> None:
    (alert,) = watch(busy()["jumps"])
    evidence = alert.evidence
    assert (evidence["change_row"], evidence["change_step"]) == (120, 240)
    assert evidence["statistic"] > evidence["threshold"] > 4.0
    assert 3.5 < evidence["factor"] < 5.0
    assert 3.0 < evidence["rms_move_after"] / evidence["rms_move_before"] < 4.5
    assert "From step 240 on" in alert.message


def test_a_rule_keeps_quiet_for_a_while_and_then_speaks_again() -> None:
    run = with_moves(series(0.0005), after(100, 5.0) * after(170, 0.2) * after(250, 5.0))
    for cool_down_rows, rows in ((10, [104, 174, 254]), (100, [104, 254]), (200, [104])):
        assert [alert.row for alert in watch(run, rules=AlertsSection(cool_down_rows=cool_down_rows))] == rows


def test_rules_are_turned_off_and_have_levels() -> None:
    runs = busy()
    assert watch(runs["jumps"], rules=AlertsSection(jumped="none")) == []
    assert watch(runs["jumps"], rules=AlertsSection(jump_factor=10.0)) == []
    assert [alert.level for alert in watch(runs["jumps"], rules=AlertsSection(jumped="error"))] == ["error"]
    chaos_off = watch(runs["left regular"], rules=AlertsSection(became_chaotic="none"))
    assert [alert.rule for alert in chaos_off] == ["left_regular"]


def test_a_direct_change_from_regular_to_chaotic_raises_one_alert() -> None:
    late = series(0.0)
    grown = np.exp(np.clip((np.arange(300) - 40.0) * 2.0, 0.0, 18.0))[:, None] * late.divergence["l1"]
    run = replace(late, divergence={"l1": grown})
    rules = AlertsSection(least_rows=20, check_every_rows=20)
    (alert,) = watch(run, rules=rules)
    assert alert.rule == "became_chaotic"
    assert alert.evidence["regime_before"] == "regular"
    assert alert.evidence["nmle"]["status"] == "ok"
    assert [a.rule for a in watch(run, rules=rules.model_copy(update={"became_chaotic": "none"}))] == ["left_regular"]


def test_chaos_that_continues_raises_one_alert() -> None:
    run = series(0.5)
    again = np.exp(np.clip((np.arange(300) - 120.0) * 0.25, 0.0, 20.0))[:, None]
    run = replace(run, divergence={"l1": again * run.divergence["l1"]})
    quick = AlertsSection(cool_down_rows=0)
    # Checkpoints 150 to 250 say onset, those around them chaotic.
    assert kinds(watch(run, rules=quick)) == [("became_chaotic", 74)]
    regrown = first_rows(run, 250)
    rising = nmle(regrown.steps, regrown.perturbed("l1"))
    assert rising.status is Status.NOT_SATURATED


def test_a_loss_that_comes_back_has_not_diverged() -> None:
    above = with_loss(series(0.0005), lambda loss: loss * np.where(np.abs(np.arange(300) - 120) < 19, 40.0, 1.0))
    assert watch(above) == []
    t = np.arange(300)
    is_above = ((t > 60) & (t < 90)) | ((t > 95) & (t < 125))
    assert watch(with_loss(series(0.0005), lambda loss: loss * np.where(is_above, 40.0, 1.0))) == []
    (alert,) = watch(above, rules=AlertsSection(diverged_rows=30))
    assert (alert.rule, alert.row) == ("diverged", 131)
    assert alert.evidence["loss"] > alert.evidence["start"]


def test_each_stretch_that_is_not_finite_raises_one_alert() -> None:
    run = busy()["breaks"]
    assert kinds(watch(run, rules=AlertsSection(cool_down_rows=5))) == [("non_finite", 170), ("non_finite", 180)]
    weights = series(0.0005)
    increments = weights.increments.copy()
    increments[50:] = np.nan
    (alert,) = watch(replace(weights, increments=increments))
    assert (alert.row, alert.evidence) == (50, {"found_in": ["moves"]})


def test_noise_and_targets_keep_a_flat_loss_from_stalling() -> None:
    rng = np.random.default_rng(3)
    flat = busy()["stalls"]
    assert watch(with_loss(flat, lambda loss: loss * np.exp(0.3 * rng.standard_normal(300)))) == []
    little = watch(with_loss(flat, lambda loss: loss * np.exp(0.003 * rng.standard_normal(300))))
    assert [alert.rule for alert in little] == ["stalled"]
    assert little[0].evidence["fall_of_log_loss"]["high"] < 0.01
    accuracy = np.full((300, M + 2), 0.95)
    assert watch(replace(flat, metrics={**flat.metrics, "accuracy": accuracy})) == []
    assert watch(replace(flat, n_planned=None, is_complete=False))[0].rule == "stalled"


def test_a_run_that_no_longer_moves_stalls_without_a_loss() -> None:
    run = replace(with_moves(series(0.0005), after(90, 0.0)), metrics={})
    (alert,) = watch(run)
    assert alert.rule == "stalled"
    assert alert.evidence["rms_move"] == 0.0
    assert "The weights no longer move" in alert.message
    # A loss of 0 leaves nothing to move for.
    solved = with_loss(series(0.0005), lambda loss: np.where(np.arange(300) >= 90, 0.0, loss))
    assert watch(with_moves(solved, after(90, 0.0))) == []


def test_a_slow_power_law_and_the_end_do_not_stall() -> None:
    slow = with_loss(series(0.0005, 1200), lambda loss: np.asarray(7.0 * (1.0 + np.arange(1200)) ** -0.1))
    assert watch(slow) == []
    slower = with_loss(series(0.0005, 1200), lambda loss: np.asarray(7.0 * (1.0 + np.arange(1200)) ** -0.01))
    assert [alert.rule for alert in watch(slower)] == ["stalled"]


def test_without_replicas_or_rows_there_is_nothing_to_say() -> None:
    run = series(0.0005)
    alone = replace(
        run,
        n_perturbed=0,
        has_control=False,
        divergence={"l1": run.divergence["l1"][:, :1]},
        increments=run.increments[:, :1, :1],
        metrics={"loss": run.metrics["loss"][:, :1]},
    )
    assert watch(alone) == []
    assert watch(first_rows(run, 0)) == []
    assert watch(first_rows(run, 1)) == []


def test_checkpoints_do_not_depend_on_how_rows_arrived_and_cost_a_constant_per_row() -> None:
    rules = AlertsSection()
    whole = list(checkpoints(0, 20_000, False, rules))
    assert whole[:3] == [50, 75, 100]
    parts: list[int] = []
    for n in range(0, 20_001, 37):
        parts += checkpoints(parts[-1] if parts else 0, n, False, rules)
    assert parts == [n for n in whole if n <= 20_000 - 20_000 % 37]
    assert sum(whole) < 22 * 20_000
    assert list(checkpoints(100, 121, True, rules)) == [121]
    assert list(checkpoints(0, 40, True, rules)) == []


def test_what_is_remembered_of_a_run_does_not_grow() -> None:
    run = with_moves(series(0.0005, 4000), np.exp(np.repeat(np.arange(40) % 2, 100)))
    watcher = RunWatch(AlertsSection(cool_down_rows=0), OPTIONS)
    sizes = []
    for n in (500, 4000):
        assert watcher.update(first_rows(run, n))
        sizes.append(len(pickle.dumps(watcher)))
    assert sizes[1] <= sizes[0] + 16


def test_a_watch_is_of_one_run() -> None:
    watcher = RunWatch()
    watcher.update(series(0.0005))
    with pytest.raises(BadCall, match=r"series: must be of the watched run lr0\.0005-ic0; got lr0\.5-ic0"):
        watcher.update(series(0.5))


def test_a_run_without_rows_for_a_while_is_silent() -> None:
    run = replace(first_rows(series(0.0005), 40), is_complete=False)
    assert silent(run, 1000.0, 1299.0) is None
    alert = silent(run, 1000.0, 1300.0)
    assert alert is not None
    assert (alert.id, alert.step) == ("lr0.0005-ic0.silent.39", 78)
    assert alert.message == "No row for 300 s, after 40 of 300 rows."
    assert silent(replace(run, is_complete=True), 0.0, 1e6) is None
    assert silent(run, 0.0, 1e6, AlertsSection(silent="none")) is None
    waiting = silent(first_rows(run, 0), 0.0, 1e6)
    assert waiting is not None
    assert (waiting.step, waiting.row) == (None, None)
