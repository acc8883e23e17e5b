"""Executors: the same workers inline or on Ray, with bit-identical stores.

The names below are imported when first used, so that a Ray actor imports only what its worker needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamscalar.runtime.launch import Prepared, attach, continue_store, execute, prepare, run

__all__ = ["Prepared", "attach", "continue_store", "execute", "prepare", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("streamscalar.runtime.launch"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
