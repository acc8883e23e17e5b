"""Results of a tracked run in other back ends: the real packages, offline, read back from their own files."""

import json
import math
import os
import signal
import socket
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import wandb
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import SGD
from wandb.proto.wandb_internal_pb2 import Record

import streamscalar as ss
from streamscalar.errors import BadCall
from streamscalar.tracking import track
from streamscalar.tracking.training.mirrors import MirrorName
from streamscalar.tracking.worker.mirrors.feed import Feed
from streamscalar.tracking.worker.mirrors.launch import FINISH_S
from streamscalar.tracking.worker.name_lock import NameLock
from streamscalar.types import Status
from tests.integration.tracking.test_tracking import batches, loss_of, mlp, patient, silence

N = 60
Points = dict[int, float]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all back ends write below the folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def wait_for(store: Path, n_rows: int, *backends: str) -> None:
    """Wait until the mirrors of run `a` have sent so many rows; on a busy machine that may be after `finish`."""
    # The processes have the lowest priority, and other tests keep the machine busy.
    until = time.monotonic() + 300
    for backend in backends:
        file = store / "tracking" / f"a.{backend}.json"
        while not file.exists() or json.loads(file.read_text())["n_rows"] < n_rows:
            assert time.monotonic() < until, f"{backend} has not got {n_rows} rows"
            time.sleep(0.05)


def wait_for_end(store: Path, *backends: str) -> None:
    """Wait until the mirrors of run `a` have sent all rows and ended."""
    wait_for(store, N, *backends)
    for backend in backends:
        while (lock := NameLock.take(store, f"a.{backend}")) is None:
            time.sleep(0.05)
        lock.release()


