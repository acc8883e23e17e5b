"""The coordinator over a real store: what it takes over, keeps, counts and shows, and how much it reads for that."""

import math
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamscalar as ss
from streamscalar.config import RunPlan, RunSetting
from streamscalar.protocol.progress import MAX_VIEWS, RunProgress
from streamscalar.protocol.schedule import (
    FinalisePack,
    PackFailed,
    PackFinalised,
    Phase,
    StartTraining,
    TrainingFinished,
)
from streamscalar.store import Place, RunReader, Store
from streamscalar.store.media.folder import Folder
from streamscalar.types import Layer, Layout
from streamscalar.workers.coordinator import FAILED_VIEWS, Coordinator

N_ROWS = 17


class _Counted(Store):
    """A store that counts what is asked of it."""

    calls: Counter[str]

    def run_ids(self) -> list[str]:
        self.calls["run_ids"] += 1
        return super().run_ids()

    def reader(self, run_id: str, *, hash_weights: bool = True) -> RunReader:
        self.calls["reader"] += 1
        return super().reader(run_id, hash_weights=hash_weights)

    def status(self, run_id: str) -> dict[str, Any]:
        self.calls["status"] += 1
        return super().status(run_id)

    def set_status(self, run_id: str, **facts: Any) -> None:
        self.calls["set_status"] += 1
        super().set_status(run_id, **facts)


class _Slow(Folder):
    is_remote = True


class _Far(Store):
    """A store that takes a while to answer, as one in a bucket does."""

    n_asked = 0
    n_at_once = 0

    def __init__(self, where: Place) -> None:
        super().__init__(where)
        self.medium = _Slow()

    def status(self, run_id: str) -> dict[str, Any]:
        with _GUARD:
            self.n_asked += 1
            self.n_at_once = max(self.n_at_once, self.n_asked)
        time.sleep(0.02)
        with _GUARD:
            self.n_asked -= 1
        return super().status(run_id)


_GUARD = threading.Lock()


def _plan(name: str) -> RunPlan:
    return RunPlan(name, 0.1, 1e-6, 0, 0)


def _packs(n_packs: int, size: int = 1) -> list[tuple[RunPlan, ...]]:
    return [tuple(_plan(f"p{pack}r{run}") for run in range(size)) for pack in range(n_packs)]


def _store(folder: Path, *run_ids: str) -> Store:
    store = Store.create(folder / "store", {}, {})
    for run_id in run_ids:
        layout = Layout((Layer("w", 0, (2,)),), "float64", 1, False)
        store.add_run(
            run_id,
            setting=RunSetting(),
            seed=0,
            layout=layout,
            n_rows=N_ROWS,
            metrics=(),
            n_components=2,
            segment_rows=8,
            codec="zstd",
        )
    return store


