"""A training that is tracked to a Ray cluster."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import streamscalar as ss
from streamscalar.tracking import TrackingWarning, track
from tests.processes import pids_of


def _address() -> str:
    import ray

    found: str = ray.get_runtime_context().gcs_address
    return found


def _train(tracker: ss.Tracker, model: nn.Module, n_steps: int) -> list[np.ndarray]:
    """Train a little; return the weights after each step."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(32, 4)
    seen = []
    for _ in range(n_steps):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tracker.step(loss=loss)
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy())
        time.sleep(0.01)
    return seen


def test_rows_are_stored_by_an_actor_of_the_cluster(local_ray: None, tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    tracker = track(model, name="far", store=tmp_path / "s", address=_address(), every_n_steps=1)
    assert len(pids_of("ray::_Host")) == 1
    seen = _train(tracker, model, 40)
    summary = tracker.finish()
    assert (summary.n_recorded, summary.n_lost, dict(summary.warnings)) == (40, 0, {})
    run = ss.open(tmp_path / "s").run("far")
    assert run.is_complete
    for step in (1, 17, 40):
        np.testing.assert_array_equal(run.weights(step)[0], seen[step - 1])
    assert run.exact_info()["method"]


def test_an_actor_that_dies_is_replaced_and_loses_nothing(local_ray: None, tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    tracker = track(model, name="far", store=tmp_path / "s", address=_address(), every_n_steps=1)
    first = _train(tracker, model, 30)
    for pid in pids_of("ray::_Host"):
        os.kill(pid, signal.SIGKILL)
    second = _train(tracker, model, 30)
    summary = tracker.finish()
    run = ss.open(tmp_path / "s").run("far")
    # While a new actor starts, the ring is full and steps go unrecorded; what was handed over is there.
    assert summary.n_lost == 0
    assert summary.n_recorded + summary.n_dropped == 60
    assert len(run.steps()) == summary.n_recorded > 30
    for step in run.steps().tolist():
        np.testing.assert_array_equal(run.weights(step)[0], [*first, *second][step - 1])
    # Values wait until there is an actor; none is stored twice.
    assert summary.n_values_lost == 0
    assert ss.open(tmp_path / "s").store.reader("far").logged.entries().steps.tolist() == list(range(1, 61))


def test_without_a_cluster_the_run_is_recorded_here(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    with pytest.warns(TrackingWarning, match="must be the address of a running Ray cluster") as caught:
        tracker = track(model, name="near", store=tmp_path / "s", address="127.0.0.1:9", every_n_steps=1)
    assert "recorded on this machine alone" in str(caught[0].message)
    _train(tracker, model, 5)
    tracker.finish()
    assert ss.open(tmp_path / "s").run("near").is_complete
