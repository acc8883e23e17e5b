"""Callbacks for training frameworks; each module imports its framework, so import the one that you use."""

from collections.abc import Mapping
from typing import Any

from streamscalar.errors import BadCall, Kind


def missing(error: ModuleNotFoundError, package: str, extra: str) -> ModuleNotFoundError:
    """Return the error of an integration whose framework is not installed; `error` if another package is missing."""
    if (error.name or "").partition(".")[0] != package:
        return error
    text = f'streamscalar.integrations.{extra} needs {package}. Run: pip install "streamscalar[{extra}]"'
    return ModuleNotFoundError(text, name=package)


def refuse_copies(options: Mapping[str, Any], framework: str) -> None:
    """Raise if options ask for copies of the model in a training whose updates a framework makes.

    Raises
    ------
    BadCall
        `shadow` or `tangent` is asked for.
    """
    for name in ("shadow", "tangent"):
        if options.get(name):
            must = f"must be left out with {framework}, whose updates no copy can repeat"
            raise BadCall(name, must, fix="Use streamscalar.track in a loop of your own", kind=Kind.CONFIG)
