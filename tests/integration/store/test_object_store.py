"""Experiments whose store is a bucket: the same bits as in a folder, whatever breaks."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import obstore
import pytest
import zarr
from typer.testing import CliRunner
from zarr.storage import ObjectStore

import streamscalar
from streamscalar import runtime
from streamscalar.cli.commands import app
from streamscalar.config import Config, plan_packs
from streamscalar.protocol.progress import Snapshot
from streamscalar.protocol.schedule import StartTraining
from streamscalar.store import ObjectPath, RunReader, Store, Unreachable, verify
from streamscalar.workers.coordinator import Coordinator
from tests.bucket import KEY, SECRET, Bucket, running
from tests.conftest import Truth, small_config
from tests.kills import check_survives_kills_in_a_bucket

SEGMENTS = {"segment_rows": 8}
ONE = {"experiment": {"n_initial_conditions": 1}}


@pytest.fixture(scope="module")
def service() -> Iterator[Bucket]:
    with running() as service:
        yield service


@pytest.fixture
def local(truth: Truth) -> streamscalar.Experiment:
    return truth(small_config(Path("unused"), **ONE))


def _config(url: str, spool: Path) -> Config:
    return small_config(Path("unused"), **ONE, store={**SEGMENTS, "url": url, "spool": str(spool)})


@pytest.fixture(scope="module")
def remote(service: Bucket, tmp_path_factory: pytest.TempPathFactory) -> streamscalar.Experiment:
    return runtime.run(_config(service.make(), tmp_path_factory.mktemp("spool")))


def _answers(reader: RunReader) -> dict[str, Any]:
    keyframe = reader.last_keyframe()
    newest = reader.newest()
    assert keyframe is not None
    assert newest is not None
    return {
        "counts": (
            reader.n_rows,
            reader.n_published,
            reader.is_complete,
            reader.embedding.n_rows,
            reader.embedding.n_bases,
        ),
        "more": (
            reader.embedding.has_exact,
            reader.embedding.retained_from,
            reader.segment_rows,
            reader.n_planned,
            reader.spec,
        ),
        "newest": (newest.n_rows, newest.step, newest.metrics),
        "steps": reader.steps(),
        "metrics": [reader.metrics(name) for name in reader.metric_names],
        "sha256": reader.row_sha256(),
        "weights": [reader.weights(), reader.weights(5, 30), reader.weights(9, 21, slice(3, 77))],
        "integers": reader.integer_deltas(),
        "deltas": reader.deltas(3, 20),
        "blocks": list(reader.blocks()),
        "columns": list(reader.parameter_blocks(41 * 5 * 8 * 100)),
        "keyframe": (keyframe.row, keyframe.step, keyframe.weights, keyframe.state),
        "scores": reader.embedding.scores().values,
        "live": [reader.embedding.live_scores(basis) for basis in ("newest", 2)]
        + [reader.embedding.live_scores_at(16)],
        "divergence": [reader.embedding.divergence(name) for name in ("l1", "rms", "random", "embedded")],
        "pairs": (reader.embedding.pairs(), reader.embedding.increments(), reader.embedding.bases()),
        "exact": (reader.embedding.exact_arrays(), reader.embedding.exact_info(), reader.embedding.live_state()),
        "spectrum": (
            reader.embedding.spectrum(None),
            reader.embedding.spectrum(24),
            reader.embedding.explained_variance(),
        ),
    }


def test_the_bits_are_those_of_a_folder(remote: streamscalar.Experiment, local: streamscalar.Experiment) -> None:
    assert remote.store.url.startswith("s3://")
    assert remote.digest() == local.digest()
    assert list(remote.runs) == list(local.runs)
    assert list(verify(remote.store)) == []
    for run_id in local.runs:
        expected, got = (_answers(experiment.store.reader(run_id)) for experiment in (local, remote))
        for name, value in expected.items():
            np.testing.assert_equal(got[name], value, err_msg=name)
        assert remote.store.status(run_id) == local.store.status(run_id)


def test_a_plain_zarr_reader_sees_a_finished_run(
    remote: streamscalar.Experiment, local: streamscalar.Experiment
) -> None:
    root = cast(ObjectPath, remote.store.place) / "runs/lr5_ic0"
    for name in ("weights/steps", "metrics/loss", "weights/deltas", "weights/keyframes", "embedding/exact/scores"):
        there: Any = zarr.open_array(ObjectStore(root.client, read_only=True), path=f"{root.key}/{name}", mode="r")
        here: Any = zarr.open_array(local.store.path / "runs/lr5_ic0" / name, mode="r")
        np.testing.assert_array_equal(there[:], here[:])


def test_a_copy_in_a_folder_is_a_store(
    remote: streamscalar.Experiment, local: streamscalar.Experiment, tmp_path: Path
) -> None:
    root = cast(ObjectPath, remote.store.place)
    for found in [found for page in obstore.list(root.client, root.key) for found in page]:
        target = tmp_path / found["path"].removeprefix(f"{root.key}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bytes(obstore.get(root.client, found["path"]).bytes()))
    copy = streamscalar.open(tmp_path)
    assert copy.digest() == local.digest()
    assert list(verify(copy.store)) == []


def test_no_credentials_get_into_the_store_or_the_spool(remote: streamscalar.Experiment) -> None:
    root = cast(ObjectPath, remote.store.place)
    found = [found["path"] for page in obstore.list(root.client, root.key) for found in page]
    assert len(found) > 100
    for path in found:
        data = bytes(obstore.get(root.client, path).bytes())
        assert KEY.encode() not in data
        assert SECRET.encode() not in data


def test_the_service_goes_away_for_some_seconds(
    service: Bucket, local: streamscalar.Experiment, tmp_path: Path
) -> None:
    stops: list[float] = []

    def on_snapshot(snapshot: Snapshot) -> None:
        if snapshot.n_rows >= 16 * (1 + 2 * len(stops)) and len(stops) < 2:
            stops.append(time.monotonic())
            service.control("down", seconds=3)

    url = service.make()
    experiment = runtime.run(_config(url, tmp_path), on_snapshot=on_snapshot)
    assert len(stops) == 2
    assert time.monotonic() - stops[0] > 6
    assert experiment.digest() == local.digest()
    assert {experiment.store.status(run)["attempts"] for run in experiment.runs} == {1}


def test_a_service_that_stays_away_is_worth_another_try(local: streamscalar.Experiment, tmp_path: Path) -> None:
    config = small_config(tmp_path / "store")
    store = Store.create(tmp_path / "store", config.identity(), {})
    coordinator = Coordinator(store, plan_packs(config), 1, config.n_rows)
    [started] = coordinator.begin()
    lost = Unreachable("store.url s3://bucket", "did not answer; every committed row is kept", "no connection")
    again = coordinator.fail(started.pack_id, lost)
    assert again == [StartTraining(started.pack_id)]
    assert "failed" not in coordinator.snapshot().counts


def test_a_killed_run_goes_on_on_another_machine(
    service: Bucket, local: streamscalar.Experiment, tmp_path: Path
) -> None:
    config = _config(service.make(), tmp_path / "spool")
    check_survives_kills_in_a_bucket(config, local, (17, 50), keeps_spool=False)


def test_requests_of_a_run_grow_with_its_segments_alone(service: Bucket, tmp_path: Path) -> None:
    counts = []
    for n_steps in (127, 255):
        config = small_config(
            Path("unused"),
            **ONE,
            store={**SEGMENTS, "url": service.make(), "spool": str(tmp_path)},
            training={"learning_rate": 5, "n_steps": n_steps},
        )
        prepared = runtime.prepare(config)
        service.counts()
        runtime.execute(prepared)
        counts.append(service.counts())
    per_segment = {name: (counts[1][name] - counts[0][name]) / 16 for name in counts[1]}
    # 5 chunks of weights and metrics and their commit; 13 of the embedding, its restart state and its commit; and at
    # every eighth segment a key frame.
    assert 21 <= per_segment["PUT"] <= 21.5
    # The former restart state is deleted.
    assert per_segment["POST"] == 1
    # Requests are polled at every block, and at the end the weights are read once, as a whole.
    assert per_segment["GET"] + per_segment["HEAD"] < 8


def _command(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_commands_take_a_url(
    service: Bucket, local: streamscalar.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    url = service.make()
    config = _config(url, tmp_path).model_dump(mode="json")
    del config["store"]["url"], config["store"]["spool"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert f"report: {url}/report.html" in _command("run", "config.json", "--store", url)
    assert b"<svg" in (ObjectPath.parse(url) / "report.html").read_bytes()
    assert (tmp_path / "cache/streamscalar/spool").is_dir()
    assert _command("digest", url).strip() == local.digest()
    assert _command("verify", url, "--quiet").strip() == "all checksums agree"
    entries = json.loads(_command("ls", url, "--json"))["entries"]
    assert [entry["run"] for entry in entries] == list(local.runs)
    assert json.loads(_command("show", url, "lr1_ic0", "--json"))["status"]["phase"] == "done"
    assert f"{url}/export/runs.parquet" in json.loads(_command("export", url, "--json", "--quiet"))["files"]
    assert _command("report", url, "--quiet").strip() == f"{url}/report.html"
    added = _command("add", url, "--learning-rate", "3", "--initial-conditions", "1")
    assert "requested lr3_ic0" in added
    _command("cancel", url, "lr3_ic0")
    resumed = json.loads(_command("resume", url, "--executor", "inline", "--quiet", "--json"))
    assert [row["learning_rate"] for row in resumed["settings"]] == [1, 5]
    analyzed = json.loads(_command("analyze", url, "--json", "--quiet"))
    assert analyzed["settings"] == json.loads(json.dumps(local.analyze().to_json()["settings"]))
    watched = json.loads(_command("watch", url, "--once", "--json"))
    # A run that was cancelled before it started is not listed.
    assert {item["run_id"] for item in watched["items"]} == set(local.runs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "config.json"]
