"""SIGKILL of a tracked training loses no row handed over; SIGKILL of its worker does not disturb the training."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from torch import nn

import streamscalar as ss
from streamscalar.store import Store
from streamscalar.tracking import TrackingWarning, track
from streamscalar.tracking.channel import link, ring
from tests.tracking_kills import (
    TRAINING,
    check_killed_trainings_lose_no_row,
    check_killed_workers_lose_no_row,
    wait_for_end,
)


@pytest.fixture(autouse=True)
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for few rows on their way, so that a test soon meets a full ring."""
    monkeypatch.setattr(ring, "MOST_SLOTS", 4)


def test_a_killed_training_loses_no_row_handed_over(tmp_path: Path) -> None:
    check_killed_trainings_lose_no_row(tmp_path, seed=1, n_kills=2)


def test_a_killed_worker_is_replaced_and_no_row_is_missing(tmp_path: Path) -> None:
    check_killed_workers_lose_no_row(tmp_path, seed=2, kills_at={15})


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
        wait_for_end(Store.open(tmp_path / "s"), "a")
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


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
        # More than the slots of the ring, none of which is freed any more.
        for _ in range(ring.MOST_SLOTS + 1):
            run.step(loss=2.0)
        summary = run.finish()
    assert len(killed) >= 1
    assert run._link.is_down
    assert summary.n_dropped > 0
    assert summary.n_values_lost > 0
    n_stored = len(ss.open(tmp_path / "s").run("a").steps()) if ss.open(tmp_path / "s").runs else 0
    assert summary.n_recorded - summary.n_lost == n_stored
    texts = [str(w.message) for w in caught]
    assert sum("died" in text or "does not start" in text for text in texts) >= 2
    assert {w.category for w in caught} == {TrackingWarning}


def test_a_stopped_worker_holds_up_one_step_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first rows wait for the run to be created.
    monkeypatch.setattr(link, "FIRST_ROWS_S", 0.5)
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
    assert max(durations) < 1.0
    assert sum(durations) - max(durations) < 1.0
    summary = run.finish()
    assert summary.n_recorded == 4
    assert summary.n_dropped == 296
    assert ss.open(tmp_path / "s").run("a").steps().tolist() == [1, 2, 3, 4]
