"""SIGKILL of tracked trainings and of the workers that record them."""

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import nn

import streamscalar as ss
from streamscalar.store import Store
from streamscalar.tracking import TrackingWarning, track

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


def wait_for_end(store: Store, run_id: str) -> None:
    """Wait until the orphaned worker has sealed the run."""
    until = time.monotonic() + 120
    while run_id not in store.run_ids() or store.status(run_id).get("phase") != "failed":
        assert time.monotonic() < until
        time.sleep(0.05)


def check_killed_trainings_lose_no_row(folder: Path, seed: int, n_kills: int) -> None:
    """Kill a tracked training `n_kills` times, each going on where the last one ended."""
    rng = random.Random(seed)
    handed: list[int] = []
    for _ in range(n_kills):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", TRAINING, str(folder / "s")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.5, 1.5))
        process.kill()
        # Whole lines alone: the last may be cut.
        handed += [int(line) for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        wait_for_end(Store.open(folder / "s"), "a")
        # What is asked for is set anew by the next attempt.
        assert "ended without finish()" in Store.open(folder / "s").status("a")["reason"]
        Store.open(folder / "s").set_status("a", phase="seen")
    stored = ss.open(folder / "s").run("a")
    steps = stored.steps().tolist()
    # At most the row that was handed over while the signal came is there without having been told.
    assert set(handed) <= set(steps)
    assert len(steps) <= len(handed) + n_kills
    assert len(handed) > 6 * n_kills
    assert steps == sorted(set(steps))
    for step in steps:
        assert (stored.weights(step) == step).all()
    np.testing.assert_array_equal(stored.metrics("loss").values[:, 0], steps)
    # Every step has its value, with or without a row; each attempt goes on after the newest row.
    logged = stored.logged("loss")
    np.testing.assert_array_equal(logged.steps, np.arange(1, logged.steps[-1] + 1))
    np.testing.assert_array_equal(logged.values[:, 0], logged.steps)
    assert Store.open(folder / "s").run_ids() == ["a"]


def check_killed_workers_lose_no_row(folder: Path, seed: int, kills_at: Collection[int]) -> None:
    """Kill the worker of a training of 100 steps after each step of `kills_at`."""
    rng = random.Random(seed)
    model = nn.Linear(20, 10)
    slowest_s = 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = track(model, name="a", store=folder / "s", every_n_steps=1)
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
    assert run._link.n_restarts == len(kills_at)
    assert {w.category for w in caught} == {TrackingWarning}
    assert len(caught) == 1
    assert summary.n_lost == summary.n_dropped == 0
    # A new worker takes a second to start; no step waited for it.
    assert slowest_s < 0.2
    stored = ss.open(folder / "s").run("a")
    assert stored.is_complete
    assert stored.steps().tolist() == list(range(1, 101))
    for step in range(1, 101):
        assert (stored.weights(step) == step).all()
    assert stored.exact_info()
    # No value was repeated by a new worker.
    entries = ss.open(folder / "s").store.reader("a").logged.entries()
    assert entries.steps.tolist() == entries.values.tolist() == list(range(1, 101))
