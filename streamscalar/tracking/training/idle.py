"""The tracker of a process that does not record."""

import os
from collections.abc import Mapping
from types import TracebackType

from streamscalar.tracking.summary import Summary
from streamscalar.tracking.training.tracker import Tracker


class IdleTracker(Tracker):
    """Tracker of a process of a distributed training whose weights another process records; it does nothing.

    Parameters
    ----------
    run_id
        Name of the run, as far as this process knows it.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    @property
    def run_id(self) -> str:
        """Name of the run, as far as this process knows it."""
        return self._run_id

    @property
    def worker_pid(self) -> int:
        """Process id of this process, which has no worker."""
        return os.getpid()

    def step(self, *, step: int | None = None, batch: object = None, **metrics: object) -> None:
        """Do nothing."""

    def log(self, values: Mapping[str, object] | None = None, /, *, step: int | None = None, **metrics: object) -> None:
        """Do nothing."""

    def finish(self) -> Summary:
        """Return a summary without steps."""
        return self.summary()

    def summary(self) -> Summary:
        """Return a summary without steps."""
        return Summary(self._run_id, 0, 0, 0, 0, 1, 0.0, 0.0, {})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing."""
