"""Trackio: a run in the project with the name of the group, in `TRACKIO_DIR`, `TRACKIO_SPACE_ID` or a server."""

from collections.abc import Mapping
from typing import Any

import trackio

from streamscalar.tracking.worker.mirrors.backends.base import Target
from streamscalar.types import AlertLevel


class Trackio:
    """See `Backend`; texts are logged values."""

    def __init__(self, target: Target) -> None:
        self.id = target.id
        self._step = 0
        self._run: Any = trackio.init(
            project=target.group,
            name=target.run_id,
            group=target.group,
            resume="allow" if target.is_resumed else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Backend.log`."""
        self._step = step
        self._run.log(dict(values), step=step)

    def note(self, name: str, text: str) -> None:
        """See `Backend.note`."""
        self._run.log({name: text}, step=self._step)

    def alert(self, level: AlertLevel, title: str, text: str, step: int) -> None:
        """See `Backend.alert`."""
        self._run.alert(title, text, level=trackio.AlertLevel(level), step=step)

    def flush(self) -> None:
        """See `Backend.flush`; Trackio writes from a thread of its own."""

    def close(self, *, has_failed: bool) -> None:
        """See `Backend.close`."""
        del has_failed  # A run of Trackio has no such state.
        self._run.finish()


open_backend = Trackio
