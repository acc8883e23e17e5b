"""Notices when a function of the user changes the training in place of the copy that it was given, and undoes it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from streamscalar.tracking.training.repeating.beside.tensors import same_bits
from streamscalar.tracking.training.repeating.twin import options_of, tensors_of

_PLAIN = (bool, int, float, str, type(None))


class Guard:
    """Holds the training while copies repeat it: weights, buffers, gradients, and the optimizer.

    Cost: a copy of all of them, and a comparison of weights and buffers.

    Parameters
    ----------
    model, optimizer
        The training.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._copies: list[Tensor] = []

    def hold(self) -> None:
        """Take the state of the training."""
        self._parameters = list(self._model.parameters())
        self._gradients = [p.grad for p in self._parameters]
        self._states = {p: dict(state) for p, state in self._optimizer.state.items() if isinstance(state, dict)}
        self._options = [options_of(group) for group in self._optimizer.param_groups]
        self._attributes = [plain_attributes(module) for module in self._model.modules()]
        self._tensors = self._now()
        self._versions = [tensor._version for tensor in self._tensors]
        copies = self._copies
        if [_kind(t) for t in copies] != [_kind(t) for t in self._tensors]:
            copies = [t.detach().clone() for t in self._tensors]
        else:
            with torch.no_grad():
                for into, tensor in zip(copies, self._tensors, strict=True):
                    into.copy_(tensor.detach())
        self._copies = copies

    def restores(self) -> bool:
        """Restore the training, and return whether it had changed."""
        now = self._now()
        is_same = [a is b for a, b in zip(now, self._tensors, strict=False)]
        is_same += [tensor._version == version for tensor, version in zip(now, self._versions, strict=False)]
        # Weights may be changed by way of `data`, which their version does not count.
        n_own = len(tensors_of(self._model))
        values = zip(now[:n_own], self._copies, strict=False)
        if len(now) == len(self._tensors) and all(is_same) and all(same_bits(a.detach(), copy) for a, copy in values):
            return False
        with torch.no_grad():
            for tensor, copy in zip(self._tensors, self._copies, strict=True):
                tensor.detach().copy_(copy)
        for p, gradient in zip(self._parameters, self._gradients, strict=True):
            p.grad = gradient
        for module, attributes in zip(self._model.modules(), self._attributes, strict=True):
            module.__dict__.update(attributes)
        for group, options in zip(self._optimizer.param_groups, self._options, strict=True):
            group.update(options)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._states)
        return True

    def _now(self) -> list[Tensor]:
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        states = self._optimizer.state.values()
        return [
            *tensors_of(self._model),
            *gradients,
            *(v for s in states if isinstance(s, dict) for v in s.values() if isinstance(v, Tensor)),
        ]


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are numbers, text or None, such as a temperature or a counter."""
    return {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN) and name != "training"}


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.layout
