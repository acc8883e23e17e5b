"""Ray against inline: equal bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from streamscalar.errors import BadCall, WorkFailed
from streamscalar.runtime import attach, continue_store, run
from streamscalar.store import Store
from tests.conftest import small_config

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("local_ray")
def test_executors_and_numbers_of_trainers_give_equal_digests(tmp_path: Path) -> None:
    inline = run(small_config(tmp_path / "inline")).digest()
    for n_trainers in (1, 2):
        cluster = {"executor": "ray", "max_concurrent_runs": n_trainers}
        assert run(small_config(tmp_path / f"ray{n_trainers}", cluster=cluster)).digest() == inline
    packed = {"pack_size": 3}
    inline = run(small_config(tmp_path / "inline-packs", training=packed)).digest()
    cluster = {"executor": "ray"}
    assert run(small_config(tmp_path / "ray-packs", training=packed, cluster=cluster)).digest() == inline


@pytest.mark.usefixtures("local_ray")
def test_attaching_needs_an_experiment_that_runs_or_is_over(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store")
    Store.create(tmp_path / "store", config.identity(), {})
    with pytest.raises(BadCall, match=r"nobody works on there.*streamscalar resume"):
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
    with pytest.raises(BadCall, match=r"may change cluster.*training\.n_steps=7"):
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
