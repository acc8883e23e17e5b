"""Newest values of the metrics, which are read only when a row is recorded."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.tracking.notices import Notices


class Metrics:
    """Holds the newest value of each metric since the last row.

    The names are fixed at the first row. A tensor is kept without its graph and read when a row is recorded:
    immediately if it is on the CPU, with the copy of the row if it is on a device.

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
        self._others: dict[str, Sequence[object]] = {}
        self.names: tuple[str, ...] = ()

    def update(self, values: Mapping[str, object]) -> None:
        """Store the values of one step."""
        for name, value in values.items():
            self._newest[name] = value.detach() if isinstance(value, Tensor) else value

    def update_others(self, name: str, values: Sequence[object]) -> None:
        """Store the values of the replicas after the reference."""
        self._others[name] = values

    def fix(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Fix the names, by default all that occurred so far; return them as they are stored."""
        seen = (*self._declared, *self.names, *self._newest) if names is None else names
        self.names = tuple(dict.fromkeys(stored_name(name) for name in seen))
        return self.names

    def take(self) -> tuple[NDArray[np.float64], list[tuple[int, int]], list[Tensor]]:
        """Return the newest values since the last row, and clear them.

        Returns
        -------
        values
            Shape (names, R), NaN where there is none, or none yet.
        places
            Index of the name, and replica, of each value that is still on a device.
        tensors
            Those values, each of one element.
        """
        values = np.full((len(self.names), self._n_replicas), np.nan)
        places, tensors = [], []
        for name, replica, value in self._all():
            stored = stored_name(name)
            if stored not in self.names:
                if replica:
                    continue
                text = f"metric {name} first occurred after the first row and is not stored; use track(metrics=[...])"
                self._notices.warn(f"late metric {stored}", text)
                continue
            index = self.names.index(stored)
            try:
                if isinstance(value, Tensor) and value.is_cuda and value.numel() == 1:
                    places.append((index, replica))
                    tensors.append(value.reshape(()))
                else:
                    values[index, replica] = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, RuntimeError):
                self._notices.warn(f"metric {stored}", f"metric {name} must be one number; got {type(value).__name__}")
        self._newest.clear()
        self._others.clear()
        return values, places, tensors

    def _all(self) -> list[tuple[str, int, object]]:
        own = [(name, 0, value) for name, value in self._newest.items()]
        return own + [(name, j + 1, value) for name, values in self._others.items() for j, value in enumerate(values)]


def stored_name(name: str) -> str:
    """Return the name of a metric with characters replaced that a folder name may not have.

    Examples
    --------
    >>> stored_name("train/loss"), stored_name("../x")
    ('train_loss', '_._x')
    """
    return re.sub(r"^[^A-Za-z0-9_]|[^A-Za-z0-9_.-]", "_", name)


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """Return one-element tensors of one device as a vector, float64."""
    return torch.stack([tensor.to(torch.float64) for tensor in tensors])
