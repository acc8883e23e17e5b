"""A search over real trainings: its result, its continuation, its refusals, and the command."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import streamscalar
from streamscalar.cli.find_onset import find_onset as command
from streamscalar.config import Config
from streamscalar.errors import BadCall, WorkFailed
from streamscalar.protocol.onset_search import OnsetResult, OnsetStatus
from streamscalar.protocol.progress import Snapshot
from streamscalar.runtime.onset_trials import find_onset, range_test
from streamscalar.training.data import load_data
from streamscalar.types import Status
from tests.conftest import small_config

PER_RATE = 3 * 25
SEARCH: dict[str, Any] = {"low": 0.1, "high": 10.0, "budget_steps": 8 * PER_RATE, "tolerance": 1.0}


def digits(**sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "experiment": {"n_initial_conditions": 3},
        "task": {"accuracy_target": 0.4},
        "training": {"n_steps": 25},
        "store": {"fsync": "none", "segment_rows": 26},
        "recording": {"retain": "none"},
    }
    return small_config(
        Path("unused"), **{name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onset") / "search"


@pytest.fixture(scope="module")
def result(root: Path) -> OnsetResult:
    return find_onset(digits(), root, **SEARCH)


def test_every_probe_is_what_its_stored_experiment_says(root: Path, result: OnsetResult) -> None:
    probes = {probe.learning_rate: probe for probe in result.probes}
    stages = sorted(root.glob("stage-*"))
    settings = [setting for stage in stages for setting in streamscalar.open(stage).analyze().settings]
    assert sorted(setting.learning_rate for setting in settings) == list(probes)
    for setting in settings:
        probe = probes[setting.learning_rate]
        assert probe.regime is setting.regime
        assert probe.steps_to_accuracy == setting.estimates["steps_to_accuracy"]
        assert probe.ftle == setting.estimates["ftle"]
    assert result.n_steps_spent == len(settings) * PER_RATE <= result.budget_steps


def test_the_bracket_and_the_fastest_rate_are_those_of_the_probes(root: Path, result: OnsetResult) -> None:
    regimes = {probe.learning_rate: probe.regime for probe in result.probes}
    assert result.high is not None
    assert result.low is not None
    assert result.low < result.high
    assert regimes[result.low] == "regular"
    assert regimes[result.high] in ("onset", "chaotic", "diverged")
    speeds = [probe.steps_to_accuracy.value for probe in result.probes if probe.regime != "diverged"]
    assert result.steps_to_accuracy.value == min(speed for speed in speeds if speed is not None)
    assert json.loads((root / "onset.json").read_text()) == result.to_json()


def test_a_search_stopped_twice_ends_at_the_same_result(root: Path, result: OnsetResult, tmp_path: Path) -> None:
    small = find_onset(digits(), tmp_path, **SEARCH | {"budget_steps": 6 * PER_RATE})
    assert small.ran_out
    assert small.probes != result.probes
    first_stage = streamscalar.open(tmp_path / "stage-0").store.reader("lr1_ic0").setting

    n_rows: list[int] = []

    def stop(snapshot: Snapshot) -> None:
        n_rows.append(snapshot.n_rows)
        # What is stored begins with all its rows; the stage after it is stopped, once, in its second run.
        if n_rows.count(2 * 26) == 1 and n_rows[-1] == 2 * 26:
            raise KeyboardInterrupt

    with pytest.raises(WorkFailed, match="repeat the same command"):
        find_onset(digits(), tmp_path, **SEARCH, on_snapshot=stop)
    assert find_onset(digits(), tmp_path, **SEARCH) == result
    assert (tmp_path / "onset.json").read_bytes() == (root / "onset.json").read_bytes()
    for stage in sorted(root.glob("stage-*")):
        assert streamscalar.open(tmp_path / stage.name).digest() == streamscalar.open(stage).digest()
    assert streamscalar.open(tmp_path / "stage-0").store.reader("lr1_ic0").setting == first_stage


@pytest.mark.parametrize(
    ("sections", "search", "words"),
    [
        ({"task": {"name": "quadratic", "curvatures": [1.0]}}, {}, "task.name: must be a task with an accuracy"),
        ({"experiment": {"n_initial_conditions": 2}}, {}, "n_initial_conditions: must be at least 3"),
        ({"perturbation": {"n_perturbed": 0, "control": False}}, {}, "n_perturbed: must be at least 1"),
        ({"perturbation": {"epsilon": [1e-8, 1e-6]}}, {}, "epsilon: must be one number"),
        ({}, {"low": 10.0, "high": 0.1}, "ascending range"),
        ({}, {"budget_steps": 100}, "must be at least 375: 5 rates of 75 steps"),
    ],
)
def test_a_bad_call_is_one_sentence_and_writes_nothing(
    tmp_path: Path, sections: dict[str, dict[str, Any]], search: dict[str, Any], words: str
) -> None:
    config = digits(**sections)
    with pytest.raises(BadCall, match=words):
        find_onset(config, tmp_path / "search", **SEARCH | search)
    assert not (tmp_path / "search").exists()


def test_a_store_is_no_folder_for_stages(root: Path, result: OnsetResult) -> None:
    assert result.status in OnsetStatus
    with pytest.raises(BadCall, match="must be a folder for the stages of a search"):
        find_onset(digits(), root / "stage-0", **SEARCH)


def test_stages_of_another_config_are_refused(root: Path, result: OnsetResult) -> None:
    before = (root / "onset.json").read_bytes()
    with pytest.raises(BadCall, match=r"training\.n_steps: stored 25, requested 26"):
        find_onset(digits(training={"n_steps": 26}), root, **SEARCH | {"budget_steps": 10**6})
    assert (root / "onset.json").read_bytes() == before


def _sweep(config: Config, rates: np.ndarray[Any, Any]) -> list[float]:
    """Gradient descent by hand through one tanh layer: the loss after each update, the rate growing."""
    data = load_data(config.task)
    seed = int(np.random.SeedSequence([config.experiment.seed, 0]).generate_state(1, np.uint64)[0] >> 11)
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[0])
    hidden = config.model.widths[0]
    w1, b1 = rng.standard_normal((hidden, data.x_train.shape[1])), np.zeros(hidden)
    w2, b2 = rng.standard_normal((10, hidden)), np.zeros(10)
    one_hot = np.eye(10)[data.y_train]

    def forward() -> tuple[Any, Any, float]:
        inner = np.tanh(data.x_train @ w1.T + b1)
        logits = inner @ w2.T + b2
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        share = shifted / shifted.sum(1, keepdims=True)
        return inner, share, float(-np.log(share[one_hot == 1]).mean())

    losses = []
    for rate in rates:
        inner, share, _ = forward()
        at_logits = (share - one_hot) / len(one_hot)
        at_hidden = (at_logits @ w2) * (1 - inner**2)
        w2, b2 = w2 - rate * at_logits.T @ inner, b2 - rate * at_logits.sum(0)
        w1, b1 = w1 - rate * at_hidden.T @ data.x_train, b1 - rate * at_hidden.sum(0)
        losses.append(forward()[2])
    return losses


def test_the_range_test_is_gradient_descent_with_a_growing_rate() -> None:
    config = digits()
    swept = range_test(config, low=0.01, high=1.0, n_steps=30)
    rates = 0.01 * 100.0 ** (np.arange(30) / 29)
    np.testing.assert_allclose(swept.learning_rates, rates, rtol=1e-12)
    np.testing.assert_allclose(swept.losses, _sweep(config, rates), rtol=1e-9)
    for n in range(1, 31):
        weights = 0.9 ** np.arange(n)[::-1]
        assert swept.smoothed[n - 1] == pytest.approx(weights @ swept.losses[:n] / weights.sum(), rel=1e-12)
    assert swept.n_steps_spent == 30


def test_the_range_test_stops_where_the_loss_explodes_and_picks_below() -> None:
    swept = range_test(digits(), low=0.01, high=1000, n_steps=60)
    assert swept.n_steps_spent < 60
    assert swept.smoothed[-1] > 4 * swept.smoothed.min()
    assert swept.steepest.value is not None
    assert swept.tenth_of_minimum.value == swept.learning_rates[swept.smoothed.argmin()] / 10
    place = int(np.flatnonzero(swept.learning_rates == swept.steepest.value)[0])
    slopes = [swept.smoothed[i + 1] - swept.smoothed[i - 1] for i in range(1, len(swept.smoothed) - 1)]
    assert slopes[place - 1] == min(slopes)


def test_a_range_test_that_explodes_at_once_has_no_pick() -> None:
    config = digits(model={"activation": "identity"})
    swept = range_test(config, low=1e160, high=1e300, n_steps=10)
    assert swept.steepest.status is Status.NON_FINITE
    assert swept.tenth_of_minimum.value is None
    with pytest.raises(BadCall, match="ascending range"):
        range_test(config, low=1.0, high=math.inf)


def test_the_command_prints_the_result(root: Path, result: OnsetResult) -> None:
    app = typer.Typer()
    app.command()(command)
    file = root.parent / "config.json"
    file.write_text(digits().model_dump_json())
    options = ["--store", root, "--low", 0.1, "--high", 10, "--budget", 8 * PER_RATE, "--tolerance", 1]
    done = CliRunner().invoke(app, [str(part) for part in (file, *options, "--json", "--quiet")])
    assert done.exception is None
    assert json.loads(done.stdout) == result.to_json()
    assert done.stderr == ""
    done = CliRunner().invoke(app, [str(part) for part in (file, *options)])
    assert result.message in " ".join(done.stdout.split())
    assert "first sensitive" in done.stdout
    assert f"learning rate {result.high:g}: " in done.stderr
    assert f"{result.n_steps_spent:,} of 600 steps" in done.stderr
    done = CliRunner().invoke(app, [])
    assert isinstance(done.exception, BadCall)
    assert "needs a config file or a preset" in str(done.exception)
