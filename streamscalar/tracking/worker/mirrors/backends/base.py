"""Interface of a back end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from streamscalar.types import AlertLevel


@dataclass(frozen=True)
class Target:
    """The run of a back end to write to.

    Attributes
    ----------
    run_id, group
        Name and group of the tracked run.
    id
        Identifier of the run in the back end, the same after each restart.
    is_resumed
        Whether an earlier process has written to it.
    settings
        Settings that the training process uses for this back end; see `Destination`.
    """

    run_id: str
    group: str
    id: str
    is_resumed: bool
    settings: Mapping[str, str]


class Backend(Protocol):
    """An open run of a back end. Any method may raise any error of its package."""

    id: str
    """As in `Target`, or the identifier that the back end has chosen."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values for a training step; NaN for a name whose last value no longer holds."""
        ...

    def note(self, name: str, text: str) -> None:
        """Set a text of the run, such as its regime; it replaces the last one where the back end can do that."""
        ...

    def alert(self, level: AlertLevel, title: str, text: str, step: int) -> None:
        """Add an alert of the run."""
        ...

    def flush(self) -> None:
        """Hand over everything that was added."""
        ...

    def close(self, *, has_failed: bool) -> None:
        """Hand over everything, and end the run."""
        ...
