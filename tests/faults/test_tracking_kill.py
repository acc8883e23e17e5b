"""SIGKILL of a tracked training loses no row handed over; SIGKILL of its worker does not disturb the training."""

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import streamscalar as ss
from streamscalar.store import Store
from streamscalar.tracking import TrackingWarning, track
from streamscalar.tracking.channel import ring

pytestmark = pytest.mark.faults

TRAINING = """
import sys, time
import torch
from streamscalar.tracking import track
model = torch.nn.Linear(20, 10)
run = track(model, name="a", store=sys.argv[1], every_n_steps=1, resume="allow")
step = max(run._last, 0)
print("ready", flush=True)
while True:
    step += 1
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(step)
    before = run.summary().n_recorded
    run.step(step=step, loss=float(step))
    if run.summary().n_recorded > before:
        print(step, flush=True)
    time.sleep(0.002)
"""


@pytest.fixture(autouse=True)
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for few rows on their way, so that a test soon meets a full ring."""
    monkeypatch.setattr(ring, "MOST_SLOTS", 4)


def _wait_for_end(store: Store, run_id: str) -> None:
    """Wait until the orphaned worker has sealed the run."""
    until = time.monotonic() + 120
    while run_id not in store.run_ids() or store.status(run_id).get("phase") != "failed":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_killed_training_loses_no_row_handed_over(tmp_path: Path) -> None:
    rng = random.Random(1)
    handed: list[int] = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", TRAINING, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.5, 1.5))
        process.kill()
        # Whole lines alone: the last may be cut.
        handed += [int(line) for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        _wait_for_end(Store.open(tmp_path / "s"), "a")
        # What is asked for is set anew by the next attempt.
        assert "ended without finish()" in Store.open(tmp_path / "s").status("a")["reason"]
        Store.open(tmp_path / "s").set_status("a", phase="seen")
    stored = ss.open(tmp_path / "s").run("a")
    steps = stored.steps().tolist()
    # At most the row that was handed over while the signal came is there without having been told.
    assert set(handed) <= set(steps)
    assert len(steps) <= len(handed) + 3
    assert len(handed) > 20
    assert steps == sorted(set(steps))
    for step in steps:
        assert (stored.weights(step) == step).all()
    np.testing.assert_array_equal(stored.metrics("loss").values[:, 0], steps)
    assert Store.open(tmp_path / "s").run_ids() == ["a"]


def test_a_killed_training_ends_its_worker_even_while_its_children_live(tmp_path: Path) -> None:
    # Children that were forked hold every descriptor of the training, the line to the worker among them.
    fork = "import os\nchild = os.fork()\nif not child:\n    time.sleep(600)\nprint(child, flush=True)\n"
    script = TRAINING.replace('print("ready"', f'{fork}print("ready"')
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert process.stdout.readline() == "ready\n"
        assert int(process.stdout.readline()) == 1
        process.kill()
        _wait_for_end(Store.open(tmp_path / "s"), "a")
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_killed_worker_is_replaced_and_no_row_is_missing(tmp_path: Path) -> None:
    rng = random.Random(2)
    model = nn.Linear(20, 10)
    slowest_s = 0.0
    kills_at = {15, 40, 70}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = track(model, name="a", store=tmp_path / "s", every_n_steps=1)
        for step in range(1, 101):
            with torch.no_grad():
                for p in model.parameters():
                    p.fill_(step)
            until = time.monotonic() + 60
            while not run._link.free_slots() and time.monotonic() < until:
                time.sleep(0.002)
            started = time.perf_counter()
            run.step(loss=float(step))
            slowest_s = max(slowest_s, time.perf_counter() - started)
            if step in kills_at:
                time.sleep(rng.uniform(0, 0.02))
                os.kill(run._link.pid, signal.SIGKILL)
        summary = run.finish()
    assert run._link.n_restarts == 3
    assert {w.category for w in caught} == {TrackingWarning}
    assert len(caught) == 1
    assert summary.n_lost == summary.n_dropped == 0
    # A new worker takes a second to start; no step waited for it.
    assert slowest_s < 0.2
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.is_complete
    assert stored.steps().tolist() == list(range(1, 101))
    for step in range(1, 101):
        assert (stored.weights(step) == step).all()
    assert stored.exact_info()


def test_a_worker_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    model = nn.Linear(20, 10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = track(model, name="a", store=tmp_path / "s", every_n_steps=1)
        killed: set[int] = set()
        until = time.monotonic() + 120
        while not run._link.is_down and time.monotonic() < until:
            if run._link.pid not in killed:
                os.kill(run._link.pid, signal.SIGKILL)
                killed.add(run._link.pid)
            run.step(loss=1.0)
            time.sleep(0.01)
        run.step(loss=2.0)
        summary = run.finish()
    assert len(killed) >= 1
    assert run._link.is_down
    assert summary.n_dropped > 0
    texts = [str(w.message) for w in caught]
    assert sum("died" in text or "does not start" in text for text in texts) >= 2
    assert {w.category for w in caught} == {TrackingWarning}


def test_a_stopped_worker_never_blocks_a_step(tmp_path: Path) -> None:
    model = nn.Linear(200, 100)
    run = track(model, name="a", store=tmp_path / "s", every_n_steps=1)
    os.kill(run._link.pid, signal.SIGSTOP)
    durations = []
    try:
        for _ in range(300):
            started = time.perf_counter()
            run.step(loss=1.0)
            durations.append(time.perf_counter() - started)
    finally:
        os.kill(run._link.pid, signal.SIGCONT)
    assert sum(durations) < 1.0
    summary = run.finish()
    assert summary.n_recorded == 4
    assert summary.n_dropped == 296
    assert ss.open(tmp_path / "s").run("a").steps().tolist() == [1, 2, 3, 4]
