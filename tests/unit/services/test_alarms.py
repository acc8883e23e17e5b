"""Alerts of the service that depend on the clock."""

import os
import time
from pathlib import Path

import numpy as np

from streamscalar.config import RunSetting, load_config
from streamscalar.store import Store
from streamscalar.types import Layer, Layout
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.tokens import Tokens
from streamscalar_services.api.watch.monitor import Monitor


def test_a_run_without_rows_for_as_long_as_its_rule_says_is_told_once(tmp_path: Path) -> None:
    """The state of a run turns silent earlier than that, and never changes again; the rule has a clock of its own."""
    config = load_config({"task": {"name": "tracked"}, "analysis": {"alerts": {"silent_after_s": 300}}})
    store = Store.create(tmp_path / "mine", config.identity(), {})
    layout = Layout((Layer("weight", 0, (3,)),), "float64", 0, has_control=False)
    setting = RunSetting(learning_rate=None, epsilon=None, initial_condition=0, is_tracked=True)
    store.add_run(
        "a", setting=setting, seed=0, layout=layout, n_rows=None, metrics=("loss",), n_components=16, segment_rows=8,
        codec="lz4",
    )  # fmt: skip
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
