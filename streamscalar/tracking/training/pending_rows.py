"""Rows between their step and the worker: copied to a slot of the ring, from a device without waiting for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.missing import is_missing
from streamscalar.tracking.channel.messages import Facts
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.training.capture import Flight, Selection
from streamscalar.tracking.training.device_values import gather

Put = Callable[[int, int, Facts], None]
"""Takes slot and step of a row, and the facts of its time."""

MAX_PENDING = 2
"""Maximum number of rows in transit from a device: one being copied, one waiting."""


class PendingRows:
    """Copies rows to slots of the ring, and sends each in order once its copy is complete.

    Parameters
    ----------
    selection
        Parameters of the rows.
    n_replicas
        Number of replicas.
    ring
        Shared memory of the rows.
    put
        Takes a row whose copy is complete.
    facts
        Returns the facts of now.

    Attributes
    ----------
    pending : list
        The rows.
    """

    def __init__(self, selection: Selection, n_replicas: int, ring: Ring, put: Put, facts: Callable[[], Facts]) -> None:
        self._capture = selection.capture(n_replicas)
        self._ring = ring
        self._slots = [torch.from_numpy(row) for row in ring.rows]
        self._flat = _device_buffer(selection, n_replicas) if selection.device.type == "cuda" else None
        self._put, self._facts = put, facts
        self.pending: list[_PendingRow] = []
        self._sent_to = 0

    def warm_up(self, replicas: Sequence[Sequence[Tensor]]) -> None:
        """Copy to every row once: the first copy takes ten times as long, so it is done before the training."""
        for row in [self._flat] if self._flat is not None else self._slots:
            self._capture.copy(row, replicas)

    @property
    def slots(self) -> set[int] | None:
        """The slots in use; `None` where no further row can be copied."""
        return None if len(self.pending) >= MAX_PENDING else {row.slot for row in self.pending}

    def add(
        self,
        slot: int,
        step: int,
        replicas: Sequence[Sequence[Tensor]],
        values: NDArray[np.float64],
        places: list[tuple[int, int]],
        tensors: list[Tensor],
    ) -> None:
        """Copy the current weights to a slot, and the metrics `tensors` to their `places` among the `values`."""
        on_device = [gather(tensors)] if tensors else []
        if self._flat is None:
            self._capture.copy(self._slots[slot], replicas)
        else:
            # One buffer is enough: on a stream, the next row is gathered after the copy of this one.
            self._capture.copy(self._flat, replicas)
            on_device.append(self._flat)
        flight = Flight.start(on_device) if on_device else None
        self.pending.append(_PendingRow(slot, step, values, places, flight))
        self.send_complete()

    def settle(self, step: int, late: NDArray[np.float64]) -> bool:
        """Add metrics to the newest row, which is that of `step`; return whether it was sent already."""
        waiting = [row for row in self.pending if row.step == step]
        into = waiting[0].values if waiting else self._ring.metrics[self._sent_to][: len(late)]
        known = ~is_missing(late)
        into[known] = late[known]
        return not waiting

    def send_complete(self, *, wait: bool = False) -> None:
        """Send the rows whose copies are complete, in order; with `wait`, wait for all of them."""
        while self.pending:
            row = self.pending[0]
            if row.flight is not None:
                if wait:
                    row.flight.event.synchronize()
                elif not row.flight.is_complete:
                    return
                numbers = list(row.flight.numbers)
                if self._flat is not None:
                    self._slots[row.slot].copy_(numbers.pop())
                for (name, replica), value in zip(row.places, numbers[0].tolist() if numbers else [], strict=True):
                    row.values[name, replica] = value
            del self.pending[0]
            self._ring.metrics[row.slot][: len(row.values)] = row.values
            self._sent_to = row.slot
            self._put(row.slot, row.step, self._facts())


@dataclass(frozen=True)
class _PendingRow:
    """A row whose copy may not be complete; `places` are those of the metrics in the copy."""

    slot: int
    step: int
    values: NDArray[np.float64]
    places: list[tuple[int, int]]
    flight: Flight | None


def _device_buffer(selection: Selection, n_replicas: int) -> Tensor:
    dtype = torch.float64 if selection.dtype == "float64" else torch.float32
    n_parameters = sum(layer.size for layer in selection.layers)
    return torch.empty((n_replicas, n_parameters), dtype=dtype, device=selection.device)
