"""Ray against inline: equal bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from streamscalar.config import Config
from streamscalar.errors import BadCall, WorkFailed
from streamscalar.runtime import attach, continue_store, run
from streamscalar.runtime.onset_trials import find_onset
from streamscalar.store import Store
from tests.bucket import Bucket
from tests.conftest import Truth, small_config
from tests.integration.experiment.test_modules import config_of
from tests.integration.experiment.test_onset import PER_RATE, SEARCH, digits
from tests.integration.experiment.test_requests import check_requests_are_obeyed, settings_of

ONE: dict[str, Any] = {"executor": "ray", "max_concurrent_runs": 1}
"""Three actors, where it is not their number that matters: each takes seconds to start."""


def check_digests_are_equal(config: Config, truth: Truth, **cluster: Any) -> None:
    """Run an experiment on Ray and inline."""
    on_ray = config.cluster.model_copy(update={"executor": "ray", **cluster})
    assert run(config.model_copy(update={"cluster": on_ray})).digest() == truth(config).digest()


@pytest.mark.usefixtures("local_ray")
def test_executors_give_equal_digests(tmp_path: Path, truth: Truth) -> None:
    check_digests_are_equal(small_config(tmp_path / "store"), truth, max_concurrent_runs=2)


@pytest.mark.usefixtures("local_ray")
def test_executors_give_equal_digests_for_packs_of_own_modules(tmp_path: Path, truth: Truth) -> None:
    check_digests_are_equal(config_of("own", tmp_path / "store", n_steps=20, pack_size=3), truth, max_concurrent_runs=1)


@pytest.mark.usefixtures("local_ray")
def test_actors_write_into_a_bucket(bucket: Bucket, truth: Truth, tmp_path: Path) -> None:
    store = {"url": bucket.make(), "spool": str(tmp_path / "spool")}
    config = small_config(Path("unused"), store=store, cluster=ONE)
    assert run(config).digest() == truth(small_config(Path("unused"))).digest()


@pytest.mark.usefixtures("local_ray")
def test_a_search_for_the_onset_finds_the_same(tmp_path: Path) -> None:
    search = SEARCH | {"budget_steps": 5 * PER_RATE}
    expected = find_onset(digits(), tmp_path / "inline", **search)
    assert find_onset(digits(cluster=ONE), tmp_path / "ray", **search) == expected


@pytest.mark.usefixtures("local_ray")
def test_runs_are_added_and_cancelled_while_the_experiment_runs(tmp_path: Path) -> None:
    check_requests_are_obeyed(settings_of(tmp_path, "ray"))


@pytest.mark.usefixtures("local_ray")
def test_attaching_needs_an_experiment_that_runs_or_is_over(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store")
    Store.create(tmp_path / "store", config.identity(), {})
    with pytest.raises(BadCall, match=r"does not run there.*streamscalar resume"):
        attach(tmp_path / "store", "127.0.0.1:6379")
    digest = run(config).digest()
    experiment = attach(tmp_path / "store", "127.0.0.1:6379")
    assert experiment is not None
    assert experiment.digest() == digest


@pytest.mark.usefixtures("local_ray")
def test_a_failing_coordinator_says_why(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store", cluster={"executor": "ray"})
    Store.create(tmp_path / "store", config.identity(), {})
    # A request of another version, which nobody can obey.
    (tmp_path / "store" / "requests").mkdir()
    (tmp_path / "store" / "requests" / "1.json").write_text('{"kind": "add", "runs": [{"run_id": "x"}]}')
    with pytest.raises(WorkFailed, match="coordinator"):
        run(config)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.skipif(torch.cuda.is_available(), reason="has what the test needs to be missing")
def test_a_device_that_no_trainer_has_is_said(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store", training={"device": "cuda"}, cluster={"executor": "ray"})
    with pytest.raises(WorkFailed, match=r"node .*: training\.device"):
        run(config)


def test_resume_may_change_where_it_runs_and_nothing_else(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store")
    Store.create(tmp_path / "store", config.identity(), {})
    moved = continue_store(
        tmp_path / "store", {"executor": "ray"}, ("cluster.gpus_per_trainer=0.25", "store.fsync=none")
    )
    assert (moved.cluster.gpus_per_trainer, moved.cluster.executor, moved.store.fsync) == (0.25, "ray", "none")
    assert moved.identity() == config.identity()
    with pytest.raises(BadCall, match=r"may change only cluster.*training\.n_steps=7"):
        continue_store(tmp_path / "store", {}, ("training.n_steps=7",))


def test_an_interrupt_stops_cleanly_and_resume_goes_on(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store", training={"n_steps": 2000}, cluster={"executor": "ray"})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "streamscalar", "run", str(tmp_path / "config.json"), "--quiet"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore interrupts, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "store" / "runs" / "order").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was stopped with" in error
    assert "streamscalar resume" in error
    assert "Traceback" not in error
