"""Ray against inline: equal bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamscalar.runtime import run
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
