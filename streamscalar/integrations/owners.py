"""Finds the module whose parameters an optimizer updates, in a program that does not name it."""

import gc
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


def optimizers() -> list[Optimizer]:
    """Return the optimizers that exist, in the order of their creation; not wrappers that call the step of another."""
    found = [one for one in gc.get_objects() if issubclass(type(one), Optimizer)]
    return [one for one in found if getattr(type(one).step, "hooked", False)]


def has_run(optimizer: Optimizer) -> bool:
    """Return whether an optimizer has made an update, or gradients for one are there."""
    return bool(optimizer.state) or any(p.grad is not None for p in parameters_of(optimizer))


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the parameters that an optimizer updates."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def largest(candidates: Iterable[Optimizer]) -> Optimizer:
    """Return the optimizer with the most parameters; of equal ones, the one that holds another, else the first."""
    several = list(candidates)

    def rank(one: Optimizer) -> tuple[int, bool]:
        holds_another = any(value is other for value in vars(one).values() for other in several)
        return sum(p.numel() for p in parameters_of(one)), holds_another

    return max(several, key=rank)


def owner(optimizer: Optimizer) -> nn.Module:
    """Return the module whose parameters an optimizer updates.

    That is the module with the fewest parameters that owns all of them; of wrappers with the same parameters, the
    outermost. If there is none, it is a new module that holds those that own most. Searches all objects of the process:
    about 0.1 s per million.
    """
    wanted = {id(p): p for p in parameters_of(optimizer)}
    modules = _Modules()
    parts: list[nn.Module] = []
    left = set(wanted)
    while left:
        best = modules.best(left)
        if best is None:
            break
        parts.append(best)
        left -= modules.parameters(best)
    if len(parts) == 1 and not left:
        return parts[0]
    order = list(wanted)
    parts.sort(key=lambda part: min(order.index(key) for key in modules.parameters(part) if key in wanted))
    holder = nn.Module()
    for index, part in enumerate(parts):
        holder.add_module(str(index), part)
    for index, key in enumerate(key for key in order if key in left):
        p = wanted[key]
        # A parameter that is made of a tensor shares its memory.
        own = p if isinstance(p, nn.Parameter) else nn.Parameter(p, requires_grad=p.requires_grad)
        holder.register_parameter(f"parameter{index}", own)
    return holder


class _Modules:
    """The modules that exist, with the parameters below each; reads their fields only, and calls nothing of a user."""

    def __init__(self) -> None:
        self._all = [one for one in gc.get_objects() if issubclass(type(one), nn.Module)]
        self._below: dict[int, tuple[set[int], int]] = {}

    def parameters(self, module: nn.Module) -> set[int]:
        """Return the ids of the parameters of a module and the modules below it."""
        return self._look(module)[0]

    def best(self, wanted: set[int]) -> nn.Module | None:
        """Return the module that owns most of the wanted parameters; of those, the smallest, then the outermost."""
        ranked = []
        for index, module in enumerate(self._all):
            parameters, n_modules = self._look(module)
            n_owned = len(parameters & wanted)
            if n_owned:
                ranked.append(((n_owned, -len(parameters), n_modules, -index), module))
        return max(ranked, key=lambda pair: pair[0])[1] if ranked else None

    def _look(self, module: nn.Module) -> tuple[set[int], int]:
        key = id(module)
        if key not in self._below:
            self._below[key] = set(), 0
            fields = vars(module)
            found = {id(p) for p in (fields.get("_parameters") or {}).values() if p is not None}
            n_modules = 1
            for child in (fields.get("_modules") or {}).values():
                if child is not None:
                    below, n_below = self._look(child)
                    found |= below
                    n_modules += n_below
            self._below[key] = found, n_modules
        return self._below[key]
