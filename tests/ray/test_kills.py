"""SIGKILL of every kind of process at random moments: the result is that of an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streamscalar import Experiment
from streamscalar.runtime import run
from streamscalar.store import Store
from tests.conftest import small_config
from tests.polling import PollingReader

pytestmark = pytest.mark.faults

DRIVERS = ["inline"] * 6 + ["ray"] * 2
N_BLIND = 2
"""Drivers killed while they import and make the store, or soon after; the others when they have begun to write."""
KILLS = ["TrainerActor", "EmbedderActor", "CoordinatorActor"] * 3
STEPS = {"training": {"n_steps": 600, "learning_rate": [1, 5]}}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return run(small_config(tmp_path_factory.mktemp("truth") / "store", **STEPS))


def pids_of(name: str) -> list[int]:
    """Return the processes of one kind of actor."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(f"ray::{name}".encode()):
                found.append(int(entry.name))
    return found


def n_attempts(store: Path) -> int:
    """Return how often a run has been begun."""
    return sum(int(lock.read_bytes() or 0) for lock in store.glob("runs/*/wal/weights/lock"))


def wait_for_attempt(store: Path, n_before: int, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while n_attempts(store) <= n_before:
        assert time.monotonic() < deadline, "the driver did not begin to write"
        time.sleep(0.02)


def kill_at_random(names: list[str], rng: random.Random, is_over: Callable[[], bool], spent: list[str]) -> None:
    """Kill one process of each name in turn; `spent` lists those that were."""
    for name in names:
        time.sleep(rng.uniform(0.2, 2.5))
        while not (pids := pids_of(name)) and not is_over():
            time.sleep(0.1)
        if is_over() or not pids:
            break
        os.kill(rng.choice(pids), signal.SIGKILL)
        spent.append(name)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_killed_actors_are_replaced_and_the_digest_is_the_same(tmp_path: Path, truth: Experiment) -> None:
    store = tmp_path / "store"
    reader = PollingReader(store, truth)
    reader.start()
    n_killed = 0
    rng = random.Random(2)
    names = list(KILLS)
    # A store that ends before all kills are spent is begun again.
    for round_ in range(6):
        config = small_config(store, cluster={"executor": "ray"}, **STEPS)
        done = threading.Event()
        spent: list[str] = []
        killer = threading.Thread(target=kill_at_random, args=(names, rng, done.is_set, spent))
        killer.start()
        result = run(config)
        done.set()
        killer.join()
        n_killed += len(spent)
        names = names[len(spent) :]
        assert result.digest() == truth.digest(), f"round {round_}"
        if not names:
            break
        reader.finish()
        store = tmp_path / f"store{round_}"
        reader = PollingReader(store, truth)
        reader.start()
    reader.finish()
    assert n_killed == len(KILLS)


def test_a_killed_driver_is_resumed_to_the_same_digest(tmp_path: Path, truth: Experiment) -> None:
    store = tmp_path / "store"
    rng = random.Random(3)
    config = small_config(store, **STEPS)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "streamscalar", "run", str(tmp_path / "config.json"), "--quiet", "--executor"]
    reader = PollingReader(store, truth)
    reader.start()
    n_killed = 0
    for index, executor in enumerate(DRIVERS):
        before = n_attempts(store)
        process = subprocess.Popen([*command, executor], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if index < N_BLIND:
            time.sleep(rng.uniform(1.0, 4.0))
        else:
            wait_for_attempt(store, before)
            time.sleep(rng.uniform(0.0, 2.0))
        n_killed += process.poll() is None
        process.kill()
        process.communicate()
    done = subprocess.run(
        [sys.executable, "-m", "streamscalar", "resume", str(store), "--executor", "inline", "--quiet", "--json"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    reader.finish()
    assert Experiment(Store.open(store)).digest() == truth.digest()
    assert n_killed == len(DRIVERS)
