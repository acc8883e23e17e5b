"""The tracker of a process that does not record."""

import atexit
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from streamscalar.tracking.notices import Notices
from streamscalar.tracking.summary import Summary
from streamscalar.tracking.training.at_exit import end_at_exit
from streamscalar.tracking.training.tracker import Tracker


class RankStream(Protocol):
    """What a rank writes beside the recording of rank 0."""

    def step(self, number: int, *, is_counted: bool) -> float:
        """Write a step if it is due; return the time that took, in seconds."""
        ...

    def close(self) -> None:
        """Wait until everything is written."""
        ...


class IdleTracker(Tracker):
    """Tracker of a process of a distributed training whose weights another process records.

    It stores no rows. Where ranks are copies of each other, it writes hashes of the weights, to be compared; where each
    holds a part of the model, it writes that part.

    Parameters
    ----------
    run_id
        Name of the run, as far as this process knows it.
    stream
        What this rank writes; `None` for nothing.
    notices
        Receives problems.
    """

    def __init__(self, run_id: str, stream: RankStream | None, notices: Notices) -> None:
        self._run_id = run_id
        self._stream = stream
        self._notices = notices
        self._last = 0
        self._pid = os.getpid()
        self._at_exit = end_at_exit(self._end)

    @property
    def run_id(self) -> str:
        """Name of the run, as far as this process knows it."""
        return self._run_id

    @property
    def worker_pid(self) -> int:
        """Process id of this process, which has no worker."""
        return os.getpid()

    def step(self, *, step: int | None = None, batch: object = None, **metrics: object) -> None:
        """Write what this rank has to write of the step; store no row."""
        if self._stream is None or os.getpid() != self._pid:
            return
        try:
            number = self._last + 1 if step is None else int(step)
            if number != self._last:
                self._last = number
                self._stream.step(number, is_counted=step is None)
        except Exception as error:  # noqa: BLE001  (no error of the recording may end the training)
            self._notices.failed("step", error)

    def log(self, values: Mapping[str, object] | None = None, /, *, step: int | None = None, **metrics: object) -> None:
        """Do nothing."""

    def finish(self) -> Summary:
        """Return a summary without steps."""
        return self._end("")

    def summary(self) -> Summary:
        """Return a summary without steps."""
        return Summary(self._run_id, 0, 0, 0, 0, 1, 0.0, 0.0, dict(self._notices.counts))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End as `finish` does."""
        self._end("")

    def _end(self, failure: str) -> Summary:
        del failure
        if os.getpid() == self._pid:
            atexit.unregister(self._at_exit)
            stream, self._stream = self._stream, None
            if stream is not None:
                stream.close()
        return self.summary()
