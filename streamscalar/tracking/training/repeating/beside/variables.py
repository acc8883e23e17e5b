"""Variables of a user's function: attributes, items, cells of closures, and globals that a call of it changes.

Which of them a function changes is found out by calling it: what a repeat has changed is put back, and from then on a
repeat begins with the value that it had when the training called the function. Others may change between steps, such as
the number of the epoch, and are left as they are.
"""

import inspect
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CellType
from typing import Any

import numpy as np
import torch

from streamscalar.tracking.training.repeating.beside.search import is_filled, is_foreign, names_of

_MOST_ITEMS = 1000
"""Length up to which a container is copied; of a longer list, only what was appended is removed."""

_PLAIN = (bool, int, float, complex, str, bytes, tuple, type(None))

Values = list[Any]
"""State of each variable: a shallow copy, or a marker where there is none."""


@dataclass(frozen=True)
class _Place:
    """A namespace or container: `read` returns a shallow copy of it, `write` gives it such a copy back."""

    read: Callable[[], Any]
    write: Callable[[Any], None]


class Variables:
    """The variables that a function may change.

    Parameters
    ----------
    found
        What the function reaches.
    """

    def __init__(self, found: Iterable[Any]) -> None:
        self._places = [place for one in found if (place := _place(one)) is not None]
        self._owned: set[tuple[int, Any]] = set()

    @property
    def n_owned(self) -> int:
        """Number of variables that a repeat has changed so far."""
        return len(self._owned)

    def values(self) -> Values:
        """Return the values now."""
        return [place.read() for place in self._places]

    def restore(self, values: Values) -> None:
        """Give the variables that the function changes these values."""
        for index in {index for index, _ in self._owned}:
            place, kept = self._places[index], values[index]
            if isinstance(kept, dict):
                now = place.read()
                for key in [key for at, key in self._owned if at == index]:
                    now.pop(key, None)
                    if key in kept:
                        now[key] = kept[key]
                place.write(now)
            elif not isinstance(kept, int):
                # Of a long list there is no copy, and what is removed could not be put back.
                place.write(kept)

    def release(self, held: Values) -> None:
        """Put back what has changed since `held`, and note what that was."""
        for index, (place, kept) in enumerate(zip(self._places, held, strict=True)):
            now = place.read()
            if isinstance(kept, dict):
                keys = [k for k in kept.keys() | now.keys() if k not in kept or k not in now or kept[k] is not now[k]]
                self._owned |= {(index, key) for key in keys}
                if keys:
                    place.write(kept)
            elif not _is_same(kept, now):
                self._owned.add((index, None))
                place.write(kept)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
    return bool(one == other)


def _place(one: Any) -> _Place | None:
    if isinstance(one, CellType):
        return _cell(one)
    if inspect.isfunction(one):
        return None if is_foreign(one) else _globals(one)
    if isinstance(one, dict):
        return _mapping(one) if len(one) <= _MOST_ITEMS else None
    if isinstance(one, list):
        return _list(one)
    if isinstance(one, set):
        return _Place(lambda: set(one), lambda kept: (one.clear(), one.update(kept))[0])  # type: ignore[func-returns-value]  # None
    if isinstance(one, deque):
        return _Place(lambda: list(one), lambda kept: (one.clear(), one.extend(kept))[0])  # type: ignore[func-returns-value]  # None
    if isinstance(one, np.ndarray):
        return _array(one) if one.size <= _MOST_ITEMS and one.flags.writeable and one.dtype != object else None
    return _attributes(one)


def _mapping(values: dict[Any, Any]) -> _Place:
    def write(kept: dict[Any, Any]) -> None:
        for key in [key for key in values if key not in kept]:
            del values[key]
        values.update(kept)

    return _Place(lambda: dict(values), write)


def _list(values: list[Any]) -> _Place:
    def write(kept: list[Any] | int) -> None:
        if isinstance(kept, int):
            # A shorter list than that of the training would lose its items.
            del values[max(kept, 0) :]
        else:
            values[:] = kept

    return _Place(lambda: list(values) if len(values) <= _MOST_ITEMS else len(values), write)


def _array(values: np.ndarray[Any, Any]) -> _Place:
    def write(kept: np.ndarray[Any, Any]) -> None:
        values[...] = kept

    return _Place(values.copy, write)


def _cell(cell: CellType) -> _Place:
    def read() -> dict[str, Any]:
        return {"": cell.cell_contents} if is_filled(cell) else {}

    def write(kept: dict[str, Any]) -> None:
        if kept:
            cell.cell_contents = kept[""]

    return _Place(read, write)


def _globals(function: Any) -> _Place | None:
    """Return the globals that a function assigns, and those that it may replace by a plain value."""
    names, space = names_of(function), function.__globals__

    def write(kept: dict[str, Any]) -> None:
        space.update(kept)

    return _Place(lambda: {n: space[n] for n in names if n in space and isinstance(space[n], _VALUES)}, write)


_VALUES = (*_PLAIN, torch.Tensor)


def _attributes(one: Any) -> _Place | None:
    if isinstance(one, torch.nn.Module):
        space = vars(one)
        plain = lambda: {k: v for k, v in space.items() if isinstance(v, _PLAIN) and k != "training"}  # noqa: E731  (used once)
        return _Place(plain, space.update)
    if isinstance(one, torch.optim.Optimizer | torch.Tensor) or is_foreign(one):
        return None
    if inspect.isroutine(one) or inspect.ismodule(one) or not isinstance(getattr(one, "__dict__", None), dict):
        return None
    return _mapping(vars(one))
