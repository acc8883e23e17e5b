"""Distributed streaming analyzer of neural-network training dynamics.

The names below are imported when first used, so that `import streamscalar` needs neither torch, ray nor zarr.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamscalar.client import Client, connect
    from streamscalar.config import Config, load_config
    from streamscalar.experiment import Experiment, Run, open  # noqa: A004  (`ss.open` is the public name)
    from streamscalar.runtime import run
    from streamscalar.tracking import Tracker, track
    from streamscalar.training.tasks import Task

__all__ = [
    "Client",
    "Config",
    "Experiment",
    "Run",
    "Task",
    "Tracker",
    "__version__",
    "connect",
    "load_config",
    "open",
    "run",
    "track",
]

__version__ = "0.1.0"

_HOMES = {
    "Client": "streamscalar.client",
    "connect": "streamscalar.client",
    "Config": "streamscalar.config",
    "load_config": "streamscalar.config",
    "Experiment": "streamscalar.experiment",
    "Run": "streamscalar.experiment",
    "open": "streamscalar.experiment",
    "run": "streamscalar.runtime",
    "Task": "streamscalar.training.tasks",
    "Tracker": "streamscalar.tracking",
    "track": "streamscalar.tracking",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