def from_tensorboard(folder: Path) -> tuple[dict[str, Points], dict[str, str]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {name: [(one.step, one.value) for one in events.Scalars(name)] for name in tags["scalars"]}
    assert all(len(dict(points)) == len(points) for points in scalars.values()), "a step was sent twice"
    texts = {
        name.removesuffix("/text_summary"): events.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        for name in tags["tensors"]
    }
    return {name: dict(points) for name, points in scalars.items()}, texts


def records_of_wandb(file: Path) -> Iterator[bytes]:
    """Yield the records of a `.wandb` file: a header of 7 bytes, then a log of LevelDB, in blocks of 32 KiB."""
    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield part
            part = b""


def from_wandb(folder: Path) -> tuple[dict[str, Points], dict[str, str], dict[str, str]]:
    (file,) = folder.glob("offline-run-*/*.wandb")
    scalars: dict[str, Points] = {}
    texts: dict[str, str] = {}
    about: dict[str, str] = {}
    for data in records_of_wandb(file):
        record = Record.FromString(data)
        if record.HasField("history"):
            row = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                scalars.setdefault(name, {})[row["streamscalar/step"]] = float(value)
        elif record.HasField("summary"):
            texts |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
        elif record.HasField("run"):
            about |= {"name": record.run.display_name, "project": record.run.project, "group": record.run.run_group}
        elif record.HasField("alert"):
            texts[f"streamscalar/alert/{record.alert.title}"] = f"{record.alert.level.lower()}: {record.alert.text}"
    return scalars, texts, about


def from_mlflow(run_id: str) -> tuple[dict[str, Points], dict[str, str]]:
    client = MlflowClient()
    data = client.get_run(run_id).data
    scalars = {name: {one.step: one.value for one in client.get_metric_history(run_id, name)} for name in data.metrics}
    return scalars, dict(data.tags)


def from_trackio(file: Path) -> tuple[dict[str, Points], dict[str, str]]:
    scalars: dict[str, Points] = {}
    texts: dict[str, str] = {}
    with sqlite3.connect(file) as connection:
        for step, logged in connection.execute("select step, metrics from metrics order by id"):
            for name, value in json.loads(logged).items():
                if isinstance(value, str):
                    texts[name] = value
                else:
                    scalars.setdefault(name, {})[step] = value
        for level, title, text in connection.execute("select level, title, text from alerts"):
            texts[f"streamscalar/alert/{title}"] = f"{level}: {text}"
    connection.close()
    return scalars, texts


class Training:
    """A training of `N` steps with a shadow, whose last loss is no number."""

    def __init__(self, mirror: list[MirrorName], **options: Any) -> None:
        self._model = mlp(torch.float64, dropout=0.0)
        self._optimizer = SGD(self._model.parameters(), lr=0.1)
        self.run = track(
            self._model, name="a", group="g", store="s", optimizer=self._optimizer, every_n_steps=1, mirror=mirror,
            shadow=True, loss_fn=loss_of, **options,
        )  # fmt: skip

    def steps(self, first: int, last: int) -> None:
        for step, batch in enumerate(batches(N, torch.float64)[first - 1 : last], first):
            self._optimizer.zero_grad()
            loss = loss_of(self._model, batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            self._optimizer.step()
            patient(self.run)
            self.run.step(step=step, batch=batch, loss=math.nan if step == N else loss)


def test_results_reach_all_back_ends(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with silence() as caught, mlflow.start_run() as joined:
        mine = wandb.init(project="p", group="w", dir="mine")
        training = Training(["tensorboard", "wandb", "mlflow", "trackio"])
        training.steps(1, N)
        # As at the end of a training process, however far the mirror is.
        mine.finish()
        wandb.teardown()
        training.run.finish()
        wait_for_end(tmp_path / "s", "tensorboard", "wandb", "mlflow", "trackio")
    assert not [str(one.message) for one in caught if "did not take" not in str(one.message)]
    experiment = ss.open(tmp_path / "s")
    stored = experiment.run("a")
    # The axis of the newest basis has the scale of the earlier ones only from then on.
    last = slice(stored.steps().tolist().index(N) - 3, None)
    scalar = stored.coordinates("live")[0][last, 0, 0]
    separation = stored.divergence("l1").values[:, 1]
    (alert,) = [alert for alert in experiment.alerts() if alert.rule == "non_finite"]

    wandb_scalars, wandb_texts, about = from_wandb(tmp_path / "wandb")
    assert about == {"name": "a", "project": "p", "group": "w"}
    found = {
        "tensorboard": from_tensorboard(tmp_path / "runs" / "g" / "a"),
        "wandb": (wandb_scalars, wandb_texts),
        "mlflow": from_mlflow(joined.info.run_id),
        "trackio": from_trackio(tmp_path / "trackio" / "g.db"),
    }
    # A later process continues after the last row that was sent, and says which numbers no longer hold.
    later = Feed(experiment, "a", N - 2, [], ["streamscalar/nmle"]).read(is_over=True)
    assert list(later.values) == [N - 1, N]
    assert [math.isnan(values.get("streamscalar/nmle", 0.0)) for values in later.values.values()] == [False, True]
    for backend, (scalars, texts) in found.items():
        z1, apart = scalars["streamscalar/z1"], scalars["streamscalar/separation"]
        assert sorted(z1) == sorted(apart) == stored.steps().tolist(), backend
        np.testing.assert_allclose([apart[step] for step in stored.steps().tolist()], separation, rtol=1e-6)
        np.testing.assert_allclose([z1[step] for step in stored.steps().tolist()[last]], scalar, rtol=1e-6)
        assert scalars["streamscalar/regime"][N] == 3.0, backend
        dot = "." if backend == "mlflow" else "/"
        assert texts[f"streamscalar{dot}regime_name"] == "diverged", backend
        assert texts[f"streamscalar{dot}ftle_status"] in set(Status), backend
        name = f"streamscalar.alert.non_finite.{N}" if backend == "mlflow" else "streamscalar/alert/non_finite"
        assert texts[name] == f"{alert.level}: {alert.message}", backend


def test_a_restarted_worker_continues_a_mirror(tmp_path: Path) -> None:
    with silence():
        training = Training(["tensorboard"])
        training.steps(1, 20)
        time.sleep(1.0)
        # A block is embedded when a row follows.
        training.steps(21, 21)
        wait_for(tmp_path / "s", 16, "tensorboard")
        os.kill(training.run.worker_pid, signal.SIGKILL)
        training.steps(22, N)
        training.run.finish()
        wait_for_end(tmp_path / "s", "tensorboard")
    files = list((tmp_path / "runs" / "g" / "a").iterdir())
    scalars, _ = from_tensorboard(tmp_path / "runs" / "g" / "a")
    assert len(files) == 2
    assert sorted(scalars["streamscalar/z1"]) == list(range(1, N + 1))


def test_a_back_end_that_fails_or_hangs_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "file"))
    with socket.create_server(("127.0.0.1", 0)) as never_answers, silence() as caught:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{never_answers.getsockname()[1]}")
        training = Training(["tensorboard", "mlflow"])
        training.steps(1, N)
        step, until = N, time.monotonic() + 300
        while time.monotonic() < until and not caught:
            time.sleep(0.1)
            step += 1
            training.run.step(step=step)
        begun_s = time.monotonic()
        summary = training.run.finish()
        assert time.monotonic() - begun_s < 2 * FINISH_S
    first, second = (str(one.message) for one in caught)
    assert "results do not reach tensorboard: NotADirectoryError" in first
    assert "mlflow did not take all results within 10 s" in second
    assert (summary.n_recorded, summary.n_lost) == (step, 0)
    assert ss.open(tmp_path / "s").run("a").is_complete


def test_a_mirror_that_cannot_be_is_a_bad_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    with pytest.raises(BadCall, match="mirror: must be one of wandb, mlflow, trackio, tensorboard"):
        track(model, mirror="neptune")  # type: ignore[arg-type]  # wrong
    with pytest.raises(BadCall, match="mirror: must be left out with address"):
        track(model, mirror="wandb", address="127.0.0.1:1")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(BadCall, match=r"the package trackio is not.*pip install 'streamscalar\[trackio\]'"):
        track(model, mirror=["tensorboard", "trackio"])
    assert not Path("streamscalar-runs").exists()
