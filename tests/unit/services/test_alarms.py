"""Alerts of the service: those that depend on the clock, and the way from a change in the store to a log line."""

import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest

from streamscalar.config import RunSetting, load_config
from streamscalar.store import Store
from streamscalar.types import Layer, Layout
from streamscalar.workers.embedder import Embedder
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.sinks import AlertSinks, LogSink
from streamscalar_services.api.tokens import Tokens
from streamscalar_services.api.watch import catalog
from streamscalar_services.api.watch.monitor import Monitor


def made(folder: Path) -> Store:
    """Return a store with an empty run `a` of three parameters and no replicas."""
    config = load_config({"task": {"name": "tracked"}, "analysis": {"alerts": {"silent_after_s": 300}}})
    store = Store.create(folder, config.identity(), {})
    layout = Layout((Layer("weight", 0, (3,)),), "float64", 0, has_control=False)
    setting = RunSetting(learning_rate=None, epsilon=None, initial_condition=0, is_tracked=True)
    store.add_run(
        "a", setting=setting, seed=0, layout=layout, n_rows=None, metrics=("loss",), n_components=16, segment_rows=8,
        codec="lz4",
    )  # fmt: skip
    return store


def test_a_silent_run_raises_one_alert_after_the_time_of_its_rule(tmp_path: Path) -> None:
    """The state of the run turns silent earlier and does not change again; the rule has its own limit."""
    store = made(tmp_path / "mine")
    with store.weights_writer("a", "none") as writer:
        for row in range(3):
            writer.append(row, 10 * row, np.ones((1, 3)), {"loss": np.ones(1)})
    monitor = Monitor(ServiceOptions(tmp_path, Tokens("", ""), silent_after_s=60))

    def kinds_after(age_s: float) -> list[str]:
        """Look at the run as if its newest row were so old."""
        then = time.time() - age_s
        for path in (tmp_path / "mine" / "runs" / "a").rglob("*"):
            os.utime(path, (then, then))
        events = monitor.poll()
        return [data["rule"] for kind, data in events if kind == "alert"]

    assert kinds_after(1) == []
    assert kinds_after(100) == []
    assert monitor.catalog.entry("mine:a").state(time.time(), 60) == "silent"
    assert kinds_after(400) == ["silent"]
    assert "alert" not in [kind for kind, _ in monitor.poll()]
    (alert,) = monitor.alarms.page(None, "warn", None, 10).items
    assert (alert.row, alert.step) == (2, 20)
    assert monitor.alarms.counts() == {"info": 0, "warn": 1, "error": 0}


def test_events_alert_and_log_lines_carry_the_id_of_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalog, "DISCOVER_EVERY_S", 0.0)
    caplog.set_level(logging.INFO)
    log = tmp_path / "alerts.jsonl"
    (tmp_path / "stores").mkdir()
    options = ServiceOptions(tmp_path / "stores", Tokens("", ""), AlertSinks([LogSink(log)]))
    monitor = Monitor(options)
    assert monitor.poll() == []
    store = made(tmp_path / "stores" / "mine")
    rows = np.random.default_rng(0).standard_normal((8, 1, 3))
    with store.weights_writer("a", "none") as writer:
        for row in range(8):
            writer.append(row, row, rows[row], {"loss": np.full(1, np.nan if row == 7 else 1.0)})
    Embedder(str(store.path), load_config({"task": {"name": "tracked"}}).embedding, "none").embed("a", 0, rows)
    found = monitor.poll()
    (change_id,) = {data["change_id"] for _, data in found}
    monitor.analyst.work_one()
    later = dict(monitor.poll())
    assert later["alert"]["rule"] == "non_finite"
    assert later["alert"]["change_id"] == change_id != later["runs"]["change_id"]
    options.sinks.close()
    assert json.loads(log.read_text())["change_id"] == change_id
    assert [record.getMessage() for record in caplog.records if "mine:a.non_finite.7" in record.getMessage()] == [
        f"alert mine:a.non_finite.7: NaN or infinity in loss at step 7. [change {change_id}]"
    ]
