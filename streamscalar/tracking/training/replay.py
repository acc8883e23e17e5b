"""Replays the random numbers of the training in a second computation, without disturbing the training."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Generators:
    """States of all global generators that a forward pass may draw from."""

    cpu: Tensor
    cuda: Tensor | None
    python: Any
    numpy: Any

    @classmethod
    def now(cls, device: torch.device) -> "Generators":
        """Return the current states."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        # A forward pass of a user may draw from the global generator of NumPy.
        return cls(torch.get_rng_state(), cuda, random.getstate(), np.random.get_state())  # noqa: NPY002

    def restore(self, device: torch.device) -> None:
        """Restore all generators to these states."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002


class Rehearsal:
    """Records how a forward pass of the training began, so that a copy of the model can repeat it.

    It records the first forward pass in training mode with gradients since the last update: the states of the
    generators, and which modules were in training mode.

    Parameters
    ----------
    model
        The model that is trained.
    device
        Its device.
    on_first
        Called once, before the first such pass.
    """

    def __init__(self, model: nn.Module, device: torch.device, on_first: Callable[[], None]) -> None:
        self._model = model
        self._device = device
        self._on_first = on_first
        self._has_begun = False
        self._start: Generators | None = None
        self._modes: list[bool] = []
        self._handle = model.register_forward_pre_hook(self._record)

    def _record(self, *_: object) -> None:
        if self._start is not None or not (self._model.training and torch.is_grad_enabled()):
            return
        if not self._has_begun:
            self.begin()
        self._modes = [module.training for module in self._model.modules()]
        self._start = Generators.now(self._device)

    @contextmanager
    def replay(self, copy: nn.Module) -> Iterator[None]:
        """Run the block with the random numbers and modes of the training, then restore the generators."""
        if self._start is None:
            raise RuntimeError("step() was given a batch, but the model made no forward pass in training mode")
        for module, mode in zip(copy.modules(), self._modes, strict=True):
            module.training = mode
        before = Generators.now(self._device)
        self._start.restore(self._device)
        try:
            with torch.enable_grad():
                yield
        finally:
            before.restore(self._device)

    def begin(self) -> None:
        """Call `on_first` now, not at the first pass."""
        self._has_begun = True
        self._on_first()

    def forget(self) -> None:
        """Wait for the next forward pass."""
        self._start = None

    def remove(self) -> None:
        """Remove the hook from the model."""
        self._handle.remove()
