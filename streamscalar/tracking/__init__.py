"""`ss.track`: records any PyTorch training loop, and neither slows it nor stops it.

The training side copies a row into shared memory; a process of its own, at the lowest priority, writes and embeds it.
That process imports this package too, so the names below are imported when first used: it needs no torch.
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
