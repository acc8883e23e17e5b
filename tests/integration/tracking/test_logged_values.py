"""Values of metrics apart from rows: any name, step, thread and time of the call, through the real worker."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import streamscalar as ss
from streamscalar.store import Store, verify
from streamscalar.store.schema import LOGGED_CHUNK
from streamscalar.tracking import Tracker, track
from tests.integration.tracking.test_tracking import patient, silence
from tests.tracking_kills import wait_for_end


def logged(store: Path, name: str, run: str = "a") -> dict[int, float]:
    found = ss.open(store).run(run).logged(name)
    return dict(zip(found.steps.tolist(), found.values[:, 0].tolist(), strict=True))


def test_every_value_is_stored_under_its_name_and_step(tmp_path: Path) -> None:
    store = tmp_path / "s"
    run = track(nn.Linear(3, 2), name="a", store=store, every_n_steps=10)
    run.log(before=torch.ones(1))
    for step in range(1, 31):
        run.step(step=step, loss=float(step))
        run.step(step=step, again=np.float32(step))
        if step == 25:
            # Late, as from a validation in another thread, and of a step without a row.
            validation = threading.Thread(target=run.log, args=({"val/loss": 0.5},), kwargs={"step": 17})
            validation.start()
            validation.join()
            assert run.summary().n_recorded == 3
    run.step(step=30, last=2**70)
    run.log({"": 1, "nan": float("nan"), "\ud800": 3.0}, step=10**9)
    for value in (1.0, 2.0):
        run.log(repeated=value)
    with silence() as caught:
        run.log(text="words", none=None, huge=10**400, many=np.ones(2), fine=np.ones(1))
    summary = run.finish()
    assert (len(caught), summary.n_values_lost, summary.n_values) == (4, 0, 30 + 30 + 9)
    steps = {step: float(step) for step in range(1, 31)}
    assert logged(store, "loss") == logged(store, "again") == steps
    assert logged(store, "before") == {0: 1.0}
    assert logged(store, "val/loss") == {17: 0.5}
    assert logged(store, "last") == {30: 2.0**70}
    assert logged(store, "repeated") == {30: 2.0}
    assert logged(store, "fine") == {30: 1.0}
    assert logged(store, "\ud800") == {10**9: 3.0}
    experiment = ss.open(store)
    stored = experiment.run("a")
    assert np.isnan(stored.logged("nan").values).all()
    assert stored.logged("loss").to_pandas().columns.tolist() == ["replica 0"]
    assert stored.steps().tolist() == [1, 11, 21]
    # Rows have the newest value since the row before.
    assert stored.metrics("loss").values[:, 0].tolist() == [1.0, 11.0, 21.0]
    assert np.nan_to_num(stored.metrics("val/loss").values[:, 0], nan=-1.0).tolist() == [-1.0, -1.0, 0.5]
    assert list(verify(experiment.store)) == []
    assert not {"text", "none", "huge", "many"} & set(stored.metric_names)


def test_a_run_without_a_row_has_its_values(tmp_path: Path) -> None:
    run = track(nn.Linear(3, 2), name="a", store=tmp_path / "s")
    run.log(accuracy=0.5, step=7)
    assert dict(run.finish().warnings) == {}
    assert logged(tmp_path / "s", "accuracy") == {7: 0.5}
    assert ss.open(tmp_path / "s").run("a").is_complete


def test_values_after_the_fork_belong_to_the_child_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "s"
    model = nn.Linear(3, 2)
    run = track(model, name="a", store=store, every_n_steps=1)
    with silence():
        for step in (1, 2, 3, 4, 3, 4, 5):
            patient(run)
            run.step(step=step, loss=float(step), **{f"call {step}": 1.0})
        # Of a step that both have in common, but reported by the child.
        run.log(step=1, val=1.0)
        run._end("stopped by the test")
    assert logged(store, "loss") == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert logged(store, "loss", "a-2") == {3: 3.0, 4: 4.0, 5: 5.0}
    assert logged(store, "val", "a-2") == {1: 1.0}
    assert "val" not in ss.open(store).run("a").metric_names
    # The first row of the child does not get it: its step is not after the fork.
    assert np.isnan(ss.open(store).run("a-2").metrics("val").values).all()
    again = track(model, name="a-2", store=store, every_n_steps=1, resume="must")
    again.log(val=2.0)
    again.step(loss=6.0, new=1.0)
    assert dict(again.finish().warnings) == {}
    assert logged(store, "loss", "a-2") == {3: 3.0, 4: 4.0, 5: 5.0, 6: 6.0}
    assert logged(store, "val", "a-2") == {1: 1.0, 5: 2.0}
    assert logged(store, "new", "a-2") == {6: 1.0}
    assert list(verify(Store.open(store))) == []


def test_a_fork_that_finds_no_free_slot_begins_where_training_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s"
    run = track(nn.Linear(3, 2), name="a", store=store, every_n_steps=1)
    for step in range(1, 7):
        patient(run)
        run.step(step=step, loss=float(step))
    with monkeypatch.context() as patch, silence():
        # As while the worker is busy.
        patch.setattr(run._link, "free_slots", set)
        for step in (3, 4):
            run.step(step=step, loss=10.0 + step)
    with silence():
        run.step(step=5, loss=15.0)
        run.finish()
    child = Store.open(store).reader("a-2")
    assert (child.spec.parent, child.steps().tolist()) == (("a", 2), [5])
    assert logged(store, "loss") == {step: float(step) for step in range(1, 7)}
    assert logged(store, "loss", "a-2") == {3: 13.0, 4: 14.0, 5: 15.0}


def test_values_of_shadows_are_logged_beside_the_reference(tmp_path: Path) -> None:
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    store = tmp_path / "s"

    def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(model(batch).square().mean())

    run = track(model, name="a", store=store, optimizer=optimizer, shadow=1, loss_fn=loss_of, every_n_steps=4)
    for _ in range(8):
        batch = torch.randn(5, 3, dtype=torch.float64)
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        run.step(loss=loss, batch=batch)
    run.finish()
    found = ss.open(store).run("a").logged("loss")
    assert found.values.shape == (8, 2)
    assert np.isfinite(found.values).all()
    np.testing.assert_allclose(found.values[:, 1], found.values[:, 0], rtol=1e-4)


def test_what_a_step_reports_is_not_reported_again_by_its_repeats(tmp_path: Path) -> None:
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    store = tmp_path / "s"

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> torch.Tensor:
        loss = torch.as_tensor(model(batch).square().mean())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        run.log(norm=float(model.get_parameter("weight").detach().norm()))
        optimizer.step()
        return loss

    run = track(model, name="a", store=store, optimizer=optimizer, shadow=2, train_step=train_step, every_n_steps=1)
    norms = []
    for _ in range(5):
        norms.append(float(model.weight.detach().norm()))
        batch = torch.randn(5, 3, dtype=torch.float64)
        run.step(loss=train_step(model, optimizer, batch), batch=batch)
    assert run.finish().warnings == {}
    assert logged(store, "norm") == dict(enumerate(norms))


KILLED = """
import sys, time
import torch
from streamscalar.tracking import track
run = track(torch.nn.Linear(20, 10), name="a", store=sys.argv[1], every_n_steps=10**9)
step = 0
while True:
    step += 1
    run.log({"loss": step, f"name {step % 7}": -step}, step=step)
    run.step()
    print(step, flush=True)
    time.sleep(0.0005)
