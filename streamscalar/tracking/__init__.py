"""`ss.track`: records any PyTorch training loop, without changing it and at a bounded cost.

The training process copies rows into shared memory; a separate worker process, at the lowest priority, stores and
embeds them. The worker imports this package too and needs no torch, so the names below are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamscalar.tracking.notices import TrackingWarning
    from streamscalar.tracking.start import track
    from streamscalar.tracking.summary import Summary
    from streamscalar.tracking.training.tracker import Tracker

__all__ = ["Summary", "Tracker", "TrackingWarning", "track"]

_HOMES = {
    "Summary": "streamscalar.tracking.summary",
    "Tracker": "streamscalar.tracking.training.tracker",
    "TrackingWarning": "streamscalar.tracking.notices",
    "track": "streamscalar.tracking.start",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
