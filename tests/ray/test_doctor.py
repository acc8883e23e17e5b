"""`doctor` against a real Ray cluster."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command_line.test_doctor import TOKEN, found_by

HEAD_S = 240


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a cluster of one node with a token of its own, and end its processes afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(f"/tmp/doc{secrets.token_hex(3)}")
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": str(HEAD_S),
    }
    ray = str(Path(sys.executable).with_name("ray"))
    options = ["--num-cpus=1", "--include-dashboard=false", "--object-store-memory=80000000", "--disable-usage-stats"]
    command = [ray, "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}", *options]
    with (home / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + HEAD_S
        while "will now block forever" not in (home / "head.log").read_text():
            assert process.poll() is None, (home / "head.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        _end_processes(str(folder))
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def _end_processes(folder: str) -> None:
    """End what is left of a cluster, by the folder that its processes are told."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def test_a_cluster_is_examined_to_its_storage_and_clocks(head: str, tmp_path: Path) -> None:
    store = tmp_path / "shared" / "mine"
    store.parent.mkdir()
    code, checks = found_by(tmp_path, str(store), "--address", head, RAY_AUTH_TOKEN=TOKEN)
    of_cluster = {name: check for name, check in checks.items() if check["group"] == "cluster"}
    assert {name: check["status"] for name, check in of_cluster.items()} == dict.fromkeys(
        [
            "reach",
            "nodes",
            "answers",
            "resources",
            "authentication",
            "versions",
            "store on nodes",
            "clocks",
            "listeners",
        ],
        "ok",
    )
    assert code == 0
    assert of_cluster["nodes"]["found"] == "1 alive"
    assert of_cluster["resources"]["found"].startswith("room for 1 trainers with 1 CPUs and 0 GPUs")
    assert "a lock held here excludes it" in of_cluster["store on nodes"]["found"]
    assert f"gcs_server {head.rpartition(':')[2]}" in of_cluster["listeners"]["found"]
    assert list(store.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"RAY_AUTH_TOKEN": "another-token-".ljust(64, "1")}, "the cluster refuses the token in RAY_AUTH_TOKEN"),
        ({}, "the cluster requires a token, and there is none here"),
        ({"RAY_AUTH_MODE": "disabled"}, "the cluster requires a token, but RAY_AUTH_MODE disables tokens"),
    ],
)
def test_a_wrong_or_missing_token_is_told_apart_from_a_dead_cluster(
    head: str, tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    code, checks = found_by(tmp_path, "--address", head, **environment)
    assert code == 1
    assert (checks["reach"]["status"], checks["authentication"]["status"]) == ("ok", "fail")
    assert checks["authentication"]["found"] == sentence
    assert "nodes" not in checks
    assert checks["authentication"]["seconds"] < 60


def test_a_config_that_no_node_can_hold_fails(head: str, tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_text("cluster: {gpus_per_trainer: 2}\n")
    code, checks = found_by(tmp_path, "--address", head, "--config", str(file), RAY_AUTH_TOKEN=TOKEN)
    assert code == 1
    assert checks["resources"]["found"].startswith("no node has room for a trainer with 1 CPUs and 2 GPUs")
    assert checks["store on nodes"]["status"] == "skipped"
