"""What a tracked run says of a training: values under their steps and names, and the model as it is now."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import streamscalar as ss
from streamscalar.store import verify
from streamscalar.tracking import track
from streamscalar.tracking.training.capture import named_parameters
from streamscalar.types import Status
from tests.integration.tracking.test_tracking import batches, flat, loss_of, mlp, silence

NAMES = ("train/loss", "train_loss", "", "训练", "zarr.json", "val/" + "x" * 300, "../up")


def test_values_keep_step_and_name_through_store_digest_and_copy(tmp_path: Path) -> None:
    model = mlp()
    optimizer = SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.02}])
    run = track(model, name="a", store=tmp_path / "s", optimizer=optimizer, every_n_steps=1, metrics=["val"])
    for step in range(1, 13):
        optimizer.param_groups[0]["lr"] = 0.1 / step
        values = {name: float(step + index) for index, name in enumerate(NAMES)}
        run.step(step=step, **values)
        if step % 4 == 0:
            # As a validation does: at the number of the step, after it.
            run.step(step=step, val=torch.tensor(100.0 + step))
    summary = run.finish()
    assert dict(summary.warnings) == {}
    experiment = ss.open(tmp_path / "s")
    stored = experiment.run("a")
    for index, name in enumerate(NAMES):
        assert stored.metrics(name).values[:, 0].tolist() == [step + index for step in range(1, 13)]
    val = stored.metrics("val")
    assert {int(s): float(v) for s, v in zip(val.steps, val.values[:, 0], strict=True) if v == v} == {
        4: 104.0,
        8: 108.0,
        12: 112.0,
    }
    np.testing.assert_allclose(stored.metrics("learning_rate").values[:, 0], 0.1 / np.arange(1, 13))
    assert set(stored.metrics("learning_rate/1").values[:, 0]) == {0.02}
    assert list(verify(experiment.store)) == []
    assert len(experiment.digest()) == 64


@pytest.mark.parametrize(
    "config", [{"learning_rate": np.float32(0.5)}, {"lr": np.int64(1)}, {"lr": "5e-1"}, {"lr": torch.tensor(0.5)}]
)
def test_the_nominal_learning_rate_is_read_from_any_number(tmp_path: Path, config: dict[str, object]) -> None:
    run = track(mlp(), name="a", store=tmp_path / "s", config=config, every_n_steps=1)
    run.finish()
    expected = float(next(iter(config.values())))  # type: ignore[arg-type]  # each is a number
    run = track(mlp(), name="b", store=tmp_path / "s", config=config, every_n_steps=1)
    run.step()
    run.finish()
    assert ss.open(tmp_path / "s").run("b").setting["learning_rate"] == expected


def test_a_warm_up_does_not_hide_the_nominal_learning_rate(tmp_path: Path) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=100)
    run = track(model, name="a", store=tmp_path / "s", optimizer=optimizer, every_n_steps=1)
    run.step()
    run.finish()
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.setting["learning_rate"] == 0.1
    assert stored.metrics("learning_rate").values[0, 0] == pytest.approx(1e-4)


def replaced(model: nn.Sequential) -> None:
    model[3] = nn.Linear(9, 3)


def assigned(model: nn.Sequential) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def added(model: nn.Sequential) -> None:
    model.append(nn.Linear(3, 3))


def widened(model: nn.Sequential) -> None:
    model.double()


@pytest.mark.parametrize(("change", "n_rows"), [(replaced, 10), (assigned, 10), (added, 5), (widened, 5)])
def test_a_changed_model_is_recorded_on_or_named_and_never_stale(
    tmp_path: Path, change: Callable[[nn.Sequential], None], n_rows: int
) -> None:
    model = mlp()
    run = track(model, name="a", store=tmp_path / "s", every_n_steps=1)
    seen = {}
    with silence() as caught:
        for step in range(1, 11):
            if step == 6:
                change(model)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.01)
            run.step()
            seen[step] = flat(model)
        summary = run.finish()
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == list(range(1, n_rows + 1))
    for step in range(1, n_rows + 1):
        np.testing.assert_array_equal(stored.weights(step)[0], seen[step])
    if n_rows < 10:
        assert summary.n_dropped == 10 - n_rows
        (warning,) = caught
        assert "at step 6 the parameters of the model changed" in str(warning.message)
        assert "at step 6" in ss.open(tmp_path / "s").store.status("a")["reason"]


def test_steps_from_several_threads_are_all_counted(tmp_path: Path) -> None:
    run = track(mlp(), name="a", store=tmp_path / "s", every_n_steps=1)

    def work() -> None:
        for _ in range(30):
            run.step(loss=1.0)
            time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary = run.finish()
    assert summary.n_steps == 120
    steps = ss.open(tmp_path / "s").run("a").steps()
    assert len(steps) == len(set(steps.tolist())) == summary.n_recorded
    assert summary.n_recorded + summary.n_dropped == 120


def test_a_clipped_training_has_an_exponent_from_its_whole_step_and_none_from_its_loss(tmp_path: Path) -> None:
    found = {}
    for name in ("loss_fn", "train_step"):
        model = mlp(torch.float64)
        optimizer = Adam(model.parameters(), lr=0.01)

        def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: object) -> torch.Tensor:
            loss = loss_of(model, batch)  # type: ignore[arg-type]  # it is one
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            return loss.detach()

        procedure = {"loss_fn": loss_of} if name == "loss_fn" else {"train_step": train_step}
        with silence() as caught:
            run = track(
                model, name=name, store=tmp_path / "s", optimizer=optimizer, every_n_steps=1, shadow=True, **procedure
            )
            for batch in batches(40, torch.float64):
                run.step(loss=train_step(model, optimizer, batch), batch=batch)
            run.finish()
        found[name] = ss.open(tmp_path / "s").run(name).estimates(), [str(w.message) for w in caught]
    refused, warned = found["loss_fn"]
    assert refused.estimates["ftle"].status is Status.NOT_REPRODUCED
    assert "the update of step 1 was not repeated" in refused.estimates["ftle"].message
    assert "train_step=fn(model, optimizer, batch)" in refused.estimates["ftle"].message
    assert len(warned) == 1
    repeated, silent = found["train_step"]
    assert repeated.estimates["ftle"].status is Status.OK
    assert silent == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_repeated_and_its_names_are_plain(tmp_path: Path) -> None:
    model = mlp(dropout=0.0)
    plain = list(named_parameters(model))
    compiled = torch.compile(model, backend="aot_eager")
    assert isinstance(compiled, nn.Module)
    assert list(named_parameters(compiled)) == plain
    assert list(named_parameters(nn.DataParallel(model))) == plain
    optimizer = SGD(compiled.parameters(), lr=0.1)
    run = track(
        compiled,
        name="a",
        store=tmp_path / "s",
        optimizer=optimizer,
        loss_fn=loss_of,
        shadow=True,
        every_n_steps=1,
    )
    for batch in batches(12):
        optimizer.zero_grad()
        loss = loss_of(compiled, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        run.step(loss=loss, batch=batch)
    assert dict(run.finish().warnings) == {}
    stored = ss.open(tmp_path / "s").run("a")
    assert np.isfinite(stored.weights(12)).all()
    assert [layer.name for layer in stored.layout.layers] == plain


def test_a_step_may_report_to_its_own_tracker(tmp_path: Path) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)

    def train_step(
        model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        run.log(inner=float(loss.detach()))

    run = track(
        model, name="a", store=tmp_path / "s", optimizer=optimizer, every_n_steps=1, shadow=True, train_step=train_step
    )
    data = batches(4)
    for batch in data:
        train_step(model, optimizer, batch)
        # Calls the function again, which calls the tracker.
        run.step(batch=batch)
    assert dict(run.finish().warnings) == {}
    assert len(ss.open(tmp_path / "s").run("a").logged("inner").values) == 4


def test_first_rows_of_a_stride_that_was_asked_for_wait_for_the_run(tmp_path: Path) -> None:
    # The ring holds four rows of this size, and nothing waits between the steps.
    model = nn.Linear(1000, 3000, bias=False)
    run = track(model, name="a", store=tmp_path / "s", every_n_steps=1, config={"not text": Unreadable()})
    for _ in range(7):
        run.step()
    run.finish()
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist()[:6] == [1, 2, 3, 4, 5, 6]
    assert stored.setting["config"] == {"not text": "<Unreadable>"}


class Unreadable:
    """An object that has no text."""

    def __str__(self) -> str:
        raise ValueError
