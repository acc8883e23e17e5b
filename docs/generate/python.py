"""The page of the Python interface: the public names, and the objects that they return."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

import streamscalar
from docs.generate.markdown import described, page

INTRODUCTION = """
`import streamscalar as ss` is quick: each name is imported when it is first used. Errors are
[`BadCall`](#streamscalar.errors.BadCall) (the call is wrong; the message says what to do) and
[`WorkFailed`](#streamscalar.errors.WorkFailed).
"""

ERRORS = ("BadCall", "WorkFailed")


def public() -> dict[str, Any]:
    """Return the objects of `streamscalar.__all__` that are not plain values, by name."""
    found = {name: getattr(streamscalar, name) for name in sorted(streamscalar.__all__, key=str.lower)}
    return {name: value for name, value in found.items() if callable(value)}


def returned() -> list[type]:
    """Return the classes of this package that public functions, methods and fields give, and those that these give."""
    waiting = list(public().values())
    seen = set(map(id, waiting))
    found = []
    while waiting:
        for hint in _gives(waiting.pop(0)):
            for kind in _classes(hint):
                if kind.__module__.startswith("streamscalar.") and id(kind) not in seen:
                    seen.add(id(kind))
                    waiting.append(kind)
                    found.append(kind)
    return sorted(found, key=lambda kind: kind.__qualname__)


def python_page() -> str:
    """Return the page; mkdocstrings fills in what `:::` names.

    Raises
    ------
    Undescribed
        A public name, or a member of one, has no docstring.
    """
    names = public()
    classes = returned()
    for value in (*names.values(), *classes):
        _require_descriptions(value)
    main = [f"::: streamscalar.{name}" for name in names]
    rest = [f"::: {kind.__module__}.{kind.__qualname__}" for kind in classes]
    errors = [f"::: streamscalar.errors.{name}" for name in ERRORS]
    return page("Python", INTRODUCTION, "## Public names", *main, "## Returned objects", *rest, "## Errors", *errors)


def _members(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods and properties that a class defines, as functions."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, classmethod | staticmethod):
            member = member.__func__
        else:
            # A cached property keeps its function under this name.
            member = getattr(member, "func", member)
        if inspect.isfunction(member):
            yield name, member


def _gives(value: Any) -> Iterator[Any]:
    """Yield the type hints of what a function returns, or of what a class gives."""
    if not isinstance(value, type):
        yield _hints(value).get("return")
        return
    if issubclass(value, BaseModel):
        # The page of the config describes the sections.
        return
    if dataclasses.is_dataclass(value):
        hints = _hints(value)
        yield from (hints[field.name] for field in dataclasses.fields(value) if not field.name.startswith("_"))
    for _, member in _members(value):
        yield _hints(member).get("return")


def _hints(value: Any) -> dict[str, Any]:
    # Names that modules import for the type checker alone.
    return typing.get_type_hints(value, localns={"pd": pd, "np": np})


def _classes(hint: Any) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)


def _require_descriptions(value: Any) -> None:
    name = f"{value.__module__}.{value.__qualname__}"
    described(name, value.__doc__)
    if isinstance(value, type):
        for member, function in _members(value):
            described(f"{name}.{member}", function.__doc__)
