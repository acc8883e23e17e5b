"""Objects with a state that a function of the user owns: generators, scalers, schedulers, models, variables.

A copy of the model repeats a step by calling that function again. What the call changes beside the copy must be put
back, and must be as it was when the training called it.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from streamscalar.tracking.training.repeating.beside.search import holds, reachable
from streamscalar.tracking.training.repeating.beside.tensors import Tensors, same_bits
from streamscalar.tracking.training.repeating.beside.variables import Values, Variables


@dataclass(frozen=True)
class States:
    """States of everything beside the copy, at one time."""

    objects: list[Any]
    tensors: list[Tensor | None]
    variables: Values


@dataclass(frozen=True)
class Held:
    """What a repeat must not change."""

    states: States
    gradients: list[Tensor | None]
    groups: list[dict[str, Any]]


class Own:
    """States beside one copy, which is perturbed: an average of its weights is not that of the training.

    Attributes
    ----------
    ends
        States at the end of its newest repeat, and those of the training then; `None` before the first.
    """

    def __init__(self) -> None:
        self.ends: tuple[States, States] | None = None

    def start(self, training: States) -> States:
        """Return the states for the next repeat, where the training began with `training`."""
        if self.ends is None:
            return training
        ours, theirs = self.ends
        return States(
            _picked(ours.objects, theirs.objects, training.objects),
            _picked(ours.tensors, theirs.tensors, training.tensors),
            _picked(ours.variables, theirs.variables, training.variables),
        )


class Stateful:
    """The objects with a state that a function reaches through its closure, globals, defaults and attributes.

    Parameters
    ----------
    function
        Function of the user.
    model, optimizer
        What is trained, left out; hooks of the optimizer are searched, too.
    """

    def __init__(self, function: Callable[..., Any], model: nn.Module, optimizer: Optimizer) -> None:
        own = [optimizer, *model.modules(), *model.parameters(), *model.buffers()]
        found = list(reachable([function, *_hooks(optimizer)], own))
        # A wrapper of the model has no tensors beside those of the model and of further models that it holds.
        modules = [one for one in found if isinstance(one, nn.Module) and not holds(one, own)]
        self._parameters = list({id(p): p for module in modules for p in module.parameters()}.values())
        buffers = list({id(b): b for module in modules for b in module.buffers()}.values())
        known = {id(one) for one in (*self._parameters, *buffers)}
        loose = [one for one in found if _is_plain_tensor(one) and id(one) not in known]
        self._tensors = Tensors([*self._parameters, *buffers], loose)
        self._variables = Variables(found)
        self._objects = [one for one in found if _has_state(one)]
        self._schedulers = [one for one in self._objects if isinstance(one, LRScheduler | ReduceLROnPlateau)]
        self._optimizer = optimizer

    @property
    def n_variables(self) -> int:
        """Number of variables that repeats have changed so far; the repeat that shows one may have to be redone."""
        return self._variables.n_owned

    def states(self) -> States:
        """Return the states now."""
        return States([_state(one) for one in self._objects], self._tensors.values(), self._variables.values())

    def restore(self, states: States) -> None:
        """Give everything these states, apart from variables that the function does not change."""
        self._restore(states)
        self._variables.restore(states.variables)

    def hold(self) -> Held:
        """Return the states now, and put the gradients of the models beside the model aside."""
        gradients = [p.grad for p in self._parameters]
        for p in self._parameters:
            p.grad = None
        # A scheduler that is called in a repeated step changes the optimizer of the training.
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self._optimizer.param_groups]
        return Held(self.states(), gradients, groups if self._schedulers else [])

    def release(self, held: Held) -> None:
        """Restore what `hold` returned."""
        self._variables.release(held.states.variables)
        self._restore(held.states)
        for p, gradient in zip(self._parameters, held.gradients, strict=True):
            p.grad = gradient
        for group, values in zip(self._optimizer.param_groups, held.groups, strict=False):
            group.update(values)

    def _restore(self, states: States) -> None:
        for one, state in zip(self._objects, states.objects, strict=True):
            _restore(one, state)
        self._tensors.restore(states.tensors)


def _picked(ours: list[Any], theirs: list[Any], training: list[Any]) -> list[Any]:
    """Return the states of a copy where they depend on its weights, else those of the training."""
    return [now if is_same(own, their) else own for own, their, now in zip(ours, theirs, training, strict=True)]


def is_same(one: Any, other: Any) -> bool:
    """Return whether two states are the same, bit for bit."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return same_bits(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(is_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001  (an object of the user, which may not be compared)
        return False


def _hooks(optimizer: Optimizer) -> list[Any]:
    kinds = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    return [hook for kind in kinds for hook in vars(optimizer).get(kind, {}).values()]


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_inference()


def _has_state(value: Any) -> bool:
    kinds = (
        *(torch.Generator, np.random.Generator, np.random.RandomState, random.Random),
        *(torch.amp.GradScaler, LRScheduler, ReduceLROnPlateau, Optimizer),
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
    if isinstance(value, Optimizer):
        options = [{k: copy.copy(v) for k, v in group.items() if k != "params"} for group in value.param_groups]
        return options, {p: {k: _copied(v) for k, v in kept.items()} for p, kept in value.state.items()}
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
    elif isinstance(value, Optimizer):
        options, kept = state
        for group, own in zip(value.param_groups, options, strict=False):
            group.update(own)
        value.state.clear()
        value.state.update({p: {k: _copied(v) for k, v in one.items()} for p, one in kept.items()})
    elif isinstance(value, torch.amp.GradScaler):
        for name, kept in state.items():
            # A copy, so that the same state can be restored again.
            setattr(value, name, kept.clone() if isinstance(kept, torch.Tensor) else copy.copy(kept))
    else:
        vars(value).update({k: copy.copy(v) for k, v in state.items()})


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.copy(value)
