"""Modules, tasks of a user's own and mini-batches through the whole way of a row."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from streamscalar import runtime
from streamscalar.config import Config, plan_packs
from streamscalar.errors import BadCall
from streamscalar.store import Store, verify
from streamscalar.training.batches import Batches
from streamscalar.types import Status
from streamscalar.workers.trainer import Trainer
from tests.conftest import small_config
from tests.unit.training.own_networks import BLOBS, NETWORK

CNN = {"name": "cnn", "channels": [2, 3]}
KINDS: dict[str, dict[str, Any]] = {
    "cnn": {
        "experiment": {"n_initial_conditions": 1},
        "task": {"n_train": 96, "n_test": 32},
        "model": CNN,
        "training": {"batch_size": 20, "learning_rate": [0.1, 0.5], "n_tangents": 1},
    },
    "own": {
        "task": {"name": BLOBS, "n_train": None, "n_test": None},
        "model": {"name": NETWORK},
        "training": {"batch_size": 7, "optimizer": "adam", "weight_decay": 0.01, "learning_rate": [0.01, 0.05]},
    },
    "mlp": {"training": {"batch_size": 50, "momentum": 0.5, "weight_decay": 0.001, "pack_size": 3}},
}


def config_of(kind: str, store: Path, **more: Any) -> Config:
    sections = KINDS[kind]
    return small_config(store, **{**sections, "training": {**sections["training"], **more}})


def test_a_cnn_on_digits_has_regimes(tmp_path: Path) -> None:
    experiment = runtime.run(
        small_config(
            tmp_path / "store",
            experiment={"n_initial_conditions": 3},
            task={"n_train": 60, "n_test": 30, "accuracy_target": 0.3},
            model={"name": "cnn", "channels": [2, 3], "activation": "relu"},
            perturbation={"n_perturbed": 2},
            training={"learning_rate": [0.02, 1e6], "n_steps": 40},
            store={"segment_rows": 20},
        )
    )
    regular, diverged = experiment.analyze().settings
    assert regular.regime == "regular"
    assert diverged.regime == "diverged"
    ftle = regular.estimates["ftle"]
    assert ftle.status is Status.OK
    assert ftle.high is not None
    assert ftle.high < 0.01
    for run in experiment.runs.values():
        assert (run.divergence("l1").values[:, -1] == 0).all()
    assert list(verify(Store.open(experiment.store.path))) == []


def test_a_cnn_learns_digits_by_mini_batches(tmp_path: Path) -> None:
    experiment = runtime.run(
        small_config(
            tmp_path / "store",
            experiment={"n_initial_conditions": 1},
            task={"n_train": 300, "n_test": 100},
            model={"name": "cnn", "channels": [4, 8], "activation": "relu"},
            training={"learning_rate": 0.02, "optimizer": "adam", "batch_size": 30, "n_steps": 100},
            recording={"every_n_steps": 10},
        )
    )
    (run,) = experiment.runs.values()
    assert run.metrics("accuracy").values[-1].min() > 0.7


def test_recorded_weights_follow_torch_on_the_batches_of_the_seed(tmp_path: Path) -> None:
    config = config_of("cnn", tmp_path / "store", n_tangents=0)
    experiment = runtime.run(config)
    plan = plan_packs(config)[1][0]
    run = experiment.run(plan.run_id)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(x[:96] / 16), torch.tensor(y[:96])
    module = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 2, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 10),
    ).double()
    nn.utils.vector_to_parameters(torch.tensor(run.weights(0)[1]), module.parameters())
    stepper = torch.optim.SGD(module.parameters(), lr=plan.learning_rate)
    batches = Batches([plan.seed], 1, 96, 20, torch.device("cpu"))
    for step in range(40):
        loss = nn.functional.cross_entropy(module(inputs), targets).item()
        assert run.metrics("loss").values[step, 1] == pytest.approx(loss, abs=1e-12)
        chosen = batches.at(step)
        stepper.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(inputs[chosen]), targets[chosen]))
        stepper.step()
    expected = nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    np.testing.assert_allclose(run.weights(40)[1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    whole = runtime.run(config_of(kind, tmp_path / "whole", n_steps=60))
    config = config_of(kind, tmp_path / "parts", n_steps=60)
    Store.create(config.store_path, config.identity(), {})
    calls = iter(range(10**6))
    outcome = Trainer(config.store_path, config).train(plan_packs(config)[0], lambda *_: None, lambda: next(calls) > 43)
    assert outcome == "stopped"
    assert runtime.run(config).digest() == whole.digest()


def test_runs_of_one_initial_condition_start_at_the_same_weights(tmp_path: Path) -> None:
    experiment = runtime.run(config_of("own", tmp_path / "store", n_steps=8))
    starts = {name: run.weights(0) for name, run in experiment.runs.items()}
    np.testing.assert_array_equal(starts["lr0.01_ic0"], starts["lr0.05_ic0"])
    assert (starts["lr0.01_ic0"][0] != starts["lr0.01_ic1"][0]).any()


def test_a_regression_has_no_accuracy_and_says_so(tmp_path: Path) -> None:
    experiment = runtime.run(
        small_config(
            tmp_path / "store",
            experiment={"n_initial_conditions": 3},
            task={"name": "tests.unit.training.own_networks:waves", "n_train": None, "n_test": None},
            model={"widths": [6]},
            training={"learning_rate": 0.05},
        )
    )
    run = next(iter(experiment.runs.values()))
    loss = run.metrics("loss").values
    assert loss[-1, 0] < loss[0, 0]
    with pytest.raises(BadCall, match="accuracy"):
        run.metrics("accuracy")
    (setting,) = experiment.analyze().settings
    assert setting.estimates["ftle"].status is Status.OK
    assert setting.estimates["steps_to_accuracy"].value is None


NETS = """
from torch import nn
from streamscalar.training.tasks import Task
from . import numbers_of
def task():
    x, y = numbers_of()
    return Task(x, y, x, y)
def net(n_inputs, n_outputs):
    return nn.Linear(n_inputs, n_outputs)
def dropped(n_inputs, n_outputs):
    return nn.Sequential(nn.Dropout(), nn.Linear(n_inputs, n_outputs))
"""
INIT = """
def numbers_of():
    import numpy as np
    x = np.random.default_rng(0).normal(size=(30, 3))
    return x, (x[:, 0] > 0).astype(int)
"""
CONFIG = """
task: {name: "mine.nets:task"}
model: {name: "mine.nets:net"}
training: {n_steps: 5, batch_size: 10}
experiment: {n_initial_conditions: 1}
cluster: {executor: inline}
"""


def test_the_command_finds_modules_in_its_folder(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "nets.py").write_text(NETS)
    (package / "__init__.py").write_text(INIT)
    command = Path(sys.executable).parent / "streamscalar"
    (tmp_path / "my.yaml").write_text(CONFIG)

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        arguments = [str(command), "run", "my.yaml", "--store", "store", "--quiet", *flags]
        return subprocess.run(
            arguments, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "300"}
        )

    refused = run("--set", "model.name=mine.nets:dropped")
    assert refused.returncode == 2
    assert "model.name mine.nets:dropped: must return the same outputs at every call" in refused.stderr
    assert not (tmp_path / "store").exists()
    done = run()
    assert done.returncode == 0, done.stderr
    assert Store.open(tmp_path / "store").run_ids() == ["lr1_ic0"]
