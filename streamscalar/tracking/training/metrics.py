"""Newest values of the metrics, which are read only when a row is recorded."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from streamscalar.missing import MISSING
from streamscalar.tracking.notices import Notices


class Metrics:
    """Holds the newest value of each metric since the last row.

    The names are fixed at the first row, and kept as given. A value is that of the time of the call: a tensor on the
    CPU is read, one on a device is copied there, and read with the copy of the row.

    Parameters
    ----------
    declared
        Names that are known at the start.
    n_replicas
        Values per metric: the training reports that of the reference, and the others are NaN.
    notices
        Receives names that come too late and values that are not numbers.
    """

    def __init__(self, declared: Iterable[str], n_replicas: int, notices: Notices) -> None:
        self._declared = tuple(declared)
        self._n_replicas = n_replicas
        self._notices = notices
        self._newest: dict[str, object] = {}
        self._late: dict[str, object] = {}
        self._others: dict[str, Sequence[object]] = {}
        self.names: tuple[str, ...] = ()

    def update(self, values: Mapping[str, object]) -> None:
        """Store the values of one step."""
        for name, value in values.items():
            self._newest[name] = _now(value)

    def update_late(self, values: Mapping[str, object]) -> None:
        """Store values for the row that was recorded last."""
        for name, value in values.items():
            self._late[name] = _now(value)

    def take_late(self) -> NDArray[np.float64]:
        """Return the values for the row that was recorded last, shape (names, R), and clear them; reads devices."""
        values = np.full((len(self.names), self._n_replicas), MISSING)
        for name, value in self._late.items():
            if self._is_known(name):
                self._put(values, name, 0, value)
        self._late.clear()
        return values

    def offer(self, values: Mapping[str, object]) -> None:
        """Store values of names that are known, where the training reported none."""
        self.update({k: v for k, v in values.items() if k in self.names and v is not None and k not in self._newest})

    def update_others(self, name: str, values: Sequence[object]) -> None:
        """Store the values of the replicas after the reference."""
        self._others[name] = values

    def fix(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Fix the names, by default all that occurred so far; return them."""
        seen = (*self._declared, *self.names, *self._newest) if names is None else names
        self.names = tuple(dict.fromkeys(seen))
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
            if replica and name not in self.names:
                continue
            if not self._is_known(name):
                continue
            if isinstance(value, Tensor) and value.is_cuda and value.numel() == 1:
                places.append((self.names.index(name), replica))
                tensors.append(value.reshape(()))
            else:
                self._put(values, name, replica, value)
        self._newest.clear()
        self._others.clear()
        return values, places, tensors

    def _is_known(self, name: str) -> bool:
        """Return whether a metric has a place in the rows; warn where it has none."""
        if name in self.names:
            return True
        text = f"metric {name} first occurred after the first row and is not stored; use track(metrics=[...])"
        self._notices.warn(f"late metric {name}", text)
        return False

    def _put(self, values: NDArray[np.float64], name: str, replica: int, value: object) -> None:
        try:
            values[self.names.index(name), replica] = float(value)  # type: ignore[arg-type]  # may raise
        except Exception as error:  # noqa: BLE001  (a value may be an object of the user)
            text = f"metric {name} must be one number that fits 64 bits; got {type(value).__name__}"
            self._notices.warn(f"metric {name}", f"{text} ({type(error).__name__})")

    def _all(self) -> list[tuple[str, int, object]]:
        own = [(name, 0, value) for name, value in self._newest.items()]
        return own + [(name, j + 1, value) for name, values in self._others.items() for j, value in enumerate(values)]


def _now(value: object) -> object:
    """Return a value that later changes of a tensor or array do not reach; without its graph."""
    if type(value) is float or not isinstance(value, Tensor | np.ndarray):
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if value.numel() != 1:
        return value.detach()
    return value.detach().clone() if value.is_cuda else value.item()


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """Return one-element tensors of one device as a vector, float64."""
    return torch.stack([tensor.to(torch.float64) for tensor in tensors])


def learning_rates(optimizer: Optimizer) -> dict[str, object]:
    """Return the learning rate of each group of parameters as a metric."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return {f"learning_rate/{index}" if index else "learning_rate": rate for index, rate in enumerate(rates)}
