"""Values of metrics that are computed on a device: copied to the host in batches, without waiting for the device."""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from streamscalar.tracking.training.capture import Flight

BATCH = 64
"""Values that are copied together, so that a value costs a fraction of a copy."""

MOST_FLIGHTS = 256
"""Copies under way after which one is waited for: a device is never so many of them behind."""


class DeviceValues:
    """Queues values on devices, and hands each over once its copy is complete, in order.

    Parameters
    ----------
    put
        Takes step, name, replica and value.
    """

    def __init__(self, put: Callable[[int, str, int, float], None]) -> None:
        self._put = put
        self._queue: dict[torch.device, list[tuple[int, str, int, Tensor]]] = {}
        self._flights: deque[tuple[Flight, list[tuple[int, str, int, Tensor]]]] = deque()

    def add(self, step: int, name: str, replica: int, value: Tensor) -> None:
        """Queue a tensor without dimensions that nothing will change."""
        queue = self._queue.setdefault(value.device, [])
        queue.append((step, name, replica, value))
        if len(queue) >= BATCH:
            self.send()

    def send(self, *, wait: bool = False) -> None:
        """Begin to copy what is queued, and hand over what is copied; with `wait`, wait for all copies."""
        for queue in self._queue.values():
            self._flights.append((Flight.start([gather([value for *_, value in queue])]), queue))
        self._queue = {}
        while self._flights:
            flight, queue = self._flights[0]
            if not flight.is_complete:
                if not wait and len(self._flights) < MOST_FLIGHTS:
                    return
                flight.event.synchronize()
            self._flights.popleft()
            for (step, name, replica, _), value in zip(queue, flight.numbers[0].tolist(), strict=True):
                self._put(step, name, replica, value)


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors without dimensions, of one device, as a vector, float64."""
    if len({tensor.dtype for tensor in tensors}) == 1:
        return torch.stack(list(tensors)).to(torch.float64)
    return torch.stack([tensor.to(torch.float64) for tensor in tensors])
