"""Runs added to and cancelled from an experiment while it runs, and afterwards."""

from pathlib import Path
from typing import Any

import pytest

import streamscalar as ss
from streamscalar.config import load_config
from streamscalar.errors import BadCall
from streamscalar.experiment import Experiment
from streamscalar.protocol.progress import Snapshot
from streamscalar.runtime import continue_store, execute, prepare


def settings_of(folder: Path, executor: str) -> dict[str, Any]:
    return {
        "experiment": {"name": "wishes", "n_initial_conditions": 1},
        "task": {"name": "quadratic", "curvatures": [1.0, 0.5, 0.25]},
        "training": {"learning_rate": [0.1, 0.2, 0.3], "n_steps": 64, "device": "cpu"},
        "perturbation": {"epsilon": 1e-6, "n_perturbed": 1},
        "store": {"url": str(folder / "wishes"), "segment_rows": 8},
        "cluster": {"executor": executor, "max_concurrent_runs": 1},
    }


def check_requests_are_obeyed(settings: dict[str, Any]) -> None:
    """Add a run to an experiment and cancel one while it runs."""
    asked = False

    def ask(snapshot: Snapshot) -> None:
        nonlocal asked
        if not asked and snapshot.n_rows:
            asked = True
            experiment = ss.open(settings["store"]["url"])
            assert experiment.add_runs([0.2, 0.4]) == ["lr0.4_ic0"]
            experiment.cancel("lr0.3_ic0")

    experiment = execute(prepare(load_config(settings)), ask)
    assert sorted(experiment.runs) == ["lr0.1_ic0", "lr0.2_ic0", "lr0.4_ic0"]
    assert all(run.is_complete for run in experiment.runs.values())
    assert [setting.learning_rate for setting in experiment.analyze().settings] == [0.1, 0.2, 0.4]


def test_runs_are_added_and_cancelled_while_the_experiment_runs(tmp_path: Path) -> None:
    check_requests_are_obeyed(settings_of(tmp_path, "inline"))


def test_a_run_in_training_is_cancelled_and_keeps_its_rows(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "inline")

    def ask(snapshot: Snapshot) -> None:
        view = snapshot.runs[0]
        if view.progress is not None and view.progress.n_rows == 16 and view.phase == "training":
            ss.open(settings["store"]["url"]).cancel("lr0.1_ic0")

    experiment = execute(prepare(load_config(settings)), ask)
    run = experiment.run("lr0.1_ic0")
    assert not run.is_complete
    assert 16 <= len(run.steps()) < 65
    status = experiment.store.status("lr0.1_ic0")
    assert (status["phase"], status["reason"]) == ("cancelled", "cancelled on request")
    assert experiment.run("lr0.2_ic0").is_complete


def test_wishes_outlive_the_experiment(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "inline")
    experiment = ss.run(settings)
    experiment.add_runs([0.5])
    experiment.cancel("lr0.1_ic0")
    resumed = execute(prepare(continue_store(experiment.store.path, {"executor": "inline"})))
    assert resumed.run("lr0.5_ic0").is_complete
    assert resumed.store.status("lr0.1_ic0")["phase"] == "done"


def test_an_added_run_equals_a_planned_one(tmp_path: Path) -> None:
    planned = ss.run({**settings_of(tmp_path / "planned", "inline")})
    settings = settings_of(tmp_path / "added", "inline")
    settings["training"]["learning_rate"] = [0.1, 0.2]
    short = ss.run(settings)
    short.add_runs([0.3])
    added: Experiment = execute(prepare(continue_store(short.store.path, {"executor": "inline"})))
    assert added.digest() == planned.digest()


def test_no_run_is_added_to_a_training_of_ones_own(tmp_path: Path) -> None:
    from streamscalar.store import Store

    config = load_config({"task": {"name": "tracked"}})
    Store.create(tmp_path / "mine", config.identity(), {})
    with pytest.raises(BadCall, match=r"run: cannot be added to runs recorded by ss\.track"):
        ss.open(tmp_path / "mine").add_runs([0.1])
