"""Finds what a function of the user can reach: through its closure, globals, defaults, and attributes of objects."""

import functools
import inspect
from collections import deque
from collections.abc import Iterator
from types import CellType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

MOST_ITEMS = 10_000
"""Length from which a container is taken for data, and not searched."""

DEPTH = 5
"""Depth to which attributes and containers of the objects of a function are searched."""

MOST_FOUND = 20_000
"""Number of objects after which the search ends."""

_FOREIGN = ("torch", "numpy", "streamscalar", "builtins", "functools", "math", "random", "logging", "threading")
"""Packages whose functions and objects are not searched, apart from modules, optimizers and schedulers."""


def reachable(roots: list[Any], own: list[Any]) -> Iterator[Any]:
    """Yield what the functions `roots` reach, each object once, without `own` and what is below it."""
    seen: dict[int, Any] = {id(one): one for one in own}
    waiting: deque[tuple[Any, int]] = deque((root, DEPTH) for root in roots)
    while waiting and len(seen) < MOST_FOUND:
        one, depth = waiting.popleft()
        if id(one) in seen or isinstance(one, type | str | bytes | int | float | complex | type(None)):
            continue
        seen[id(one)] = one
        yield one
        if depth:
            waiting.extend((below, depth - 1) for below in _below(one, own))


def names_of(function: FunctionType) -> list[str]:
    """Return the names of globals that a function and the functions inside it use."""
    codes = [function.__code__]
    for code in codes:
        codes += [inner for inner in code.co_consts if inspect.iscode(inner)]
    return list(dict.fromkeys(name for code in codes for name in code.co_names))


def is_filled(cell: CellType) -> bool:
    """Return whether the variable of a closure has a value yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def is_foreign(value: Any) -> bool:
    """Return whether a function or object belongs to a library whose state no function of a user changes."""
    name = getattr(value if inspect.isroutine(value) else type(value), "__module__", None) or ""
    return name.split(".")[0] in _FOREIGN


def _below(one: Any, own: list[Any]) -> list[Any]:
    if isinstance(one, torch.Tensor | np.ndarray) or inspect.ismodule(one) or inspect.isbuiltin(one):
        return []
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if inspect.ismethod(one):
        return [one.__func__, one.__self__]
    if inspect.isfunction(one):
        if is_foreign(one):
            return []
        found = [one.__globals__[name] for name in names_of(one) if name in one.__globals__]
        return [*(one.__closure__ or ()), *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values(), *found]
    if isinstance(one, CellType):
        return [one.cell_contents] if is_filled(one) else []
    if isinstance(one, dict):
        return list(one.values()) if len(one) <= MOST_ITEMS else []
    if isinstance(one, list | tuple | set | frozenset | deque):
        return list(one) if len(one) <= MOST_ITEMS else []
    if isinstance(one, nn.Module):
        # Another model is held as a whole; a wrapper of the model has attributes and further models of its own.
        return [*_attributes(one).values(), *one.children()] if holds(one, own) else []
    if isinstance(one, LRScheduler):
        return [value for value in vars(one).values() if isinstance(value, list)]
    return list(vars(one).values()) if hasattr(one, "__dict__") and not is_foreign(one) else []


def holds(wrapper: nn.Module, own: list[Any]) -> bool:
    """Return whether a module is a wrapper of one of `own`."""
    ids = {id(one) for one in own}
    return any(id(module) in ids for module in wrapper.modules())


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that a user gave it."""
    return {name: value for name, value in vars(module).items() if name not in _INTERNAL}


_INTERNAL = frozenset(vars(nn.Module()))
