"""Metrics: newest values, fixed names, one number each."""

import gc
import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from streamscalar.missing import is_missing
from streamscalar.tracking.channel.ring import MOST_ROW_METRICS, Ring
from streamscalar.tracking.channel.values import ValueRing
from streamscalar.tracking.notices import Notices, TrackingWarning
from streamscalar.tracking.training.device_values import gather
from streamscalar.tracking.training.metrics import Metrics
from streamscalar.types import Layer, Layout

LAYOUT = Layout((Layer("weight", 0, (2,)),), "float32", 0, has_control=False)


@pytest.fixture
def values() -> Iterator[ValueRing]:
    """Return the ring of a run that the worker writes."""
    ring = Ring.create(LAYOUT)
    ring.values.begin(1, 0)
    yield ring.values
    ring.close()


def _logged(values: ValueRing) -> list[tuple[str, int, int, float]]:
    """Return name, replica, step and value of all that was handed over."""
    _, entries = values.waiting()
    series = values.series()
    return [(*series[entry["which"]], int(entry["step"]), float(entry["value"])) for entry in entries]


def _values(metrics: Metrics) -> dict[str, list[float]]:
    row, _, _ = metrics.take()
    return dict(zip(metrics.names, row.tolist(), strict=True))


def test_the_newest_value_since_the_last_row_counts(values: ValueRing) -> None:
    metrics = Metrics(("accuracy",), 1, Notices(), values)
    metrics.update(1, {"loss": torch.tensor(3.0)})
    assert metrics.fix() == ("accuracy", "loss")
    found = _values(metrics)
    assert found["loss"] == [3.0]
    assert math.isnan(found["accuracy"][0])
    metrics.update(1, {"loss": 2, "accuracy": np.float32(0.5)})
    metrics.update(1, {"loss": torch.tensor([1.5], dtype=torch.bfloat16)})
    assert _values(metrics) == {"accuracy": [0.5], "loss": [1.5]}
    assert all(math.isnan(value[0]) for value in _values(metrics).values())


def test_values_of_the_shadows_stand_beside_the_reference(values: ValueRing) -> None:
    metrics = Metrics((), 3, Notices(), values)
    metrics.update(1, {"loss": 1.0})
    metrics.update_others(1, "loss", [torch.tensor(2.0), torch.tensor(math.inf)])
    metrics.fix()
    assert _values(metrics) == {"loss": [1.0, 2.0, math.inf]}


def test_every_value_is_handed_over_with_its_step(values: ValueRing) -> None:
    metrics = Metrics((), 2, Notices(), values)
    metrics.update(3, {"loss": 1.0})
    metrics.fix()
    metrics.update(4, {"loss": torch.tensor(2.0), "late": np.ones(1), "": True})
    metrics.update_others(4, "loss", [5])
    assert _values(metrics) == {"loss": [2.0, 5.0]}
    metrics.update_late(4, {"late": 7})
    metrics.log(2**40, {"late": 2**70})
    assert is_missing(metrics.take_late()).all()
    assert _logged(values) == [
        ("loss", 0, 3, 1.0),
        ("loss", 0, 4, 2.0),
        ("late", 0, 4, 1.0),
        ("", 0, 4, 1.0),
        ("loss", 1, 4, 5.0),
        ("late", 0, 4, 7.0),
        ("late", 0, 2**40, 2.0**70),
    ]


def test_rows_carry_few_of_many_metrics_and_those_that_the_analysis_reads(values: ValueRing) -> None:
    metrics = Metrics(("tangent_1",), 1, Notices(), values)
    metrics.update(1, {f"m{index}": 1.0 for index in range(100)} | {"accuracy": 0.5, "loss": 2.0})
    names = metrics.fix()
    assert len(names) == MOST_ROW_METRICS
    assert (names[:2], names[-2:]) == (("tangent_1", "m0"), ("accuracy", "loss"))
    assert len(_logged(values)) == 102


def test_what_finds_no_room_is_dropped_told_once_and_counted(values: ValueRing) -> None:
    notices = Notices()
    metrics = Metrics((), 1, notices, values)
    n = values.n_values
    for step in range(n):
        metrics.log(step, {"loss": 1.0})
    with pytest.warns(TrackingWarning, match="values of metrics are dropped"):
        metrics.log(n, {"loss": 2.0})
    metrics.log(n, {"loss": 2.0})
    assert (values.n_dropped, values.n_sent, notices.counts["values"]) == (2, n, 2)
    values.take(10)
    metrics.log(n + 1, {"loss": 3.0})
    first, entries = values.waiting()
    assert (first, len(entries), entries["step"][0], entries["step"][-1], entries["value"][-1]) == (
        10,
        n - 9,
        10,
        n + 1,
        3,
    )


def test_what_is_no_number_is_nan_and_told(values: ValueRing) -> None:
    metrics = Metrics((), 1, Notices(), values)
    with pytest.warns(TrackingWarning, match="must be one number") as caught:
        metrics.update(1, {"a": "words", "b": torch.zeros(2), "c": object(), "d": True})
    metrics.fix()
    found = _values(metrics)
    assert len(caught) == 3
    assert found["d"] == [1.0]
    assert _logged(values) == [("d", 0, 1, 1.0)]
    assert all(math.isnan(found[name][0]) for name in "abc")


def test_values_are_those_of_the_time_of_the_call(values: ValueRing) -> None:
    metrics = Metrics((), 1, Notices(), values)
    total, array = torch.zeros(()), np.zeros(())
    total += 7.0
    array += 3.0
    metrics.update(1, {"total": total, "array": array})
    total.zero_()
    array[...] = 0.0
    metrics.fix()
    assert _values(metrics) == {"total": [7.0], "array": [3.0]}


def test_not_reported_is_not_nan(values: ValueRing) -> None:
    metrics = Metrics(("never", "nan"), 2, Notices(), values)
    metrics.update(1, {"nan": math.nan})
    metrics.fix()
    row, _, _ = metrics.take()
    assert is_missing(row).tolist() == [[True, True], [False, True]]
    assert np.isnan(row).all()


@pytest.mark.parametrize("name", ["train/loss", "train_loss", "", "训练", "zarr.json", "x" * 300, "../x"])
def test_names_are_kept_as_given(values: ValueRing, name: str) -> None:
    metrics = Metrics((), 1, Notices(), values)
    metrics.update(1, {name: 1.0, "train_loss": 2.0})
    assert set(metrics.fix()) == {name, "train_loss"}


def test_a_value_that_is_odd_costs_itself_alone(values: ValueRing) -> None:
    notices = Notices()
    metrics = Metrics((), 1, notices, values)

    class Odd:
        def __float__(self) -> float:
            raise KeyError("odd")

    with pytest.warns(TrackingWarning):
        metrics.update(1, {"huge": 10**400, "odd": Odd(), "none": None, "fine": 1.0})
    metrics.fix()
    found = _values(metrics)
    assert found["fine"] == [1.0]
    assert set(notices.counts) == {"metric huge", "metric odd", "metric none"}
    assert _logged(values) == [("fine", 0, 1, 1.0)]


def test_values_that_come_after_a_row_are_taken_by_themselves(values: ValueRing) -> None:
    metrics = Metrics(("val",), 2, Notices(), values)
    metrics.update(1, {"loss": 1.0})
    metrics.fix()
    metrics.take()
    metrics.update_late(1, {"val": torch.tensor(4.0)})
    late = metrics.take_late()
    assert late[0, 0] == 4.0
    assert is_missing(late).tolist() == [[False, True], [True, True]]
    assert is_missing(metrics.take_late()).all()


def test_a_learning_rate_is_offered_where_the_training_reports_none(values: ValueRing) -> None:
    metrics = Metrics(("learning_rate",), 1, Notices(), values)
    metrics.fix()
    metrics.update(1, {"learning_rate": 5.0})
    metrics.offer(1, {"learning_rate": 0.1, "learning_rate/1": 0.2})
    assert _values(metrics) == {"learning_rate": [5.0]}
    metrics.offer(1, {"learning_rate": 0.1})
    assert _values(metrics) == {"learning_rate": [0.1]}


def test_a_tensor_is_held_without_its_graph(values: ValueRing) -> None:
    metrics = Metrics((), 1, Notices(), values)
    weight = torch.ones(3, requires_grad=True)
    hidden = weight * 2
    gone = weakref.ref(hidden)
    metrics.update(1, {"loss": hidden.sum()})
    del hidden
    gc.collect()
    assert gone() is None
    metrics.fix()
    assert _values(metrics) == {"loss": [6.0]}


def test_a_child_run_keeps_all_names(values: ValueRing) -> None:
    metrics = Metrics(("tangent_1",), 1, Notices(), values)
    metrics.update(1, {"loss": 1.0})
    metrics.fix()
    metrics.take()
    metrics.update(1, {"accuracy": 1.0})
    assert metrics.fix() == ("tangent_1", "loss", "accuracy")


def test_gathered_scalars_are_float64(values: ValueRing) -> None:
    assert gather([torch.tensor(0.1), torch.tensor(2, dtype=torch.int64)]).tolist() == [np.float32(0.1), 2.0]


def test_warnings_made_errors_do_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    # The suite makes warnings errors.
    Notices().warn("kind", "a sentence")
    assert "a sentence" in caplog.text
