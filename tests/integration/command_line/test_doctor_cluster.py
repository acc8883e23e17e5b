"""`doctor` against a real Ray cluster, and what it makes of the answers of its nodes."""

import fcntl
import os
import platform
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from streamscalar.config.models import ClusterSection
from streamscalar.doctor.checks import CheckResult, CheckStatus
from streamscalar.doctor.cluster import cluster_checks, judged

HEAD_S = 240

HERE = {"python": platform.python_version(), "versions": {"ray": version("ray"), "torch": version("torch")}}
FINE = {**HERE, "auth": "token", "skew_s": 0.0, "nonce": "n", "is_locked_out": True}
NODE = {"address": "10.0.0.1", "CPU": 4.0, "GPU": 0.0}


def judged_as(*answers: dict[str, Any], dead: tuple[dict[str, str], ...] = ()) -> dict[str, CheckResult]:
    """Return what is said of a cluster whose nodes give these answers."""
    names = [f"{index:x}" * 8 for index in range(len(answers))]
    first = {"nodes": dict.fromkeys(names, NODE), "dead": list(dead), "n_trainers": 4}
    documents = [first, *({"node": name, **answer} for name, answer in zip(names, answers, strict=True))]
    return {check.name: check.result for check in judged(iter(documents), "/shared", "n", ClusterSection())}


@pytest.mark.parametrize(
    ("answer", "name", "verdict", "sentence"),
    [
        ({"nonce": "m"}, "store on nodes", CheckStatus.FAIL, "10.0.0.1 (11111111): another folder of that name"),
        (
            {"store_error": "no such file"},
            "store on nodes",
            CheckStatus.FAIL,
            "visible there: 10.0.0.1 (11111111): no such",
        ),
        ({"is_locked_out": False}, "store on nodes", CheckStatus.FAIL, "does not exclude 10.0.0.1 (11111111)"),
        ({"python": "3.9.1"}, "versions", CheckStatus.FAIL, "10.0.0.1 (11111111) has Python 3.9.1"),
        ({"versions": {"torch": "1.0"}}, "versions", CheckStatus.FAIL, "10.0.0.1 (11111111) has torch 1.0"),
        ({"versions": {"streamscalar": None}}, "versions", CheckStatus.FAIL, "10.0.0.1 (11111111) has no streamscalar"),
        ({"skew_s": -7.5}, "clocks", CheckStatus.WARN, "10.0.0.1 (11111111) -7.5 s"),
        ({"auth": ""}, "authentication", CheckStatus.WARN, "reach a port of 10.0.0.1 (11111111) can run code there"),
        ({"error": "it died"}, "answers", CheckStatus.FAIL, "10.0.0.1 (11111111): it died"),
    ],
)
def test_one_node_that_differs_is_named_with_what_is_wrong(
    answer: dict[str, Any], name: str, verdict: CheckStatus, sentence: str
) -> None:
    assert {finding.status for finding in judged_as(FINE, FINE).values()} == {CheckStatus.OK}
    found = judged_as(FINE, {**FINE, **answer})
    assert {other for other, finding in found.items() if finding.status is not CheckStatus.OK} == {name}
    assert found[name].status is verdict
    assert sentence in found[name].found
    assert found[name].fix


def test_dead_nodes_are_named_with_their_reasons() -> None:
    found = judged_as(FINE, dead=({"address": "10.0.0.9", "reason": "missed its health checks"},))
    assert found["nodes"].status is CheckStatus.WARN
    assert found["nodes"].found == "1 alive, 1 dead since the head started: 10.0.0.9 (missed its health checks)"


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


def test_a_cluster_that_is_not_there_is_told_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (check,) = cluster_checks(f"127.0.0.1:{port}", None, ClusterSection())
    assert check.result.status is CheckStatus.FAIL
    assert "Connection refused" in check.result.found
    assert "ray start --head" in check.result.fix
    assert check.seconds < 10
