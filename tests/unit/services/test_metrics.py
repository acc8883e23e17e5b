"""Metrics over HTTP: all values with their own steps, points that stay, names of any kind."""

from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from streamscalar.config import RunSetting, load_config
from streamscalar.errors import BadCall
from streamscalar.store import Store, WeightsWriter
from streamscalar.store.logged.log import Entries
from streamscalar.types import Layer, Layout
from streamscalar_services.api.http.app import create_app
from streamscalar_services.api.query.queries import Queries
from streamscalar_services.api.query.sampling import Window
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.tokens import Tokens
from streamscalar_services.api.watch.monitor import Monitor

TOKEN = "r" * 20


def made(folder: Path) -> Store:
    """Return a store with an empty run `a` of three parameters and one shadow."""
    store = Store.create(folder, load_config({"task": {"name": "tracked"}}).identity(), {})
    layout = Layout((Layer("weight", 0, (3,)),), "float64", 1, has_control=False)
    setting = RunSetting(learning_rate=None, epsilon=1e-8, initial_condition=0, is_tracked=True)
    store.add_run(
        "a", setting=setting, seed=0, layout=layout, n_rows=None, metrics=("loss",), n_components=2, segment_rows=8,
        codec="lz4",
    )  # fmt: skip
    return store


def log(writer: WeightsWriter, name: str, steps: list[int], values: list[float], replica: int = 0) -> None:
    n = len(steps)
    entries = Entries(((name, replica),), np.array(steps), np.zeros(n, np.int32), np.array(values, np.float64))
    writer.log(writer.n_logged, entries)


def test_a_metric_has_all_of_its_values_and_points_stay_until_earlier_ones_change(tmp_path: Path) -> None:
    store = made(tmp_path / "mine")
    monitor = Monitor(ServiceOptions(tmp_path, Tokens("", "")))
    queries: Queries = monitor.queries
    with store.weights_writer("a", "none") as writer:
        for row in range(3):
            writer.append(row, 10 * row, np.ones((2, 3)), {"loss": np.full(2, row)})
        # What rows of an earlier version have comes before what is logged.
        log(writer, "loss", [20, 21, 22], [2.0, float("nan"), 2.5])
        log(writer, "loss", [20, 22], [3.0, 3.5], replica=1)
        monitor.poll()
        found = queries.metric("mine:a", "loss", Window(None, None, 100, None))
        assert (found.steps, found.n, found.of) == ([0, 10, 20, 21, 22], 5, 5)
        assert found.values == [[0.0, 1.0, 2.0, "nan", 2.5], [0.0, 1.0, 3.0, None, 3.5]]
        log(writer, "loss", list(range(23, 120)), [1.0] * 97)
        more = queries.metric("mine:a", "loss", Window(None, None, 200, found.cursor))
        assert (more.steps, more.reset) == (list(range(22, 120)), False)
        thin = queries.metric("mine:a", "loss", Window(None, None, 30, None))
        assert (thin.n, thin.of, thin.stride) == (27, 102, 4)
        # A value for an earlier step: its point is new, and others move.
        log(writer, "loss", [15], [9.0])
        again = queries.metric("mine:a", "loss", Window(None, None, 200, more.cursor))
        assert (again.reset, again.steps[:4]) == (True, [0, 10, 15, 20])
        with pytest.raises(BadCall, match="metric: must be one of loss"):
            queries.metric("mine:a", "speed", Window(None, None, 200, None))


def test_names_of_any_kind_are_listed_and_found(tmp_path: Path) -> None:
    names = ["val/loss", "训练", "a b?c#d%", "../up", "x" * 300]
    store = made(tmp_path / "mine")
    with store.weights_writer("a", "none") as writer:
        for index, name in enumerate([*names, "\ud800"]):
            log(writer, name, [7], [float(index)])
    headers = {"authorization": f"Bearer {TOKEN}"}
    with TestClient(create_app(ServiceOptions(tmp_path, Tokens(TOKEN, "a" * 20))), headers=headers) as client:
        client.app.state.monitor.poll()  # type: ignore[attr-defined]  # it is the application
        assert client.get("/v1/runs/mine:a").json()["metrics"] == ["loss", *names, "\\ud800"]
        for index, name in enumerate(names):
            found = client.get(f"/v1/runs/mine:a/metrics/{quote(name, safe='')}").json()
            assert (found["name"], found["steps"], found["values"]) == (name, [7], [[float(index)], [None]])
        compared = client.get("/v1/compare", params={"runs": "mine:a", "name": "val/loss"}).json()
        assert (compared["steps"], compared["runs"][0]["values"]) == ([7], [0.0])
