"""SIGKILL of actors and drivers at random moments; the result is that of an undisturbed experiment."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from streamscalar import Experiment
from streamscalar.config import Config
from streamscalar.errors import BadCall
from streamscalar.runtime import run
from streamscalar.store import Store, verify
from tests.polling import PollingReader
from tests.processes import pids_of, wait_for

ACTORS = ("TrainerActor", "EmbedderActor", "CoordinatorActor")


def check_survives_killed_actors(
    config: Config, truth: Experiment, kinds: Sequence[str], seed: int, release: Callable[[], None]
) -> None:
    """Kill an actor of each kind in turn while the experiment runs on this process's Ray.

    `release` is called after the last kill, and lets a slow experiment end.
    """
    over = threading.Event()
    killed: list[str] = []

    def kill() -> None:
        for kind, wait_s in zip(kinds, random_waits(len(kinds), seed), strict=True):
            if not kill_one(f"ray::{kind}", wait_s, over):
                break
            killed.append(kind)
        release()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with PollingReader(Path(config.store_path), truth):
            assert run(config).digest() == truth.digest()
    finally:
        over.set()
        killer.join()
    assert killed == list(kinds)


def kill_one(kind: str, wait_s: float, over: threading.Event) -> bool:
    """Wait, then kill the newest process of a kind; return whether it was there before the experiment was over."""
    if over.wait(wait_s):
        return False
    while not (pids := pids_of(kind)):
        if over.wait(0.1):
            return False
    os.kill(pids[-1], signal.SIGKILL)
    return True


def random_waits(n: int, seed: int) -> list[float]:
    """Return random seconds before each of `n` kills."""
    rng = random.Random(seed)
    return [rng.uniform(0.2, 2.5) for _ in range(n)]


def check_survives_killed_drivers(
    config: Config, truth: Experiment, executors: Sequence[str], seed: int, n_blind: int
) -> None:
    """Kill one driver after the other, the last one's work resumed by the next; at the end a resume finishes.

    The first `n_blind` are killed while they import and make the store, or soon after; the others when they have
    begun to write.
    """
    rng = random.Random(seed)
    store = Path(config.store_path)
    file = store.with_suffix(".json")
    file.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "streamscalar", "run", str(file), "--quiet", "--executor"]
    with PollingReader(store, truth):
        for index, executor in enumerate(executors):
            before = n_attempts(store)
            process = subprocess.Popen(
                [*command, executor],
                env={**os.environ, "SLOW_MS": "5"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            if index < n_blind:
                time.sleep(rng.uniform(1.0, 4.0))
            else:
                wait_for("the driver to write", partial(has_begun, store, before), 120)
                time.sleep(rng.uniform(0.0, 2.0))
            assert process.poll() is None, "it was still at work"
            process.kill()
            process.communicate()
        resume = [sys.executable, "-m", "streamscalar", "resume", str(store), "--executor", "inline", "--quiet"]
        done = subprocess.run(resume, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert Experiment(Store.open(store)).digest() == truth.digest()


RUN = """
import sys
from streamscalar import runtime
from streamscalar.config import Config
runtime.run(Config.model_validate_json(sys.argv[1]))
"""


def check_survives_kills_in_a_bucket(
    config: Config, truth: Experiment, n_rows: Sequence[int], keeps_spool: bool
) -> None:
    """Kill a run into a bucket whenever the next number of rows is published; at the end one goes through.

    Without its spool, the next process is one on another machine.
    """
    url, spool = config.store.url or "", Path(config.store.spool or "")
    command = [sys.executable, "-c", RUN, config.model_dump_json()]
    n_kills = 0
    # A reader takes URLs too.
    with PollingReader(cast(Path, url), truth):
        for n in n_rows:
            process = subprocess.Popen(command, stderr=subprocess.PIPE)
            while process.poll() is None and n_published(url) < n:
                time.sleep(0.02)
            process.kill()
            process.communicate()
            n_kills += process.returncode == -signal.SIGKILL
            if not keeps_spool:
                shutil.rmtree(spool)
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert n_kills == len(n_rows)
    resumed = Experiment(Store.open(url))
    assert resumed.digest() == truth.digest()
    assert list(verify(resumed.store)) == []
    # A finished run leaves nothing on the machine.
    assert not list(spool.glob("*/*"))


def n_published(url: str) -> int:
    """Return the rows that readers of a bucket see, 0 where there is no store yet."""
    try:
        store = Store.open(url)
        return sum(store.reader(run).n_published for run in store.run_ids())
    except BadCall:
        return 0


def n_attempts(store: Path) -> int:
    """Return how often a run has been begun."""
    return sum(int(lock.read_bytes() or 0) for lock in store.glob("runs/*/wal/weights/lock"))


def has_begun(store: Path, n_before: int) -> bool:
    """Return whether a run has been begun since it was `n_before` times."""
    return n_attempts(store) > n_before
