"""The service over time: killed, restarted, asked to change an experiment."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import streamscalar as ss
from streamscalar.client import connect
from streamscalar.config import load_config
from tests.conftest import small_config
from tests.integration.conftest import ADMIN, READ, Service


def test_killed_service_loses_nothing_and_clients_go_on(tmp_path: Path) -> None:
    """The service is killed while runs are written and a client follows them; the client sees all in the end."""
    folder = tmp_path / "stores"
    folder.mkdir()
    service = Service(folder)
    seen: dict[str, int] = {}
    kinds: list[str] = []
    done = threading.Event()

    def follow() -> None:
        for event in connect(service.url, READ).events():
            kinds.append(event.kind)
            for item in event.data.get("items", []):
                seen[item["id"]] = max(seen.get(item["id"], 0), item["n_rows"])
            if sum(n_rows == 401 for n_rows in seen.values()) == 2 or done.is_set():
                return

    follower = threading.Thread(target=follow)
    config = small_config(folder / "live", experiment={"n_initial_conditions": 1}, training={"n_steps": 400})
    writer = threading.Thread(target=lambda: ss.run(config))
    try:
        # The store first: a service finds it at its first look, so that most of the training is still to come.
        writer.start()
        while not (folder / "live" / "zarr.json").exists():
            time.sleep(0.05)
        service.start()
        follower.start()
        while not seen:
            time.sleep(0.05)
        service.kill()
        before = len(kinds)
        service.start()
        follower.join(200)
        assert not follower.is_alive(), seen
        assert "reset" in kinds[before:]
        assert service.get("/v1/runs/live:lr5_ic0/embedding").json()["of"] == 401
    finally:
        done.set()
        writer.join()
        service.kill()


def test_alerts_survive_a_restart_and_go_to_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    log = tmp_path / "alerts.jsonl"
    service = Service(folder, options=("--alert-log", str(log), "--alert-level", "warn"))
    service.start()
    try:
        ss.run(small_config(folder / "wild", training={"learning_rate": [40], "n_steps": 80}))
        found: list[dict[str, Any]] = []
        for _ in range(100):
            found = service.get("/v1/alerts", level="error").json()["items"]
            if len(found) == 2:
                break
            time.sleep(0.1)
        assert {alert["rule"] for alert in found} == {"diverged"}
        assert all(alert["evidence"] for alert in found)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["id"] for line in lines} >= {alert["id"] for alert in found}
        service.kill()
        service.start()
        for _ in range(100):
            again = service.get("/v1/alerts", level="error").json()["items"]
            if len(again) == 2:
                break
            time.sleep(0.1)
        assert [alert["id"] for alert in again] == [alert["id"] for alert in found]
        assert len(log.read_text().splitlines()) == len(lines)
    finally:
        service.kill()


def test_an_added_and_a_cancelled_run_through_the_service(tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    config = load_config(
        {
            "experiment": {"name": "grow", "n_initial_conditions": 1},
            "task": {"name": "quadratic", "curvatures": [1.0, 0.5]},
            "training": {"learning_rate": [1], "n_steps": 50_000, "device": "cpu"},
            "perturbation": {"n_perturbed": 1},
            "store": {"url": str(folder / "grow"), "fsync": "none"},
            "cluster": {"executor": "inline"},
        }
    )
    folder.mkdir()
    service = Service(folder)
    writer = threading.Thread(target=lambda: ss.run(config))
    writer.start()
    try:
        service.start()
        with service.client(token=ADMIN) as admin:

            def cancel(run: str) -> None:
                while admin.post(f"/v1/runs/grow:{run}/cancel").status_code == 404:
                    assert writer.is_alive()
                    time.sleep(0.1)

            while admin.get("/v1/runs").json()["of"] == 0:
                assert writer.is_alive()
                time.sleep(0.1)
            # Before the first run ends, as a finished experiment reads no requests until it is resumed.
            answer = admin.post("/v1/experiments/grow/runs", json={"learning_rate": [0.2]})
            assert (answer.status_code, answer.json()) == (202, {"runs": ["grow:lr0.2_ic0"]})
            cancel("lr1_ic0")
            cancel("lr0.2_ic0")
        writer.join(120)
        store = ss.open(folder / "grow").store
        assert {run: store.status(run)["reason"] for run in store.run_ids()} == dict.fromkeys(
            ("lr0.2_ic0", "lr1_ic0"), "cancelled on request"
        )
    finally:
        writer.join()
        service.kill()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "--host: must be a loopback address unless STREAMSCALAR_TOKEN is set"),
        (["--port", "1"], "--port: must be free"),
        (["--alert-level", "loud"], "--alert-level: must be one of info, warn, error"),
        (["--webhook", "file:///etc/passwd"], "webhook: must be an http or https address"),
    ],
)
def test_a_bad_call_of_serve(
    small_store: Path, tmp_path: Path, service: Service, arguments: list[str], sentence: str
) -> None:
    import os
    import subprocess
    import sys

    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    if arguments[0] == "--port":
        arguments = ["--port", str(service.port)]
    command = [sys.executable, "-m", "streamscalar", "serve", str(small_store), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert found.returncode == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr
