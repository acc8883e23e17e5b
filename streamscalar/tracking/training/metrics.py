"""Values of the metrics: all of them for the worker, and the newest ones for the next row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from streamscalar.missing import MISSING
from streamscalar.tracking.channel.ring import MOST_ROW_METRICS
from streamscalar.tracking.channel.values import ValueRing
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.device_values import DeviceValues

FIRST = ("loss", "accuracy")
"""Metrics of which rows carry a value whatever others there are: the analysis of a live run reads them."""


class Metrics:
    """Hands every value to the worker, and holds the newest value of each metric since the last row.

    Names are kept as given. A value is that of the time of the call: a tensor on the CPU is read, one on a device is
    copied there, and read later. The names of the rows are fixed when the run begins.

    Parameters
    ----------
    declared
        Names that rows carry from the start.
    n_replicas
        Values per metric of a row: the training reports that of the reference.
    notices
        Receives values that are not numbers, or find no room.
    values
        Takes every value.
    """

    def __init__(self, declared: Iterable[str], n_replicas: int, notices: Notices, values: ValueRing) -> None:
        self._declared = tuple(declared)
        self._n_replicas = n_replicas
        self._notices = notices
        self._values = values
        self._on_device = DeviceValues(self._put)
        self._newest: dict[str, float | Tensor] = {}
        self._late: dict[str, float | Tensor] = {}
        self._others: dict[str, Sequence[float | Tensor]] = {}
        self._places: dict[str, int] = {}
        self.names: tuple[str, ...] = ()

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Take values that concern no row."""
        for name, value in values.items():
            self._take(step, name, 0, value)

    def update(self, step: int, values: Mapping[str, object]) -> None:
        """Take the values of a step, also for the next row."""
        put, newest = self._values.put, self._newest
        for name, value in values.items():
            # Most values are floats: this way they take a third of the time less.
            if type(value) is not float:
                newest[name] = self._take(step, name, 0, value)
                continue
            newest[name] = value
            if not put(step, name, 0, value):
                self._warn_full()

    def update_late(self, step: int, values: Mapping[str, object]) -> None:
        """Take values, also for the row that was recorded last."""
        for name, value in values.items():
            self._late[name] = self._take(step, name, 0, value)

    def offer(self, step: int, values: Mapping[str, object]) -> None:
        """Take values of metrics for which the training reported none since the last row."""
        self.update(step, {k: v for k, v in values.items() if v is not None and k not in self._newest})

    def update_others(self, step: int, name: str, values: Sequence[object]) -> None:
        """Take the values of the replicas after the reference, also for the next row."""
        self._others[name] = [self._take(step, name, index + 1, value) for index, value in enumerate(values)]

    def take_late(self) -> NDArray[np.float64]:
        """Return the values for the row that was recorded last, shape (names, R), and clear them; reads devices."""
        values = np.full((len(self.names), self._n_replicas), MISSING)
        for name, value in self._late.items():
            if name in self._places:
                values[self._places[name], 0] = float(value)
        self._late.clear()
        return values

    def fix(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Fix the names of the rows, by default those that occurred so far; return them."""
        if names is None:
            seen = list(dict.fromkeys([*self._declared, *self.names, *self._newest]))
            kept = sorted(seen, key=lambda name: name not in FIRST)[:MOST_ROW_METRICS]
            names = [name for name in seen if name in kept]
        self.names = tuple(names)[:MOST_ROW_METRICS]
        self._places = {name: index for index, name in enumerate(self.names)}
        return self.names

    def take(self) -> tuple[NDArray[np.float64], list[tuple[int, int]], list[Tensor]]:
        """Return the newest values since the last row, and clear them.

        Returns
        -------
        values
            Shape (names, R), `MISSING` where no value was reported, or it is still on a device.
        places
            Index of the name, and replica, of each value that is still on a device.
        tensors
            Those values, each of one element.
        """
        values = np.full((len(self.names), self._n_replicas), MISSING)
        places, tensors = [], []
        for name, replica, value in self._all():
            place = self._places.get(name)
            if place is None:
                continue
            if isinstance(value, Tensor):
                places.append((place, replica))
                tensors.append(value)
            else:
                values[place, replica] = value
        self._newest.clear()
        self._others.clear()
        return values, places, tensors

    def send(self, *, wait: bool = False) -> None:
        """Hand over the values on devices whose copies are complete; with `wait`, wait for all of them."""
        self._on_device.send(wait=wait)

    def _take(self, step: int, name: str, replica: int, value: object) -> float | Tensor:
        """Hand a value over; return what a row holds of it: `MISSING` for what is no number."""
        if type(value) is not float:
            if isinstance(value, Tensor) and value.numel() == 1 and value.is_cuda:
                # Cloned, as a later step may change it; without its graph.
                copied = value.detach().clone().reshape(())
                self._on_device.add(step, name, replica, copied)
                return copied
            number = self._number(name, value)
            if number is None:
                return MISSING
            value = number
        self._put(step, name, replica, value)
        return value

    def _put(self, step: int, name: str, replica: int, value: float) -> None:
        if not self._values.put(step, name, replica, value):
            self._warn_full()

    def _warn_full(self) -> None:
        text = "values of metrics are dropped: they are reported faster than stored, or have too many names"
        self._notices.warn("values", text)

    def _number(self, name: str, value: object) -> float | None:
        try:
            # `float` of an array of one element is deprecated in NumPy.
            return float(value.item() if isinstance(value, Tensor | np.ndarray) else value)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001  (a value may be an object of the user)
            text = f"metric {name} must be one number that fits 64 bits; got {type(value).__name__}"
            self._notices.warn(f"metric {name}", f"{text} ({type(error).__name__})")
            return None

    def _all(self) -> list[tuple[str, int, float | Tensor]]:
        own = [(name, 0, value) for name, value in self._newest.items()]
        return own + [(name, j + 1, value) for name, values in self._others.items() for j, value in enumerate(values)]


def learning_rates(optimizer: Optimizer) -> dict[str, object]:
    """Return the learning rate of each group of parameters as a metric."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return {f"learning_rate/{index}" if index else "learning_rate": rate for index, rate in enumerate(rates)}


def nominal_learning_rate(config: Mapping[str, Any] | None, optimizer: Optimizer | None) -> float | None:
    """Return the nominal learning rate: from `config`, else from the optimizer; `None` if neither has one.

    A scheduler that warms up has lowered the rate of the optimizer already; it keeps the nominal one.
    """
    candidates = [(config or {}).get("learning_rate"), (config or {}).get("lr")]
    if optimizer is not None:
        group = optimizer.param_groups[0]
        candidates += [group.get("initial_lr"), group.get("lr")]
    for candidate in candidates:
        if candidate is None or isinstance(candidate, bool):
            continue
        try:
            # Numbers of NumPy and torch, and text from a command line.
            rate = float(candidate)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            continue
        if math.isfinite(rate) and rate > 0:
            return rate
    return None


def checked_step(step: object) -> int:
    """Return the number of a step."""
    number: int = int(step)  # type: ignore[call-overload]  # may raise
    if not 0 <= number < 2**63:
        raise ValueError(f"a step must be at least 0; got {number}")
    return number
