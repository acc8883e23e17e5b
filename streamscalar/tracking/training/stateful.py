"""Objects with a state that a function of the user owns: generators, scalers, schedulers, and modules beside the model.

A copy of the model repeats a step by calling that function again. What the call changes beside the copy must be put
back, and must be as it was when the training called it.
"""

import copy
import functools
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

_MOST_ITEMS = 100
"""Length from which a container is taken for data, and not searched."""

_DEPTH = 3
"""Depth to which attributes and containers of the objects of a function are searched."""


class Stateful:
    """The objects with a state that a function reaches through its closure, globals, defaults and attributes.

    Parameters
    ----------
    function
        Function of the user.
    model, optimizer
        What is trained, left out.
    """

    def __init__(self, function: Callable[..., Any], model: nn.Module, optimizer: Optimizer) -> None:
        own = {id(model), id(optimizer), *(id(module) for module in model.modules())}
        found = {id(value): value for value in _reachable(function, _DEPTH) if id(value) not in own}
        # A wrapper of the model has no state beside that of the model.
        self._objects = [one for one in found.values() if not (isinstance(one, nn.Module) and _holds(one, model))]
        self._schedulers = [one for one in self._objects if isinstance(one, LRScheduler | ReduceLROnPlateau)]
        self._optimizer = optimizer

    def states(self) -> list[Any]:
        """Return the states of the objects."""
        return [_state(one) for one in self._objects]

    def restore(self, states: list[Any]) -> None:
        """Give the objects these states."""
        for one, state in zip(self._objects, states, strict=True):
            _restore(one, state)

    def hold(self) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
        """Return the states now, and put the gradients of the modules beside the model aside."""
        gradients = []
        for one in self._objects:
            if isinstance(one, nn.Module):
                gradients.append([p.grad for p in one.parameters()])
                for p in one.parameters():
                    p.grad = None
        # A scheduler that is called in a repeated step changes the optimizer of the training.
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self._optimizer.param_groups]
        return self.states(), gradients, groups if self._schedulers else []

    def release(self, held: tuple[list[Any], list[Any], list[dict[str, Any]]]) -> None:
        """Restore what `hold` returned."""
        states, gradients, groups = held
        self.restore(states)
        modules = [one for one in self._objects if isinstance(one, nn.Module)]
        for module, values in zip(modules, gradients, strict=True):
            for p, value in zip(module.parameters(), values, strict=True):
                p.grad = value
        for group, values in zip(self._optimizer.param_groups, groups, strict=False):
            group.update(values)


def _reachable(function: Any, depth: int) -> Iterator[Any]:
    """Yield the objects with a state below a function or object."""
    if _has_state(function):
        yield function
    if depth == 0 or isinstance(function, type | str | bytes | int | float | torch.Tensor | np.ndarray):
        return
    if isinstance(function, functools.partial):
        below = [function.func, *function.args, *function.keywords.values()]
    elif inspect.ismethod(function):
        below = [function.__func__, function.__self__]
    elif inspect.isfunction(function):
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        below = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        names = function.__globals__
        below += [names[name] for name in function.__code__.co_names if name in names]
    elif isinstance(function, dict | list | tuple):
        # Data own no state.
        items = function.values() if isinstance(function, dict) else function
        below = list(items) if len(function) <= _MOST_ITEMS else []
    elif inspect.ismodule(function) or inspect.isbuiltin(function) or not hasattr(function, "__dict__"):
        return
    else:
        below = list(vars(function).values())
    for one in below:
        yield from _reachable(one, depth - 1)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _holds(wrapper: nn.Module, model: nn.Module) -> bool:
    return any(module is model for module in wrapper.modules())


def _has_state(value: Any) -> bool:
    kinds = (
        *(torch.Generator, np.random.Generator, np.random.RandomState, random.Random),
        *(torch.amp.GradScaler, LRScheduler, ReduceLROnPlateau, nn.Module),
    )
    return isinstance(value, kinds)


def _state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return copy.deepcopy(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, nn.Module):
        return [buffer.detach().clone() for buffer in value.buffers()]
    if isinstance(value, torch.amp.GradScaler):
        # What a scaler found for the optimizer of a step is no part of its state_dict.
        kept = {name: vars(value)[name] for name in ("_scale", "_growth_tracker") if name in vars(value)}
        clones = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in kept.items()}
        return {**clones, "_per_optimizer_states": copy.copy(value._per_optimizer_states)}
    return {k: copy.copy(v) for k, v in vars(value).items() if k != "optimizer"}


def _restore(value: Any, state: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.random.RandomState):
        value.set_state(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
    elif isinstance(value, nn.Module):
        with torch.no_grad():
            for buffer, kept in zip(value.buffers(), state, strict=True):
                buffer.copy_(kept)
    elif isinstance(value, torch.amp.GradScaler):
        for name, kept in state.items():
            # A copy, so that the same state can be restored again.
            setattr(value, name, kept.clone() if isinstance(kept, torch.Tensor) else copy.copy(kept))
    else:
        vars(value).update({k: copy.copy(v) for k, v in state.items()})
