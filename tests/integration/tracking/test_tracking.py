"""`ss.track` on real trainings, with its real worker process and a real store."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer

import streamscalar as ss
from streamscalar.errors import BadCall
from streamscalar.store import Store
from streamscalar.tracking import Summary, Tracker, TrackingWarning, track

Batch = tuple[Tensor, Tensor]


def mlp(dtype: torch.dtype = torch.float32, dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(7)
    layers = [nn.Linear(12, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 3)]
    return nn.Sequential(*layers).to(dtype)


def batches(n: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(16, 12, generator=generator).to(dtype), torch.randint(0, 3, (16,), generator=generator))
        for _ in range(n)
    ]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def flat(model: nn.Module) -> np.ndarray[Any, Any]:
    wide = torch.float64 if any(p.dtype == torch.float64 for p in model.parameters()) else torch.float32
    parts = [p.detach().reshape(-1).to(wide) for p in model.parameters() if p.requires_grad]
    return np.asarray(torch.cat(parts))


def patient(run: Tracker) -> None:
    """Wait until the worker has room, so that a test knows which rows there are."""
    until = time.monotonic() + 60
    while not run._link.free_slots() and time.monotonic() < until:
        time.sleep(0.002)


def train(
    model: nn.Module,
    optimizer: Optimizer,
    data: list[Batch],
    run: Tracker | None = None,
    first: int | None = None,
    *,
    passes_batch: bool = False,
    schedule: Callable[[], object] = lambda: None,
) -> dict[int, np.ndarray[Any, Any]]:
    """Train; return the weights after each step, by step."""
    seen = {}
    for index, batch in enumerate(data):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        schedule()
        step = index + (1 if first is None else first)
        if run is not None:
            patient(run)
            run.step(step=None if first is None else step, batch=batch if passes_batch else None, loss=loss)
        seen[step] = flat(model)
    return seen


@contextmanager
def silence() -> Iterator[list[warnings.WarningMessage]]:
    """Collect warnings instead of raising them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def test_stored_rows_have_the_bits_of_the_model(tmp_path: Path) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with track(model, name="a", group="g", store=tmp_path / "s", every_n_steps=3, config={"lr": 0.1}) as run:
        seen = train(model, optimizer, batches(20), run)
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == list(range(1, 20, 3))
    for step in stored.steps().tolist():
        np.testing.assert_array_equal(stored.weights(step)[0].view(np.uint32), seen[step].view(np.uint32))
    assert stored.is_complete
    assert stored.setting["learning_rate"] == 0.1
    assert (stored.setting["is_tracked"], stored.setting["epsilon"]) == (True, None)
    assert len(stored.embedding().values) == 7
    assert stored.exact_info()["residual"] < 1e-6
    status = Store.open(tmp_path / "s").status("a")
    assert (status["phase"], status["recorded"], status["skipped"], status["dropped"]) == ("done", 7, 13, 0)
    summary = run.summary()
    assert str(summary).startswith("run a: recorded 7 of 20 steps (every 3rd at the end)")
    assert summary.warnings == {}


@pytest.mark.parametrize("companion", [{}, {"shadow": 2}, {"tangent": True}, {"shadow": True, "tangent": True}])
def test_training_is_bit_identical_to_an_untracked_one(tmp_path: Path, companion: dict[str, Any]) -> None:
    results = []
    for is_tracked in (False, True):
        model = mlp()
        optimizer = SGD(model.parameters(), lr=0.3, momentum=0.9)
        run = None
        if is_tracked:
            run = track(model, store=tmp_path / "s", optimizer=optimizer, loss_fn=loss_of, **companion)
        torch.manual_seed(11)
        # The training draws between its update and step(), as a loader or augmentation may.
        seen = train(model, optimizer, batches(25), run, passes_batch=True, schedule=lambda: torch.rand(3))
        if run is not None:
            assert run.finish().warnings == {}
            if "tangent" in companion:
                growth = ss.open(tmp_path / "s").run("run").metrics("tangent_1").values[:, 0]
                # Nothing is stretched before the first row.
                assert growth[0] == 0.0
                assert np.isfinite(growth).all()
            # Nothing is left on the model and its optimiser.
            assert not model._forward_pre_hooks
            assert not optimizer._optimizer_step_pre_hooks
        results.append((seen, torch.get_rng_state()))
    for step, weights in results[0][0].items():
        assert weights.tobytes() == results[1][0][step].tobytes(), step
    assert torch.equal(results[0][1], results[1][1])


def test_bfloat16_frozen_and_tied_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mlp(torch.bfloat16, dropout=0.0)
    model.get_parameter("0.bias").requires_grad = False
    model.append(nn.Linear(9, 3, dtype=torch.bfloat16))
    model[4].weight = model[3].weight
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    data = batches(4, torch.bfloat16)

    with track(model, name="a", store=tmp_path / "s", every_n_steps=1) as run:
        for batch in data:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model[3](model[2](model[1](model[0](batch[0])))), batch[1])
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            patient(run)
            run.step(loss=loss)
    stored = ss.open(tmp_path / "s").run("a")
    assert [layer.name for layer in stored.layout.layers] == ["0.weight", "3.weight", "3.bias", "4.bias"]
    assert stored.setting["frozen"] == ["0.bias"]
    assert stored.setting["tied"] == {"4.weight": "3.weight"}
    assert set(stored.setting["parameter_dtypes"].values()) == {"bfloat16"}
    back = torch.from_numpy(stored.weights(4)[0].copy()).bfloat16()
    assert torch.equal(back.float(), torch.from_numpy(flat(model)))


