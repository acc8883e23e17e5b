"""Metrics for Prometheus: what they count over the life of runs and stores."""

import os
import re
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamscalar.config import load_config, plan_runs
from streamscalar.config.plan import plan_more
from streamscalar.store import Store
from streamscalar.testing.sample_run import add, layout, trajectory, write
from streamscalar.workers.embedder import Embedder
from streamscalar_services.api.http.telemetry import Telemetry
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.tokens import Tokens
from streamscalar_services.api.watch import catalog
from streamscalar_services.api.watch.monitor import Monitor

CONFIG = load_config(
    {
        "training": {"learning_rate": [1, 2]},
        "experiment": {"n_initial_conditions": 3},
        "embedding": {"n_components": 2},
    },
    environment={},
)
LAYOUT = layout()
ROWS = trajectory(64, (3, 13))
ROW_BYTES = 3 * 13 * 8


class Watched:
    """A service without its network: what its metrics say after a look at the disk."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalog, "DISCOVER_EVERY_S", 0.0)
        self.monitor = Monitor(ServiceOptions(root, Tokens("", "")))
        self.telemetry = Telemetry(self.monitor)

    def look(self) -> dict[str, float]:
        """Return every sample by its name and labels, as a scrape after another look finds it."""
        self.monitor.poll()
        found = {}
        for family in text_string_to_metric_families(self.telemetry.text().decode()):
            for sample in family.samples:
                name = " ".join([sample.name.removeprefix("streamscalar_"), *sample.labels.values()])
                found[name] = sample.value
        return found


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def made(folder: Path, n_rows: int = 0, run_id: str = "lr1_ic0") -> Store:
    """Return a store with one run of so many rows, of which whole segments of 8 are published."""
    store = Store.create(folder, CONFIG.identity(), {})
    add(store, run_id, LAYOUT, 64, 8)
    with store.weights_writer(run_id, "none") as writer:
        write(writer, ROWS[:n_rows])
    return store


def extended(store: Store, n_rows: int, first: int, run_id: str = "lr1_ic0") -> None:
    """Take up a run, as the next attempt, to `n_rows` rows."""
    with store.weights_writer(run_id, "none") as writer:
        write(writer, ROWS[:n_rows], first)


def aged(store: Store) -> None:
    """Make a store look as if it had been made an hour ago."""
    then = time.time() - 3600
    os.utime(store.path / "zarr.json", (then, then))


def test_rows_bytes_and_restarts_of_a_new_run_are_counted_from_its_first_row(watched: Watched, tmp_path: Path) -> None:
    before = watched.look()
    assert [before[f"{name}_total"] for name in ("rows", "raw_bytes", "refits", "restarts")] == [0, 0, 0, 0]
    store = made(tmp_path / "new", 5)
    found = watched.look()
    assert (found["rows_total"], found["raw_bytes_total"], found["restarts_total"]) == (5, 5 * ROW_BYTES, 0)
    extended(store, 11, first=5)
    found = watched.look()
    assert (found["rows_total"], found["raw_bytes_total"], found["restarts_total"]) == (11, 11 * ROW_BYTES, 1)
    extended(store, 12, first=8)
    assert watched.look()["restarts_total"] == 2


def test_what_was_there_before_the_service_is_not_counted_and_what_follows_is(watched: Watched, tmp_path: Path) -> None:
    store = made(tmp_path / "old", 10)
    aged(store)
    found = watched.look()
    assert (found["rows_total"], found["runs training"]) == (0, 1)
    extended(store, 14, first=10)
    found = watched.look()
    assert (found["rows_total"], found["raw_bytes_total"], found["restarts_total"]) == (4, 4 * ROW_BYTES, 1)
    made(tmp_path / "old", 3, "lr1_ic1")
    assert watched.look()["rows_total"] == 7


def test_no_counter_falls_when_a_store_is_deleted_and_written_anew(watched: Watched, tmp_path: Path) -> None:
    store = made(tmp_path / "again", 9)
    Embedder(str(store.path), CONFIG.embedding, "none").embed("lr1_ic0", 0, ROWS[:8])
    first = watched.look()
    shutil.rmtree(store.path)
    gone = watched.look()
    assert gone["runs training"] == 0
    made(tmp_path / "again", 4)
    second = watched.look()
    totals = [name for name in first if name.endswith("_total")]
    assert sorted(totals) == ["raw_bytes_total", "refits_total", "restarts_total", "rows_total"]
    assert [first[name] for name in totals] == [gone[name] for name in totals]
    assert (first["rows_total"], second["rows_total"]) == (9, 13)
    shutil.rmtree(store.path)
    extended(made(tmp_path / "again", 2), 3, first=2)
    third = watched.look()
    assert all(third[name] >= second[name] for name in totals)


def test_a_store_that_is_away_for_a_moment_is_not_counted_twice(
    watched: Watched, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = made(tmp_path / "shared", 9)
    aged(store)
    watched.look()
    extended(store, 12, first=9)
    assert watched.look()["rows_total"] == 3
    away = tmp_path_factory.mktemp("away") / "shared"
    store.path.rename(away)
    assert watched.look()["runs training"] == 0
    away.rename(store.path)
    found = watched.look()
    assert (found["runs training"], found["rows_total"]) == (1, 3)


def test_the_lag_of_embedders_is_summed_and_its_worst_is_told(watched: Watched, tmp_path: Path) -> None:
    store = made(tmp_path / "s", 20)
    add(store, "lr2_ic0", LAYOUT, 64, 8)
    extended(store, 12, 0, "lr2_ic0")
    found = watched.look()
    assert (found["rows_to_embed"], found["rows_to_embed_max"], found["refits_total"]) == (32, 20, 0)
    embedder = Embedder(str(store.path), CONFIG.embedding, "none")
    for first in (0, 8):
        embedder.embed("lr1_ic0", first, ROWS[first : first + 8])
    found = watched.look()
    assert (found["rows_to_embed"], found["rows_to_embed_max"], found["refits_total"]) == (16, 12, 2)
    store.set_status("lr2_ic0", phase="failed", reason="of old age")
    found = watched.look()
    assert (found["rows_to_embed"], found["rows_to_embed_max"], found["runs failed"]) == (4, 4, 1)


def test_runs_that_nobody_began_wait(watched: Watched, tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    assert watched.look()["runs_waiting"] == len(plan_runs(CONFIG)) - 1 == 5
    more = [asdict(plan) for plan in plan_more(CONFIG, [3.0], 2)]
    store.request({"kind": "add", "runs": more})
    assert watched.look()["runs_waiting"] == 7
    store.request({"kind": "cancel", "run_id": "lr3_ic1"})
    assert watched.look()["runs_waiting"] == 6
    add(store, "lr3_ic0", LAYOUT, 64, 8)
    add(store, "lr2_ic2", LAYOUT, 64, 8)
    assert watched.look()["runs_waiting"] == 4
    shutil.rmtree(store.path)
    assert watched.look()["runs_waiting"] == 0


def test_a_cancelled_run_takes_its_pack_off_the_queue(watched: Watched, tmp_path: Path) -> None:
    training = CONFIG.training.model_copy(update={"pack_size": 4})
    config = CONFIG.model_copy(update={"training": training})
    store = Store.create(tmp_path / "packs", config.identity(), {})
    store.request({"kind": "cancel", "run_id": "lr2_ic0"})
    assert watched.look()["runs_waiting"] == 2


def test_every_state_has_a_number_and_no_label_names_a_run_or_an_experiment(watched: Watched, tmp_path: Path) -> None:
    made(tmp_path / "secretive", 3)
    found = watched.look()
    states = {"waiting", "training", "trained", "done", "failed", "cancelled", "silent"}
    assert {name for name in found if name.startswith("runs ")} == {f"runs {state}" for state in states}
    assert b"secretive" not in watched.telemetry.text()
    assert b"lr1_ic0" not in watched.telemetry.text()


def test_the_page_describes_exactly_the_metrics_that_are_answered(watched: Watched) -> None:
    watched.telemetry.latency.labels("GET", "/v1/runs", "200").observe(0.1)
    page = (Path(__file__).parents[3] / "deploy" / "observability.md").read_text("utf-8")
    described = dict(re.findall(r"^\| `(streamscalar_\w+)` \| (\w+)", page, re.MULTILINE))
    lines = watched.telemetry.text().decode().splitlines()
    answered = dict(line.split()[2:] for line in lines if line.startswith("# TYPE"))
    assert described == answered
    assert len(answered) == 12


def test_a_damaged_request_is_passed_over(watched: Watched, tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    store.request({"kind": "colour"})
    store.request({"kind": "add", "runs": [asdict(plan) for plan in plan_more(CONFIG, [9.0], 1)]})
    assert watched.look()["runs_waiting"] == 6


def test_a_scrape_costs_no_look_at_the_disk(watched: Watched, tmp_path: Path) -> None:
    made(tmp_path / "s", 4)
    watched.look()
    made(tmp_path / "s", 6, "lr1_ic1")
    text = watched.telemetry.text().decode()
    assert "streamscalar_rows_total 4.0" in text
    assert np.isclose(watched.look()["rows_total"], 10)
