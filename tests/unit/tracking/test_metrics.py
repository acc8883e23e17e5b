"""Metrics: newest values, fixed names, one number each."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch

from streamscalar.missing import is_missing
from streamscalar.tracking.notices import Notices, TrackingWarning
from streamscalar.tracking.training.metrics import Metrics, gather


def _values(metrics: Metrics) -> dict[str, list[float]]:
    values, _, _ = metrics.take()
    return dict(zip(metrics.names, values.tolist(), strict=True))


def test_the_newest_value_since_the_last_row_counts() -> None:
    metrics = Metrics(("accuracy",), 1, Notices())
    metrics.update({"loss": torch.tensor(3.0)})
    assert metrics.fix() == ("accuracy", "loss")
    found = _values(metrics)
    assert found["loss"] == [3.0]
    assert math.isnan(found["accuracy"][0])
    metrics.update({"loss": 2, "accuracy": np.float32(0.5)})
    metrics.update({"loss": torch.tensor([1.5], dtype=torch.bfloat16)})
    assert _values(metrics) == {"accuracy": [0.5], "loss": [1.5]}
    assert all(math.isnan(value[0]) for value in _values(metrics).values())


def test_values_of_the_shadows_stand_beside_the_reference() -> None:
    metrics = Metrics((), 3, Notices())
    metrics.update({"loss": 1.0})
    metrics.update_others("loss", [torch.tensor(2.0), torch.tensor(math.inf)])
    metrics.fix()
    assert _values(metrics) == {"loss": [1.0, 2.0, math.inf]}


def test_a_name_that_comes_late_is_told_once_and_counted() -> None:
    notices = Notices()
    metrics = Metrics((), 1, notices)
    metrics.update({"loss": 1.0})
    metrics.fix()
    metrics.take()
    metrics.update({"loss": 1.0, "speed": 2.0})
    with pytest.warns(TrackingWarning, match="first occurred after the first row"):
        metrics.take()
    for _ in range(2):
        metrics.update({"loss": 1.0, "speed": 2.0})
        metrics.take()
    assert notices.counts == {"late metric speed": 3}


def test_what_is_no_number_is_nan_and_told() -> None:
    metrics = Metrics((), 1, Notices())
    metrics.update({"a": "words", "b": torch.zeros(2), "c": object(), "d": True})
    metrics.fix()
    with pytest.warns(TrackingWarning, match="must be one number") as caught:
        found = _values(metrics)
    assert len(caught) == 3
    assert found["d"] == [1.0]
    assert all(math.isnan(found[name][0]) for name in "abc")


def test_values_are_those_of_the_time_of_the_call() -> None:
    metrics = Metrics((), 1, Notices())
    total, array = torch.zeros(()), np.zeros(())
    total += 7.0
    array += 3.0
    metrics.update({"total": total, "array": array})
    total.zero_()
    array[...] = 0.0
    metrics.fix()
    assert _values(metrics) == {"total": [7.0], "array": [3.0]}


def test_not_reported_is_not_nan() -> None:
    metrics = Metrics(("never", "nan"), 2, Notices())
    metrics.update({"nan": math.nan})
    metrics.fix()
    values, _, _ = metrics.take()
    assert is_missing(values).tolist() == [[True, True], [False, True]]
    assert np.isnan(values).all()


@pytest.mark.parametrize("name", ["train/loss", "train_loss", "", "训练", "zarr.json", "x" * 300, "../x"])
def test_names_are_kept_as_given(name: str) -> None:
    metrics = Metrics((), 1, Notices())
    metrics.update({name: 1.0, "train_loss": 2.0})
    assert set(metrics.fix()) == {name, "train_loss"}


def test_a_value_that_is_odd_costs_itself_alone() -> None:
    notices = Notices()
    metrics = Metrics((), 1, notices)

    class Odd:
        def __float__(self) -> float:
            raise KeyError("odd")

    metrics.update({"huge": 10**400, "odd": Odd(), "none": None, "fine": 1.0})
    metrics.fix()
    with pytest.warns(TrackingWarning):
        found = _values(metrics)
    assert found["fine"] == [1.0]
    assert set(notices.counts) == {"metric huge", "metric odd", "metric none"}


def test_values_that_come_after_a_row_are_taken_by_themselves() -> None:
    metrics = Metrics(("val",), 2, Notices())
    metrics.update({"loss": 1.0})
    metrics.fix()
    metrics.take()
    metrics.update_late({"val": torch.tensor(4.0)})
    late = metrics.take_late()
    assert late[0, 0] == 4.0
    assert is_missing(late).tolist() == [[False, True], [True, True]]
    assert is_missing(metrics.take_late()).all()


def test_a_learning_rate_is_offered_where_the_training_reports_none() -> None:
    metrics = Metrics(("learning_rate",), 1, Notices())
    metrics.fix()
    metrics.update({"learning_rate": 5.0})
    metrics.offer({"learning_rate": 0.1, "learning_rate/1": 0.2})
    assert _values(metrics) == {"learning_rate": [5.0]}
    metrics.offer({"learning_rate": 0.1})
    assert _values(metrics) == {"learning_rate": [0.1]}


def test_a_tensor_is_held_without_its_graph() -> None:
    metrics = Metrics((), 1, Notices())
    weight = torch.ones(3, requires_grad=True)
    hidden = weight * 2
    gone = weakref.ref(hidden)
    metrics.update({"loss": hidden.sum()})
    del hidden
    gc.collect()
    assert gone() is None
    metrics.fix()
    assert _values(metrics) == {"loss": [6.0]}


def test_a_child_run_keeps_all_names() -> None:
    metrics = Metrics(("tangent_1",), 1, Notices())
    metrics.update({"loss": 1.0})
    metrics.fix()
    metrics.take()
    metrics.update({"accuracy": 1.0})
    assert metrics.fix() == ("tangent_1", "loss", "accuracy")


def test_gathered_scalars_are_float64() -> None:
    assert gather([torch.tensor(0.1), torch.tensor(2, dtype=torch.int64)]).tolist() == [np.float32(0.1), 2.0]


def test_warnings_made_errors_do_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    # The suite makes warnings errors.
    Notices().warn("kind", "a sentence")
    assert "a sentence" in caplog.text