"""


def test_a_killed_training_loses_no_value_that_it_has_logged(tmp_path: Path) -> None:
    store = tmp_path / "s"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(store)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.2)
    process.kill()
    told = [int(line) for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
    wait_for_end(Store.open(store), "a")
    found = logged(store, "loss")
    assert len(told) > 100
    assert set(told) <= set(found)
    assert sorted(found) == list(range(1, max(found) + 1))
    assert all(value == step for step, value in found.items())
    assert sum(len(logged(store, f"name {index}")) for index in range(7)) in (len(found), len(found) - 1)


def kill(run: Tracker) -> None:
    os.kill(run.worker_pid, signal.SIGKILL)
    # The socket is open until the finisher has noticed; the next order then cannot be sent.
    time.sleep(1)


def test_a_killed_worker_loses_no_value_and_repeats_none(tmp_path: Path) -> None:
    store = tmp_path / "s"
    run = track(nn.Linear(3, 2), name="a", store=store, every_n_steps=LOGGED_CHUNK // 2)
    reader, killed = None, 0
    n = 3 * LOGGED_CHUNK
    with silence() as caught:
        for step in range(1, n + 1):
            run.step(step=step, loss=float(step))
            if step % LOGGED_CHUNK == 1000:
                time.sleep(0.7)
            if step == LOGGED_CHUNK + 2000:
                # Readers follow while the run is written, and never write.
                reader = Store.open(store).reader("a")
                assert len(reader.logged.entries()) >= LOGGED_CHUNK + 1000
                killed = run.worker_pid
                kill(run)
            if step == 2 * LOGGED_CHUNK + 2000:
                until = time.monotonic() + 60
                while run.worker_pid == killed and time.monotonic() < until:
                    # The death of a worker shows at the next order.
                    run._link.wake()
                    time.sleep(0.01)
                kill(run)
        summary = run.finish()
    assert run._link.n_restarts == 2
    assert len(caught) == 1
    assert (summary.n_values, summary.n_values_lost) == (n, 0)
    assert reader is not None
    entries = reader.logged.entries()
    np.testing.assert_array_equal(entries.steps, np.arange(1, n + 1))
    np.testing.assert_array_equal(entries.values, entries.steps)


def test_values_wait_while_the_store_cannot_be_written(tmp_path: Path) -> None:
    store = tmp_path / "s"
    run = track(nn.Linear(3, 2), name="a", store=store, every_n_steps=10_000)
    run.step(loss=0.0)
    until = time.monotonic() + 60
    while not store.joinpath("runs", "a").exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(1.0)
    log = store / "runs" / "a" / "wal" / "weights"
    log.rename(log.with_name("hidden"))
    with silence() as caught:
        for _ in range(3):
            run.log(val=1.0)
            time.sleep(0.6)
        log.with_name("hidden").rename(log)
        summary = run.finish()
    assert [str(w.message) for w in caught if "values of metrics are not stored" in str(w.message)]
    assert summary.n_values_lost == 0
    assert logged(store, "val") == {1: 1.0}