def _block(run_id: str, n_rows: int) -> RunProgress:
    return RunProgress(run_id, n_rows, 0.5, 1, -3.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with two runs that are done."""
    experiment = ss.run(
        {
            "experiment": {"name": "small", "n_initial_conditions": 1},
            "task": {"name": "quadratic", "curvatures": [1.0, 0.5]},
            "training": {"learning_rate": [0.1, 0.2], "n_steps": N_ROWS - 1, "device": "cpu"},
            "store": {"url": str(tmp_path_factory.mktemp("finished") / "small"), "segment_rows": 8},
            "cluster": {"executor": "inline"},
        }
    )
    return Path(experiment.store.path)


def _reopened(path: Path, max_concurrent: int = 1) -> tuple[Coordinator, Counter[str]]:
    store = _Counted.open(path, writable=True)
    store.calls = Counter()
    packs = [(_plan("lr0.1_ic0"),), (_plan("lr0.2_ic0"),)]
    return Coordinator(store, packs, max_concurrent, N_ROWS), store.calls


def test_instructions_and_log_lines_carry_the_id_of_the_event_that_caused_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = Coordinator(_store(tmp_path), _packs(2), 1, N_ROWS)
    (first,) = coordinator.begin()
    assert first == StartTraining("p0r0")
    assert first.event_id == ""
    with caplog.at_level("INFO", "streamscalar"):
        instructions = coordinator.handle(TrainingFinished("p0r0"))
        (retried,) = coordinator.fail("p1r0", ConnectionError("gone"))
    assert instructions == [FinalisePack("p0r0"), StartTraining("p1r0")]
    finished, lost = ((record.message, vars(record)["event"], vars(record)["run"]) for record in caplog.records)
    assert finished == ("event TrainingFinished", instructions[0].event_id, "p0r0")
    assert lost == ("event WorkerLost", retried.event_id, "p1r0")
    assert instructions[1].event_id == instructions[0].event_id != retried.event_id
    assert retried.event_id.startswith("WorkerLost-")


def test_runs_that_are_done_are_taken_over_by_their_status_alone(finished: Path) -> None:
    coordinator, calls = _reopened(finished)
    assert coordinator.begin() == []
    assert calls == {"run_ids": 1, "status": 2}
    snapshot = coordinator.snapshot()
    assert snapshot.is_over
    assert snapshot.n_rows == 2 * N_ROWS
    assert [(run.phase, run.progress.n_rows if run.progress else 0) for run in snapshot.runs] == [("done", N_ROWS)] * 2


def test_a_run_whose_end_was_not_noted_is_known_by_its_exact_solution(finished: Path) -> None:
    store = Store.open(finished, writable=True)
    store.set_status("lr0.2_ic0", phase="trained", attempts=1, reason="")
    coordinator, calls = _reopened(finished)
    assert coordinator.begin() == []
    assert calls == {"run_ids": 1, "status": 2, "reader": 1}
    assert coordinator.snapshot().n_rows == 2 * N_ROWS
    store.set_status("lr0.2_ic0", phase="done", attempts=1, reason="")


def test_runs_of_a_store_far_away_are_looked_at_side_by_side(tmp_path: Path) -> None:
    packs = _packs(8)
    path = _store(tmp_path, *(pack[0].run_id for pack in packs)).path
    store = _Far.open(path, writable=True)
    store.set_status("p3r0", phase="done", attempts=1, reason="")
    coordinator = Coordinator(store, packs, 8, N_ROWS)
    assert coordinator.begin() == [StartTraining(pack[0].run_id) for pack in packs if pack[0].run_id != "p3r0"]
    assert store.n_at_once > 4


def test_a_pack_of_which_one_run_is_done_trains_again(finished: Path) -> None:
    store = Store.open(finished, writable=True)
    coordinator = Coordinator(store, [(_plan("lr0.1_ic0"), _plan("absent"))], 1, N_ROWS)
    assert coordinator.begin() == [StartTraining("lr0.1_ic0")]


def test_an_event_asks_the_store_about_its_own_runs_alone(tmp_path: Path) -> None:
    path = _store(tmp_path, "p0r0").path
    store = _Counted.open(path, writable=True)
    store.calls = Counter()
    coordinator = Coordinator(store, _packs(100, 2), 1, N_ROWS)
    coordinator.begin()
    store.calls.clear()
    assert coordinator.handle(TrainingFinished("p0r0")) == [FinalisePack("p0r0"), StartTraining("p1r0")]
    # One of the pack's two runs is stored; the other has no place for a status yet.
    assert store.calls == {"set_status": 2}
    assert store.status("p0r0") == {"phase": "trained", "attempts": 1, "reason": ""}


def test_more_packs_train_when_hosts_join_and_none_is_stopped_when_they_leave(tmp_path: Path) -> None:
    coordinator = Coordinator(_store(tmp_path), _packs(4), 0, N_ROWS)
    assert coordinator.begin() == []
    assert coordinator.n_wanted == 4
    assert coordinator.resize(2) == [StartTraining("p0r0"), StartTraining("p1r0")]
    assert coordinator.resize(1) == []
    assert coordinator.snapshot().count(Phase.TRAINING) == 2
    coordinator.handle(TrainingFinished("p0r0"))
    assert coordinator.n_wanted == 3


def test_a_snapshot_of_many_runs_counts_all_and_shows_some(tmp_path: Path) -> None:
    coordinator = Coordinator(_store(tmp_path), _packs(1000, 2), 40, N_ROWS)
    coordinator.begin()
    for pack in reversed(range(100)):
        coordinator.handle(PackFailed(f"p{pack}r0", "no such file"))
    coordinator.handle(TrainingFinished("p100r0"))
    coordinator.report(_block("p120r1", 8))
    snapshot = coordinator.snapshot()
    assert snapshot.counts == {"waiting": 1718, "training": 80, "trained": 2, "failed": 200}
    assert (snapshot.n_runs, snapshot.n_rows, snapshot.is_over) == (2000, 8, False)
    shown = [(run.run_id, run.phase) for run in snapshot.runs]
    # The first that failed, in planned order.
    failed = [(f"p{pack}r{run}", "failed") for pack in range(100 - FAILED_VIEWS // 2, 100) for run in range(2)]
    training = [(f"p{pack}r{run}", "training") for pack in range(101, 129) for run in range(2)]
    assert shown == (failed + training)[:MAX_VIEWS]
    assert next(run.progress for run in snapshot.runs if run.run_id == "p120r1") == _block("p120r1", 8)


def test_a_snapshot_of_few_runs_shows_all_in_planned_order(tmp_path: Path) -> None:
    coordinator = Coordinator(_store(tmp_path), _packs(32, 2), 1, N_ROWS)
    coordinator.begin()
    shown = coordinator.snapshot().runs
    assert [run.run_id for run in shown] == [plan.run_id for pack in _packs(32, 2) for plan in pack]
    assert [run.phase for run in shown] == ["training"] * 2 + ["waiting"] * 62


@given(reports=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=20))
def test_rows_are_those_of_each_runs_newest_report(finished: Path, reports: list[tuple[str, int]]) -> None:
    coordinator = Coordinator(Store.open(finished, writable=True), [], 1, N_ROWS)
    newest: dict[str, int] = {}
    for run_id, n_rows in reports:
        coordinator.report(_block(run_id, n_rows))
        newest[run_id] = max(n_rows, newest.get(run_id, 0))
        assert coordinator.snapshot().n_rows == sum(newest.values())


def test_runs_are_added_and_cancelled_wherever_they_stand_in_a_pack(tmp_path: Path) -> None:
    store = _store(tmp_path)
    coordinator = Coordinator(store, _packs(3, 2), 1, N_ROWS)
    coordinator.begin()
    added = {"run_id": "more", "learning_rate": 0.3, "epsilon": 1e-6, "initial_condition": 0, "seed": 1}
    known = {**added, "run_id": "p1r1"}
    store.request({"kind": "add", "runs": [added, known, added]})
    store.request({"kind": "cancel", "run_id": "p1r1"})
    store.request({"kind": "cancel", "run_id": "nobody"})
    assert coordinator.handle_requests() == []
    snapshot = coordinator.snapshot()
    assert [run.run_id for run in snapshot.runs][-1] == "more"
    assert snapshot.counts == {"training": 2, "waiting": 3, "cancelled": 2}
    assert snapshot.n_unwanted == 2
    assert coordinator.handle_requests() == []


def test_requests_hold_for_whoever_begins_anew(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.request({"kind": "add", "runs": [{**_added("x")}, {**_added("y")}]})
    store.request({"kind": "cancel", "run_id": "x"})
    coordinator = Coordinator(store, _packs(1), 3, N_ROWS)
    assert coordinator.begin() == [StartTraining("p0r0"), StartTraining("y")]


def _added(run_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "learning_rate": 0.3, "epsilon": 1e-6, "initial_condition": 0, "seed": 1}


def test_progress_of_a_run_that_is_done_has_no_coordinate(finished: Path) -> None:
    coordinator, _ = _reopened(finished)
    coordinator.begin()
    progress = coordinator.snapshot().runs[0].progress
    assert progress is not None
    assert math.isnan(progress.coordinate)


def test_over_when_the_last_pack_is_solved(tmp_path: Path) -> None:
    coordinator = Coordinator(_store(tmp_path), _packs(1), 1, N_ROWS)
    coordinator.begin()
    coordinator.handle(TrainingFinished("p0r0"))
    assert not coordinator.is_over
    coordinator.handle(PackFinalised("p0r0"))
    assert coordinator.is_over
