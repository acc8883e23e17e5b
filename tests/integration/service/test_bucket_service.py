"""Stores in a bucket, served and searched as those in a folder are."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import streamscalar as ss
from streamscalar import runtime
from streamscalar.cli.commands import app
from streamscalar.config import Config
from streamscalar.errors import BadCall, Kind
from streamscalar.runtime.onset_trials import find_onset
from streamscalar.store import ObjectPath
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.tokens import Tokens
from streamscalar_services.api.watch import catalog
from streamscalar_services.api.watch.monitor import Monitor
from tests.bucket import Bucket, running
from tests.conftest import small_config
from tests.integration.conftest import ADMIN, Service

RUNS = ["lr1_ic0", "lr5_ic0"]
ONE = {"n_initial_conditions": 1}


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with running() as service:
        yield service


def _config(root: str, spool: Path, **sections: dict[str, Any]) -> Config:
    store = {"url": f"{root}/small", "spool": str(spool)}
    return small_config(Path("unused"), **{"experiment": ONE, **sections, "store": store | sections.get("store", {})})


def _monitor(root: str | Path) -> Monitor:
    return Monitor(ServiceOptions(ObjectPath.parse(root) if isinstance(root, str) else root, Tokens("", "")))


def test_a_service_follows_and_cancels_runs_in_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    root = bucket.make()
    # An empty prefix is like a folder that was not made: nothing can be told from a slip of the pen.
    (ObjectPath.parse(root) / "readme").write_bytes(b"runs of the group")
    config = _config(root, tmp_path, training={"n_steps": 3000, "learning_rate": 1}, store={"segment_rows": 16})
    service = Service(root)
    service.start()
    command = [sys.executable, "-c", _RUN, config.model_dump_json()]
    with subprocess.Popen(command) as training:
        try:
            first = _wait_for(lambda: _run(service, "small:lr1_ic0", least_rows=1))
            assert first["state"] in ("training", "waiting")
            later = _wait_for(lambda: _run(service, "small:lr1_ic0", first["n_rows"] + 1))
            assert later["n_rows"] % 16 == 0, "a row is there when its segment is committed"
            drawn = service.get("/v1/runs/small:lr1_ic0/embedding").json()
            assert drawn["of"] >= first["n_rows"]
            with service.client(ADMIN) as client:
                answer = client.post("/v1/runs/small:lr1_ic0/cancel")
            assert answer.status_code == 202, answer.text
            cancelled = _wait_for(lambda: _run(service, "small:lr1_ic0", state="cancelled"))
            assert cancelled["n_rows"] < 3001
        finally:
            training.kill()
            service.kill()


_RUN = "import sys; from streamscalar import Config, runtime; runtime.run(Config.model_validate_json(sys.argv[1]))"


def _run(service: Service, run: str, least_rows: int = 0, state: str | None = None) -> Any:
    items = service.get("/v1/runs").json()["items"]
    found = [item for item in items if item["id"] == run and item["n_rows"] >= least_rows]
    return next((item for item in found if state in (None, item["state"])), None)


def _wait_for(condition: Any, timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.2)
    return found


def test_a_finished_store_is_the_same_list_from_a_bucket(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "DISCOVER_EVERY_S", 0.0)
    root = bucket.make()
    runtime.run(_config(root, tmp_path / "spool"))
    runtime.run(small_config(tmp_path / "stores" / "small", experiment=ONE))
    remote, local = _monitor(root), _monitor(tmp_path / "stores")
    assert _listed(remote) == _listed(local)
    assert [entry.run_id for entry in remote.catalog.entries()] == RUNS
    # The same store by itself.
    assert _listed(_monitor(f"{root}/small")) == _listed(local)

    bucket.counts()
    assert remote.catalog.refresh().moved == []
    counts = bucket.counts()
    # Two objects of each store, three of each run; and two lists, of the stores and of the wishes.
    assert counts == {"HEAD": 1 + 2 + 3 * len(RUNS), "GET": 2}

    service = ObjectPath.parse(root)
    for part in _objects(service):
        part.unlink()
    assert remote.catalog.refresh().moved == []
    assert remote.catalog.entries() == []


def _listed(monitor: Monitor) -> list[dict[str, Any]]:
    monitor.poll()
    while monitor.analyst.n_waiting:
        monitor.analyst.work_one()
    answer, _ = monitor.queries.runs("", "id", None, 50)
    items: list[dict[str, Any]] = answer.model_dump(mode="json")["items"]
    return [{name: value for name, value in item.items() if not name.endswith("_at")} for item in items]


def _objects(path: ObjectPath) -> list[ObjectPath]:
    below = [found for name in path.folders() for found in _objects(path / name)]
    return below + [path / name for name in path.names()]


def test_what_cannot_be_served_is_told_at_once(bucket: Bucket) -> None:
    for url, must in (
        (f"{bucket.make()}/nothing", "must be a store or a folder of stores; got nothing there"),
        ("s3://there-is-none/here", "must lie in a bucket that exists"),
    ):
        with pytest.raises(BadCall, match=must) as refused:
            _monitor(url)
        assert refused.value.kind is Kind.STORE_MISSING
        said = CliRunner().invoke(app, ["serve", url, "--port", "0"])
        assert isinstance(said.exception, BadCall)
        assert said.stdout == "", "no link to what is not there"


def test_a_bucket_that_does_not_answer_keeps_what_was_seen(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = bucket.make()
    runtime.run(_config(root, tmp_path))
    monitor = _monitor(root)
    before = _listed(monitor)

    def unreachable(_: ObjectPath) -> None:
        raise ss.store.Unreachable("store.url", "did not answer")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "stamp", unreachable)
        with pytest.raises(ss.store.Unreachable):
            monitor.poll()
    assert _listed(monitor) == before


def test_a_search_keeps_its_stages_in_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    root = ObjectPath.parse(bucket.make()) / "search"
    small: Any = {"training": {"n_steps": 10}, "experiment": {"n_initial_conditions": 3}}
    config = _config("s3://unused", tmp_path / "spool", **small, store={"segment_rows": 16})
    search: dict[str, Any] = {"low": 0.1, "high": 10.0, "budget_steps": 5 * 30, "tolerance": 1.0}
    found = find_onset(config, root, **search)
    assert root.folders()[0] == "stage-0"
    assert root.names() == ["onset.json"]
    assert find_onset(config, root, **search) == found, "stored stages are not trained again"
    assert find_onset(small_config(Path("unused"), **small), tmp_path / "local", **search) == found
