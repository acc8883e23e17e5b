"""User functions, named by `package.module:function`."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamscalar.errors import BadCall, Kind


def find_own(name: str, field: str) -> Callable[..., Any]:
    """Return the function that `name` refers to; modules are searched first in the current folder.

    Parameters
    ----------
    name
        `package.module:function`; a class is accepted, too.
    field
        Field of the config with this name, for error messages.

    Raises
    ------
    BadCall
        The module cannot be imported, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        # Not removed: the function may import modules from its folder later.
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise BadCall(
            field,
            "must name a module that can be imported",
            f"{name} ({reason(error)})",
            f"Modules are searched in {folder} and among installed packages",
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
    """Return `function(*arguments, **keywords)`; its exceptions become a `BadCall` with their place.

    Raises
    ------
    BadCall
        It does not accept these arguments, or it raised an exception.
    """
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        given = ", ".join([*(repr(value) for value in arguments), *keywords]) or "nothing"
        raise BadCall(field, f"must accept {given} as arguments", f"{name} ({error})", kind=Kind.CONFIG) from None
    try:
        return function(*arguments, **keywords)
    except Exception as error:
        raise BadCall(field, "must run without an exception", f"{name} ({reason(error)})", kind=Kind.CONFIG) from error


def reason(error: Exception) -> str:
    """Return type and text of `error` in one line, with the line of the user's file that raised it."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    is_in_a_file = bool(frames) and not frames[-1].filename.startswith("<")
    at = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if is_in_a_file else ""
    return f"{type(error).__name__}: {text[:200]}{at}"
