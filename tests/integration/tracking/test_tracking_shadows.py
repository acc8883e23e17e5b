"""Shadows and tangent vectors of tracked trainings, against models trained by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import streamscalar as ss
from streamscalar.runtime import run as run_experiment
from streamscalar.tracking import track
from streamscalar.training.data import load_data
from streamscalar.types import Status
from tests.conftest import small_config
from tests.integration.tracking.test_tracking import batches, flat, loss_of, mlp, silence, train


def _momentum(parameters: Any) -> Optimizer:
    return SGD(parameters, lr=0.3, momentum=0.9, weight_decay=1e-3)


def _adam(parameters: Any) -> Optimizer:
    return Adam(parameters, lr=0.01)


def _adamw(parameters: Any) -> Optimizer:
    return AdamW(parameters, lr=0.01)


@pytest.mark.parametrize("optimizer_of", [_momentum, _adam, _adamw])
def test_shadows_equal_models_trained_by_hand(tmp_path: Path, optimizer_of: Callable[[Any], Optimizer]) -> None:
    model = mlp(torch.float64)
    optimizer = optimizer_of(model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    data = batches(12, torch.float64)
    run = track(model, name="a", store=tmp_path / "s", optimizer=optimizer, loss_fn=loss_of, shadow=2, every_n_steps=1)
    # The tracker would do so at the first forward pass.
    run._companions.start()
    shadows = run._companions.shadows
    starts = [flat(shadow) for shadow in shadows]
    reference = flat(model)
    for start in starts:
        moved = start - reference
        # Weights, not biases, are moved by up to 1e-8.
        assert 0.9e-8 < np.abs(moved).max() <= 1e-8
        assert not moved[108:117].any()
    torch.manual_seed(5)
    seen = train(model, optimizer, data, run, passes_batch=True, schedule=schedule.step)
    run.finish()

    by_hand = []
    for start in starts:
        twin = mlp(torch.float64)
        torch.nn.utils.vector_to_parameters(torch.from_numpy(start), twin.parameters())
        own = optimizer_of(twin.parameters())
        own_schedule = torch.optim.lr_scheduler.ExponentialLR(own, 0.9)
        torch.manual_seed(5)
        by_hand.append(train(twin, own, data, schedule=own_schedule.step))
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.setting["epsilon"] == 1e-8
    for step in range(1, 13):
        row = stored.weights(step)
        assert row[0].tobytes() == seen[step].tobytes()
        for index, twin_rows in enumerate(by_hand):
            assert row[1 + index].tobytes() == twin_rows[step].tobytes(), (step, index)
    apart = stored.divergence("l1").values[:, 1:]
    np.testing.assert_allclose(
        apart, [[np.abs(twin[s] - seen[s]).sum() for twin in by_hand] for s in range(1, 13)], rtol=1e-12
    )


def test_a_shadow_that_is_not_told_its_batch_is_given_up_and_training_goes_on(tmp_path: Path) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with silence() as caught:
        run = track(
            model, name="a", store=tmp_path / "s", optimizer=optimizer, loss_fn=loss_of, shadow=True, every_n_steps=1
        )
        train(model, optimizer, batches(3), run)
        run.finish()
    assert ["step 1 was an update without its batch" in str(w.message) for w in caught] == [True]
    stored = ss.open(tmp_path / "s").run("a")
    assert np.isnan(stored.weights(2)[1]).all()
    assert np.isfinite(stored.weights(2)[0]).all()
    exponent = stored.estimates().estimates["ftle"]
    assert exponent.status is Status.NOT_REPRODUCED
    assert exponent.message.startswith("step 1 was an update without its batch")


def test_ftle_and_tangent_agree_with_the_same_run_as_an_experiment(tmp_path: Path) -> None:
    n_steps = 40
    config = small_config(
        tmp_path / "experiment",
        experiment={"n_initial_conditions": 1},
        training={"learning_rate": [2.5], "n_steps": n_steps, "n_tangents": 1},
        perturbation={"n_perturbed": 2, "control": False},
    )
    expected = next(iter(run_experiment(config).runs.values()))
    start = expected.weights(0)
    data = load_data(config.task)
    batch = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)).double()
    optimizer = SGD(model.parameters(), lr=2.5)
    run = track(
        model,
        name="a",
        store=tmp_path / "tracked",
        optimizer=optimizer,
        loss_fn=loss_of,
        shadow=2,
        tangent=True,
        every_n_steps=1,
        seed=expected._reader.seed,
        metrics=["loss"],
    )
    torch.nn.utils.vector_to_parameters(torch.from_numpy(start[0].copy()), model.parameters())
    run._companions.start()
    for index, shadow in enumerate(run._companions.shadows):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(start[1 + index].copy()), shadow.parameters())
    # The state before training, as the experiment has it.
    run.step(step=0)
    train(model, optimizer, [batch] * n_steps, run, first=1, passes_batch=True)
    assert run.finish().warnings == {}
    found = ss.open(tmp_path / "tracked").run("a")
    assert found.steps().tolist() == list(range(n_steps + 1))
    np.testing.assert_allclose(found.weights(n_steps)[0], expected.weights(n_steps)[0], rtol=1e-9, atol=1e-9)
    ours, theirs = found.estimates().estimates, expected.estimates().estimates
    assert ours["ftle"].value == pytest.approx(theirs["ftle"].value, rel=1e-4)
    growth = found.metrics("tangent_1").values[:, 0], expected.metrics("tangent_1").values[:, 0]
    assert growth[0][0] == 0.0
    np.testing.assert_allclose(growth[0][1:], growth[1][1:], rtol=1e-6, atol=1e-8)
    assert ours["tangent_exponent"].value == pytest.approx(theirs["tangent_exponent"].value, rel=1e-6)


def test_buffers_of_model_and_shadow_are_recorded_with_their_weights(tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.Linear(9, 3)).double()
    optimizer = SGD(model.parameters(), lr=0.1)
    run = track(
        model, name="a", store=tmp_path / "s", optimizer=optimizer, loss_fn=loss_of, shadow=1, buffers=True,
        every_n_steps=1,
    )  # fmt: skip
    seen = {}
    for step, batch in enumerate(batches(8, torch.float64), 1):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        run.step(batch=batch, loss=loss)
        (shadow,) = run._companions.shadows
        seen[step] = [
            np.concatenate([flat(one), one.get_buffer("1.running_mean"), one.get_buffer("1.running_var")])
            for one in (model, shadow)
        ]
    assert run.finish().warnings == {}
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.setting["buffers"] == ["1.running_mean", "1.running_var"]
    assert [layer.name for layer in stored.layout.layers][-2:] == ["1.running_mean", "1.running_var"]
    for step in stored.steps().tolist():
        np.testing.assert_array_equal(stored.weights(step), seen[step])
    # The shadow starts with the buffers of the model, unperturbed, and has its own from the first step on.
    assert 0 < np.abs(seen[8][0][-9:] - seen[8][1][-9:]).max() < 1e-6
