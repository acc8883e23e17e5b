"""The registry of estimates is complete, and the only place of its facts."""

from dataclasses import fields, replace

import pytest

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.quantities import QUANTITIES, TRACKED, advice, advised, keys
from streamscalar.analysis.run import ESTIMATORS, analyze_run
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.setting_estimates import analyze_setting
from streamscalar.analysis.table import analyze
from streamscalar.types import ADVICE, REGIMES, Estimate, Regime, Status
from tests.unit.analysis.test_alerts import first_rows, series

FAST = Options(n_surrogates=19)
CONFIG_KEYS = ("perturbation.", "training.", "recording.", "experiment.", "task.")


@pytest.fixture(scope="module")
def run() -> RunSeries:
    return first_rows(series(0.5), 60)


def test_analysis_produces_exactly_the_estimates_of_the_registry_in_its_order(run: RunSeries) -> None:
    assert set(ESTIMATORS) == set(keys("run"))
    single = analyze_run(run, FAST)
    assert list(single.estimates) == keys("run")
    setting = analyze_setting([single], FAST)
    assert list(setting.estimates) == keys("setting")
    assert set(QUANTITIES) == {*keys("run"), *keys("setting"), *keys("ladder")}


def test_a_ladder_has_the_estimates_of_its_level(run: RunSeries) -> None:
    rungs = [replace(run, run_id=f"{epsilon}", epsilon=epsilon) for epsilon in (1e-8, 1e-7, 1e-6)]
    (ladder,) = analyze(rungs, FAST, {}).ladders.values()
    assert list(ladder) == keys("ladder")


def test_every_entry_is_described_and_no_two_share_a_name() -> None:
    for name in ("label", "short"):
        texts = [getattr(quantity, name) for quantity in QUANTITIES.values()]
        assert len(set(texts)) == len(texts)
    for quantity in QUANTITIES.values():
        assert all(getattr(quantity, field.name) for field in fields(quantity) if field.name != "advice"), quantity
        assert quantity.meaning.endswith(".")
    assert set(REGIMES) == set(Regime)
    assert set(ADVICE) == set(Status)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_advice_for_a_tracked_run_names_no_config_key(status: Status) -> None:
    assert not any(key in advice(status, is_tracked=True) for key in CONFIG_KEYS)
    assert advice(status, is_tracked=False) == ADVICE[status]
    found = advised("ftle", Estimate.failed(status, what="Seen."), is_tracked=True)
    assert found.message == f"Seen. {advice(status, is_tracked=True)}"
    assert advised("ftle", found, is_tracked=False) is found


def test_a_tracked_run_without_shadows_is_pointed_to_the_arguments_of_track() -> None:
    full = first_rows(series(0.5), 60)
    alone = replace(
        full,
        n_perturbed=0,
        has_control=False,
        divergence={name: column[:, :1] for name, column in full.divergence.items()},
        metrics={name: column[:, :1] for name, column in full.metrics.items()},
        increments=full.increments[:, :1, :1],
        scores=full.scores[:, :1],
        pairs=full.pairs[:, :0],
    )
    configured = analyze_run(alone, FAST)
    tracked = analyze_run(alone, replace(FAST, is_tracked=True))
    setting = analyze_setting([tracked], replace(FAST, is_tracked=True))
    assert "raise perturbation.n_perturbed" in configured.estimates["ftle"].message
    assert "shadow=True" in tracked.estimates["ftle"].message
    assert "shadow=True" in tracked.regime_reason
    assert configured.estimates["tangent_exponent"].message.startswith(
        "No tangent vector was carried: set training.n_tangents."
    )
    assert tracked.estimates["tangent_exponent"].message.startswith(
        "No tangent vector was carried: pass tangent=True to ss.track."
    )
    texts = [estimate.message for found in (tracked, setting) for estimate in found.estimates.values()]
    assert not [text for text in texts if any(key in text for key in CONFIG_KEYS)]


def test_the_replaced_advice_is_the_advice_that_names_a_config_key() -> None:
    named = {status for status, text in ADVICE.items() if any(key in text for key in CONFIG_KEYS)}
    assert named == set(TRACKED)


def test_states_and_spacings_of_a_tracked_run_name_no_config_key() -> None:
    few = first_rows(series(0.5), 5)
    for options, is_config in ((FAST, True), (replace(FAST, is_tracked=True), False)):
        run = analyze_run(few, options)
        spacings = analyze_setting([run], options).spacings
        for message in (run.states.message, spacings.fits.message):
            assert message
            assert any(key in message for key in CONFIG_KEYS) is is_config
