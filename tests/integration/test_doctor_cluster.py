"""`doctor` against a real Ray cluster, and what it makes of the answers of its nodes."""

import contextlib
import fcntl
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from streamscalar.config.models import ClusterSection
from streamscalar.doctor.checks import Finding, Verdict
from streamscalar.doctor.cluster import cluster_checks, judged
from tests.integration.test_doctor import TOKEN, found_by

HEAD_S = 240

HERE = {"python": platform.python_version(), "versions": {"ray": version("ray"), "torch": version("torch")}}
FINE = {**HERE, "auth": "token", "skew_s": 0.0, "nonce": "n", "is_locked_out": True}
NODE = {"address": "10.0.0.1", "CPU": 4.0, "GPU": 0.0}


def judged_as(*answers: dict[str, Any], dead: tuple[dict[str, str], ...] = ()) -> dict[str, Finding]:
    """Return what is said of a cluster whose nodes give these answers."""
    names = [f"{index:x}" * 8 for index in range(len(answers))]
    first = {"nodes": dict.fromkeys(names, NODE), "dead": list(dead), "n_trainers": 4}
    documents = [first, *({"node": name, **answer} for name, answer in zip(names, answers, strict=True))]
    return {check.name: check.finding for check in judged(iter(documents), "/shared", "n", ClusterSection())}


@pytest.mark.parametrize(
    ("answer", "name", "verdict", "sentence"),
    [
        ({"nonce": "m"}, "store on nodes", Verdict.FAIL, "10.0.0.1 (11111111): another folder of that name"),
        (
            {"store_error": "no such file"},
            "store on nodes",
            Verdict.FAIL,
            "there: 10.0.0.1 (11111111): no such",
        ),
        ({"is_locked_out": False}, "store on nodes", Verdict.FAIL, "does not keep out 10.0.0.1 (11111111)"),
        ({"python": "3.9.1"}, "versions", Verdict.FAIL, "10.0.0.1 (11111111) has Python 3.9.1"),
        ({"versions": {"torch": "1.0"}}, "versions", Verdict.FAIL, "10.0.0.1 (11111111) has torch 1.0"),
        ({"versions": {"streamscalar": None}}, "versions", Verdict.FAIL, "10.0.0.1 (11111111) has no streamscalar"),
        ({"skew_s": -7.5}, "clocks", Verdict.WARN, "10.0.0.1 (11111111) -7.5 s"),
        ({"auth": ""}, "authentication", Verdict.WARN, "whoever reaches a port of 10.0.0.1 (11111111) runs code there"),
        ({"error": "it died"}, "answers", Verdict.FAIL, "10.0.0.1 (11111111): it died"),
    ],
)
def test_one_node_that_differs_is_named_with_what_is_wrong(
    answer: dict[str, Any], name: str, verdict: Verdict, sentence: str
) -> None:
    assert {finding.verdict for finding in judged_as(FINE, FINE).values()} == {Verdict.OK}
    found = judged_as(FINE, {**FINE, **answer})
    assert {other for other, finding in found.items() if finding.verdict is not Verdict.OK} == {name}
    assert found[name].verdict is verdict
    assert sentence in found[name].found
    assert found[name].fix


def test_dead_nodes_are_named_with_their_reasons() -> None:
    found = judged_as(FINE, dead=({"address": "10.0.0.9", "reason": "missed its health checks"},))
    assert found["nodes"].verdict is Verdict.WARN
    assert found["nodes"].found == "1 alive, 1 dead since the head began: 10.0.0.9 (missed its health checks)"


def test_a_node_tells_whether_it_sees_the_files_and_is_locked_out(tmp_path: Path) -> None:
    from streamscalar.runtime.ray.nodes import about_node

    assert "No such file" in about_node(str(tmp_path), ())["store_error"]
    (tmp_path / "nonce").write_text("number")
    with (tmp_path / "lock").open("w") as lock:
        assert about_node(str(tmp_path), ("ray", "nonesuch")) | {"host": ""} == {
            "host": "",
            "python": platform.python_version(),
            "versions": {"ray": version("ray"), "nonesuch": None},
            "auth": os.environ.get("RAY_AUTH_MODE", ""),
            "nonce": "number",
            "is_locked_out": False,
        }
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert about_node(str(tmp_path), ())["is_locked_out"] is True


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


@pytest.mark.ray
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
    assert of_cluster["resources"]["found"].startswith("room for 1 trainers of 1 CPUs and 0 GPUs")
    assert "a lock held here keeps it out" in of_cluster["store on nodes"]["found"]
    assert f"gcs_server {head.rpartition(':')[2]}" in of_cluster["listeners"]["found"]
    assert list(store.parent.iterdir()) == []


@pytest.mark.ray
@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"RAY_AUTH_TOKEN": "another-token-".ljust(64, "1")}, "the cluster refuses the token in RAY_AUTH_TOKEN"),
        ({}, "the cluster asks for a token, and there is none here"),
        ({"RAY_AUTH_MODE": "disabled"}, "the cluster asks for a token, and RAY_AUTH_MODE says to show none"),
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


@pytest.mark.ray
def test_a_config_that_no_node_can_hold_fails(head: str, tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_text("cluster: {gpus_per_trainer: 2}\n")
    code, checks = found_by(tmp_path, "--address", head, "--config", str(file), RAY_AUTH_TOKEN=TOKEN)
    assert code == 1
    assert checks["resources"]["found"].startswith("no node can hold a trainer of 1 CPUs and 2 GPUs")
    assert checks["store on nodes"]["status"] == "skipped"


def test_a_cluster_that_is_not_there_is_told_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (check,) = cluster_checks(f"127.0.0.1:{port}", None, ClusterSection())
    assert check.finding.verdict is Verdict.FAIL
    assert "Connection refused" in check.finding.found
    assert "ray start --head" in check.finding.fix
    assert check.seconds < 10
