"""The table of an experiment from plain series."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.quantities import keys
from streamscalar.analysis.run import analyze_run
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.setting_estimates import is_positive
from streamscalar.analysis.table import Table, analyze
from streamscalar.types import Estimate, Regime, Status
from tests.oracles.exponents import pair_divergence

M = 5
OPTIONS = Options(accuracy_target=0.75, n_surrogates=39, n_bootstrap=200)


def series(learning_rate: float, initial_condition: int, rate: float, **changes: object) -> RunSeries:
    """Return 201 rows whose separations grow at about `rate` and level off; the control is identical.

    The states settle where each replica has its own, a little noise on top.
    """
    rng = np.random.default_rng(initial_condition)
    steps = np.arange(201)
    rates = rate * (1.0 + 0.03 * rng.standard_normal(M))
    separations = np.zeros((201, M + 2))
    separations[:, 1 : M + 1] = np.exp(np.minimum(-8.0 + steps[:, None] * rates, 8.0))
    accuracy = np.repeat(np.minimum(0.1 + 0.02 * steps, 0.8)[:, None], M + 2, axis=1)
    loss = np.repeat(np.linspace(12.0, 0.1, 201)[:, None], M + 2, axis=1)
    scores = rng.standard_normal(M + 2)[:, None] + 0.1 * rng.standard_normal((201, M + 2, 3))
    scores[:, M + 1] = scores[:, 0]
    increments = np.repeat(np.eye(M + 1)[None], 201, axis=0)
    increments[0] = 0.0
    run = RunSeries(
        run_id=f"lr{learning_rate:g}-ic{initial_condition}",
        learning_rate=learning_rate,
        epsilon=1e-8,
        initial_condition=initial_condition,
        seed=initial_condition,
        n_parameters=1000,
        n_perturbed=M,
        has_control=True,
        is_complete=True,
        n_planned=201,
        steps=steps,
        divergence={
            "l1": separations,
            "rms": separations,
            "embedded": separations**1.1,
            "random": separations,
        },
        pairs=pair_divergence(separations[:, : M + 1] * np.array([1, 1, -1, 1, -1, 1])),
        increments=increments,
        scores=scores,
        metrics={"loss": loss, "accuracy": accuracy},
        explained_variance=0.4 + 0.01 * initial_condition,
        eigengap=0.3,
        embedding_is_exact=True,
    )
    return replace(run, **changes)  # type: ignore[arg-type]  # keyword names are checked by replace itself


def first_rows(run: RunSeries, n: int) -> RunSeries:
    return replace(
        run,
        steps=run.steps[:n],
        divergence={name: column[:n] for name, column in run.divergence.items()},
        metrics={name: column[:n] for name, column in run.metrics.items()},
        pairs=run.pairs[:n],
        increments=run.increments[:n],
        scores=run.scores[:n],
        is_complete=False,
    )


def without_values(table: Table) -> set[str]:
    """Return the names of the quantities that have no value in any setting; numbers must be finite or absent."""
    json.dumps(table.to_json(), allow_nan=False)
    return {name for name in keys("run") if all(s.estimates[name].value is None for s in table.settings)}


def test_one_run() -> None:
    found = analyze_run(series(7.5, 0, 0.7), OPTIONS)
    assert found.estimates["nmle"].value == pytest.approx(0.7, rel=0.03)
    assert found.estimates["nmle_embedded"].value == pytest.approx(0.77, rel=0.03)
    assert found.estimates["steps_to_accuracy"].value == 33.0
    assert found.estimates["explained_variance"].value == 0.4
    assert found.regime is Regime.CHAOTIC
    assert "not over initial conditions" in found.regime_reason
    assert found.control_divergence == 0.0
    assert found.loss == pytest.approx(0.1)
    assert found.accuracy == pytest.approx(0.8)


def test_settings_are_grouped_ordered_and_classified() -> None:
    runs = [series(rate, ic, growth) for rate, growth in ((7.5, 0.7), (1.0, 0.001)) for ic in (2, 0, 1)]
    table = analyze(runs, OPTIONS, {"name": "sweep"})
    assert [setting.learning_rate for setting in table.settings] == [1.0, 7.5]
    assert [setting.regime for setting in table.settings] == [Regime.REGULAR, Regime.CHAOTIC]
    assert [setting.n_runs for setting in table.settings] == [3, 3]
    assert [run.initial_condition for run in table.runs] == [0, 1, 2, 0, 1, 2]
    regular, chaotic = table.settings
    assert regular.estimates["positive_fraction"].value == 0.0
    assert chaotic.estimates["positive_fraction"].value == 1.0
    assert chaotic.estimates["positive_fraction"].n == 3
    assert chaotic.estimates["positive_fraction"].low == pytest.approx(0.025 ** (1 / 3))
    singles = [run.estimates["nmle"].value for run in table.runs[3:]]
    assert chaotic.estimates["nmle"].value == pytest.approx(sum(value or 0.0 for value in singles) / 3)
    assert "interval over 3 initial conditions" in chaotic.regime_reason
    assert regular.estimates["nmle"].status is Status.NO_EXPONENTIAL_PHASE
    assert chaotic.estimates["explained_variance"].value == pytest.approx(0.41)


def test_json_has_the_agreed_shape() -> None:
    table = analyze([series(7.5, ic, 0.7) for ic in range(3)], OPTIONS, {"name": "sweep"})
    document = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert list(document) == ["schema", "experiment", "settings", "ladders", "runs"]
    assert document["schema"] == 1
    assert document["experiment"] == {"name": "sweep"}
    setting = document["settings"][0]
    expected = {"learning_rate", "epsilon", "regime", "regime_reason", "n_runs", *keys("setting")}
    expected |= {"spacings"}
    assert set(setting) == expected
    assert set(setting["nmle"]) == {
        "value", "low", "high", "confidence", "n", "status", "method", "window", "message",
    }  # fmt: skip
    assert document["runs"][0]["run_id"] == "lr7.5-ic0"
    assert document["runs"][0]["control_divergence"] == 0.0


def test_data_frame_has_one_row_per_setting() -> None:
    table = analyze([series(7.5, ic, 0.7) for ic in range(3)] + [series(1.0, 0, 0.001)], OPTIONS, {})
    frame = table.to_pandas()
    assert frame["learning_rate"].tolist() == [1.0, 7.5]
    assert frame["nmle_status"].tolist() == ["no_exponential_phase", "ok"]
    assert frame["nmle"].iloc[1] == table.settings[1].estimates["nmle"].value
    assert frame["regime"].tolist() == ["regular", "chaotic"]


def test_what_was_not_recorded_is_missing() -> None:
    run = series(7.5, 0, 0.7, metrics={}, explained_variance=None, eigengap=None, has_control=False)
    found = analyze_run(run, OPTIONS)
    for name in ("steps_to_accuracy", "explained_variance", "tangent_exponent", "decorrelation_time"):
        assert found.estimates[name].status is Status.MISSING, name
    assert found.estimates["nmle"].is_ok
    assert found.loss is None
    assert found.accuracy is None
    assert found.control_divergence is None
    no_target = analyze_run(series(7.5, 0, 0.7), Options())
    assert no_target.estimates["steps_to_accuracy"].status is Status.MISSING


def test_tangents_are_judged_where_they_were_carried() -> None:
    run = series(7.5, 0, 0.7)
    growth = np.full((201, M + 2), 0.6)
    growth[0] = 0.0
    found = analyze_run(replace(run, metrics={**run.metrics, "tangent_1": growth}), OPTIONS)
    assert found.estimates["tangent_exponent"].value == pytest.approx(0.6)


def test_a_ladder_is_extrapolated_over_the_same_initial_conditions() -> None:
    epsilons = (1e-10, 1e-8, 1e-6, 1e-4)
    runs = [
        series(1.0, ic, 0.5 - 2.0 / np.log(1.0 / epsilon), epsilon=epsilon, run_id=f"{epsilon}-{ic}")
        for epsilon in epsilons
        for ic in range(4)
    ]
    table = analyze(runs, OPTIONS, {})
    ladder = table.ladders[1.0]["nmle"]
    assert ladder.n == 4
    assert ladder.value == pytest.approx(0.5, abs=0.02)
    assert [setting.epsilon for setting in table.settings] == sorted(epsilons)
    assert analyze(runs[:8], OPTIONS, {}).ladders == {}


BAD: dict[str, Callable[[RunSeries], RunSeries]] = {
    "no rows": lambda run: first_rows(run, 0),
    "one row": lambda run: first_rows(run, 1),
    "few rows": lambda run: first_rows(run, 7),
    "NaN from some step on": lambda run: spoilt(run, 60, np.nan),
    "infinite from some step on": lambda run: spoilt(run, 3, np.inf),
    "constant": lambda run: replace(
        run,
        divergence={name: np.zeros_like(values) for name, values in run.divergence.items()},
        pairs=np.zeros_like(run.pairs),
        increments=np.zeros_like(run.increments),
        scores=np.ones_like(run.scores),
        metrics={name: np.full_like(values, 0.5) for name, values in run.metrics.items()},
    ),
    "no replicas": lambda run: replace(
        run,
        n_perturbed=0,
        has_control=False,
        divergence={name: values[:, :1] for name, values in run.divergence.items()},
        pairs=run.pairs[:, :0],
        increments=run.increments[:, :1, :1],
        scores=run.scores[:, :1],
        metrics={name: values[:, :1] for name, values in run.metrics.items()},
    ),
}


def spoilt(run: RunSeries, row: int, value: float) -> RunSeries:
    """Return the run with every series at `value` from a row on."""

    def spoil(values: NDArray[np.float64]) -> NDArray[np.float64]:
        changed = values.copy()
        changed[row:] = value
        return changed

    return replace(
        run,
        divergence={name: spoil(values) for name, values in run.divergence.items()},
        metrics={name: spoil(values) for name, values in run.metrics.items()},
        pairs=spoil(run.pairs),
        increments=spoil(run.increments),
        scores=spoil(run.scores),
    )


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("n_runs", [1, 2, 4])
def test_bad_data_is_a_status_with_advice_and_never_a_number(name: str, n_runs: int) -> None:
    table = analyze([BAD[name](series(7.5, ic, 0.7)) for ic in range(n_runs)], OPTIONS, {})
    exponents = {quantity for quantity in keys("run") if quantity.startswith(("nmle", "recurrence", "characteristic"))}
    assert exponents <= without_values(table)
    assert len(table.runs) == n_runs
    for run in table.runs:
        for quantity, estimate in run.estimates.items():
            assert estimate.is_ok or estimate.message, quantity
    assert table.settings[0].spacings.fits.message


def test_an_unfinished_run_says_what_its_rows_say() -> None:
    early = analyze_run(first_rows(series(7.5, 0, 0.7), 15), OPTIONS)
    assert early.n_rows == 15
    assert early.n_planned == 201
    assert early.estimates["nmle"].status is Status.NOT_SATURATED
    assert early.estimates["ftle"].value == pytest.approx(0.7, rel=0.03)
    assert early.estimates["steps_to_accuracy"].status is Status.NOT_REACHED
    empty = analyze_run(first_rows(series(7.5, 0, 0.7), 0), OPTIONS)
    assert empty.estimates["ftle"].status is Status.TOO_FEW_ROWS
    assert empty.regime is Regime.UNDECIDED
    assert empty.loss is None


def test_the_control_tells_the_noise_floor() -> None:
    run = series(7.5, 0, 0.7)
    l1 = run.divergence["l1"].copy()
    l1[40, M + 1] = 3e-9
    noisy = replace(run, divergence={**run.divergence, "l1": l1})
    assert analyze_run(noisy, OPTIONS).control_divergence == 3e-9
    l1[50, M + 1] = np.nan
    assert analyze_run(noisy, OPTIONS).to_json()["control_divergence"] == "nan"


@pytest.mark.parametrize(("end", "diverged"), [(13.0, True), (np.nan, True), (11.0, False)])
def test_divergence_is_about_the_loss_at_the_end(end: float, diverged: bool) -> None:
    run = series(7.5, 0, 0.7)
    loss = run.metrics["loss"].copy()
    loss[-1, : M + 1] = end
    found = analyze_run(replace(run, metrics={"loss": loss}), OPTIONS)
    assert found.has_diverged is diverged
    assert (found.regime is Regime.DIVERGED) is diverged


def test_a_number_does_not_depend_on_the_settings_beside_it() -> None:
    options = replace(OPTIONS, interval="bootstrap_t", n_bootstrap=200)
    alone = analyze([series(7.5, ic, 0.7) for ic in range(4)], options, {})
    both = analyze([series(lr, ic, 0.7) for lr in (1.0, 7.5) for ic in range(4)], options, {})
    assert alone.settings[0].to_json() == both.settings[1].to_json()
    other = analyze([series(7.5, ic, 0.7) for ic in range(4)], replace(options, seed=1), {})
    assert alone.settings[0].estimates["nmle"].high != other.settings[0].estimates["nmle"].high


@pytest.mark.parametrize(
    ("value", "low", "verdict"),
    [(0.7, 0.6, True), (0.7, -0.1, False), (0.7, None, True), (0.002, 0.001, False), (0.002, None, False)],
)
def test_positive_is_one_definition(value: float, low: float | None, verdict: bool) -> None:
    high = None if low is None else 2 * value - low
    assert is_positive(Estimate(value, Status.OK, low, high)) is verdict


def test_positive_without_a_value() -> None:
    assert is_positive(Estimate.failed(Status.CONTRACTED)) is False
    assert is_positive(Estimate.failed(Status.NON_FINITE)) is None
    run = series(7.5, 0, 0.7)
    lost = replace(spoilt(run, 0, np.nan), initial_condition=1)
    found = analyze([run, lost], OPTIONS, {}).settings[0].estimates["positive_fraction"]
    assert found.n == 1
    assert "1 without an exponent" in found.message
    none = analyze([lost], OPTIONS, {}).settings[0].estimates["positive_fraction"]
    assert none.status is Status.NON_FINITE
