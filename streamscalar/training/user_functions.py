"""Functions of a user, found by `package.module:function`."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamscalar.errors import BadCall, Kind


def find_own(name: str, field: str) -> Callable[..., Any]:
    """Return what `name` points at; the folder of the command comes first where modules are looked for.

    Parameters
    ----------
    name
        `package.module:function`; a class will do, too.
    field
        The config's field that holds the name, for the sentence of an error.

    Raises
    ------
    BadCall
        The module does not import, or holds no such function.
    """
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        # It stays: the function may import from beside itself later.
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise BadCall(
            field,
            "must name a module that imports",
            f"{name} ({reason(error)})",
            f"Modules are looked for in {folder} and among installed packages",
            Kind.CONFIG,
        ) from error
    found = getattr(module, function_name, None)
    if not inspect.isroutine(found) and not inspect.isclass(found):
        got = "no such name there" if found is None else f"a value of type {type(found).__name__}"
        raise BadCall(field, f"must name a function of {module_name}", f"{name} ({got})", kind=Kind.CONFIG)
    function: Callable[..., Any] = found
    return function


def call_own(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any], field: str, name: str
) -> Any:
    """Return `function(*arguments, **keywords)`; what it raises becomes a `BadCall` that says where.

    Raises
    ------
    BadCall
        It does not take these arguments, or it raised.
    """
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        given = ", ".join([*(repr(value) for value in arguments), *keywords]) or "nothing"
        raise BadCall(field, f"must take {given} as arguments", f"{name} ({error})", kind=Kind.CONFIG) from None
    try:
        return function(*arguments, **keywords)
    except Exception as error:
        raise BadCall(field, "must run without an error", f"{name} ({reason(error)})", kind=Kind.CONFIG) from error


def reason(error: Exception) -> str:
    """Return type and text of `error` in one line, with the place in the user's file where it was raised."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    is_in_a_file = bool(frames) and not frames[-1].filename.startswith("<")
    at = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if is_in_a_file else ""
    return f"{type(error).__name__}: {text[:200]}{at}"