def test_not_finite_weights_and_metrics_are_recorded_as_they_are(tmp_path: Path) -> None:
    model = nn.Linear(3, 3)
    with track(model, name="a", store=tmp_path / "s", every_n_steps=1) as run:
        run.step(loss=1.0)
        with torch.no_grad():
            model.weight[0, 0] = float("nan")
            model.weight[0, 1] = float("-inf")
        patient(run)
        run.step(loss=float("inf"))
    stored = ss.open(tmp_path / "s").run("a")
    assert np.isnan(stored.weights(2)[0, 0])
    assert stored.weights(2)[0, 1] == -np.inf
    assert stored.metrics("loss").values[:, 0].tolist() == [1.0, np.inf]


def test_the_budget_keeps_the_overhead_it_reports(tmp_path: Path) -> None:
    model = mlp()
    with track(model, name="a", store=tmp_path / "s", max_overhead=0.05) as run:
        for _ in range(400):
            time.sleep(0.001)
            run.step(loss=0.0)
    summary = run.summary()
    assert isinstance(summary, Summary)
    assert summary.n_steps == 400
    assert 1 <= summary.n_recorded < 400
    assert 0 < summary.overhead < 0.06


def test_a_taken_name_gets_a_number_and_resuming_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "s"
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run = track(model, name="a", store=store, every_n_steps=1)
    first = train(model, optimizer, batches(3), run)
    run._end("stopped by the test")
    assert Store.open(store).status("a")["phase"] == "failed"
    with pytest.warns(TrackingWarning, match="run a exists; this one is a-2"):
        other = track(model, name="a", store=store)
    assert other.run_id == "a-2"
    other.finish()
    with pytest.raises(BadCall, match=r"must be a run of .* to resume"):
        track(model, name="b", store=store, resume="must")
    again = track(model, name="a", store=store, resume="must", every_n_steps=1)
    second = train(model, optimizer, batches(2), again)
    assert again.finish().warnings == {}
    stored = ss.open(store).run("a")
    assert stored.steps().tolist() == [1, 2, 3, 4, 5]
    assert stored.is_complete
    expected = [*first.values(), *second.values()]
    for step, weights in enumerate(expected, 1):
        assert stored.weights(step)[0].tobytes() == weights.tobytes()
    assert ss.open(store).store.run_ids() == ["a"]


def test_going_back_begins_a_child(tmp_path: Path) -> None:
    store = tmp_path / "s"
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    run = track(model, name="a", store=store, every_n_steps=1)
    train(model, optimizer, batches(6), run, first=1)
    # The same step twice is one step, not a way back.
    run.step(step=6, loss=0.0)
    with silence() as caught:
        child = train(model, optimizer, batches(3), run, first=4)
        until = time.monotonic() + 30
        while run.run_id == "a" and time.monotonic() < until:
            time.sleep(0.01)
            run._link.receive()
        grandchild = train(model, optimizer, batches(2), run, first=2)
        run.finish()
    assert ["has a child, a-2" in str(w.message) for w in caught] == [True]
    experiment = ss.open(store)
    assert experiment.store.run_ids() == ["a", "a-2", "a-3"]
    assert experiment.run("a").steps().tolist() == [1, 2, 3, 4, 5, 6]
    for name, parent, rows in (("a-2", ("a", 3), child), ("a-3", ("a-2", 1), grandchild)):
        reader = experiment.store.reader(name)
        assert reader.spec.parent == parent
        assert reader.steps().tolist() == list(rows)
        assert reader.weights()[:, 0].tobytes() == np.stack(list(rows.values())).tobytes()
    assert all(stored.is_complete and stored.exact_info() for stored in experiment.runs.values())


def test_a_finished_run_is_resumed_as_its_child(tmp_path: Path) -> None:
    store = tmp_path / "s"
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with track(model, name="a", store=store, every_n_steps=1) as run:
        train(model, optimizer, batches(3), run)
    with pytest.warns(TrackingWarning, match="a is finished: recording continues in a child run"):
        again = track(model, name="a", store=store, every_n_steps=1, resume="allow")
    with silence():
        train(model, optimizer, batches(2), again)
        again.finish()
    reader = Store.open(store).reader("a-2")
    assert (reader.spec.parent, reader.steps().tolist()) == (("a", 3), [4, 5])


def test_a_resumed_run_needs_the_same_parameters_and_the_group_the_same_shape(tmp_path: Path) -> None:
    model = mlp()
    run = track(model, name="a", store=tmp_path / "s")
    run.step()
    run._end("stopped by the test")
    with pytest.raises(BadCall, match="model: must have the parameters"):
        track(nn.Linear(3, 3), name="a", store=tmp_path / "s", resume="allow")
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadCall, match="Choose another group"):
        track(model, store=tmp_path / "s", optimizer=optimizer, loss_fn=loss_of, shadow=True)
    assert not model._forward_pre_hooks
