"""The process that sends the results of one run to one back end.

It ends when the run has ended, or soon after the processes that record the run are gone.
"""

import importlib
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self
from uuid import uuid4

from streamscalar.experiment import Experiment
from streamscalar.store import Store
from streamscalar.store.media.files import write_durable
from streamscalar.tracking.worker.mirrors.backends.base import Backend, Target
from streamscalar.tracking.worker.mirrors.feed import Feed
from streamscalar.tracking.worker.mirrors.launch import LEFT_S, Assignment, files_of
from streamscalar.tracking.worker.name_lock import NameLock

LEAST_PAUSE_S, PAUSE_FACTOR = 1.0, 20.0
"""Pause between two polls of the store: at least a second, and 20 times the processor time of reading the results."""

RETRY_S = 60.0
"""Pause after a failure of the back end."""

SLOW_S = 60.0
"""Time without an answer of the back end after which that is reported."""


@dataclass
class Position:
    """What the back end has of a run; kept in a file, so that a later process continues there.

    Attributes
    ----------
    id
        Identifier of the run in the back end.
    n_rows, alerts
        Number of rows, and identifiers of the alerts, that were sent.
    numbered
        Names whose newest value is a number.
    is_started
        Whether the back end has the run.
    """

    id: str = field(default_factory=lambda: uuid4().hex[:16])
    n_rows: int = 0
    alerts: list[str] = field(default_factory=list)
    numbered: list[str] = field(default_factory=list)
    is_started: bool = False

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read the file; a new position if there is none."""
        try:
            return cls(**json.loads(file.read_text("utf-8")))
        except FileNotFoundError:
            return cls()

    def save(self, file: Path) -> None:
        """Write the file."""
        write_durable(file, json.dumps(asdict(self)).encode())


class Mirror:
    """Sends the results of a run to a back end.

    Parameters
    ----------
    task
        Run and back end.

    Attributes
    ----------
    busy_since_s : float or None
        When the back end was called; `None` while it is not being called.
    """

    def __init__(self, task: Assignment) -> None:
        self._task = task
        self._experiment = Experiment(Store.open(task.store))
        self._file = files_of(task.store, task.run_id, task.backend)[0]
        self._backend: Backend | None = None
        self._feed: Feed | None = None
        self.busy_since_s: float | None = None

    def is_over(self) -> bool:
        """Return whether the run has ended."""
        return self._phase() in {"done", "failed", "cancelled"}

    def send(self, *, is_last: bool) -> float:
        """Send what is new; return the seconds until the next call. An error is reported, and the next call retries."""
        try:
            used_s = self._send(is_last=is_last)
        except Exception as error:  # noqa: BLE001  (of any kind, from a back end; recording goes on)
            text = f"results do not reach {self._task.backend}: {type(error).__name__}: {error}"
            self._task.say(f"{text} (see {files_of('', self._task.run_id, self._task.backend)[1]} in the store)")
            # What is new is read again from the last position.
            self._backend = self._feed = None
            return RETRY_S
        finally:
            self.busy_since_s = None
        return max(LEAST_PAUSE_S, PAUSE_FACTOR * used_s)

    def _send(self, *, is_last: bool) -> float:
        """Send what is new; return the processor time of reading it."""
        position = Position.load(self._file)
        if self._feed is None:
            sent = position.n_rows, position.alerts, position.numbered
            self._feed = Feed(self._experiment, self._task.run_id, *sent)
        begun_s = time.thread_time()
        news = self._feed.read(is_over=is_last)
        used_s = time.thread_time() - begun_s
        self.busy_since_s = time.monotonic()
        if self._backend is None:
            self._backend = self._open(position)
        for step, values in news.values.items():
            self._backend.log(step, values)
        for name, text in news.notes.items():
            self._backend.note(name, text)
        for alert in news.alerts:
            self._backend.alert(alert.level, alert.rule, alert.message, alert.step or 0)
        self._backend.flush()
        if news.values or news.alerts:
            position.n_rows = news.n_rows
            position.alerts += [alert.id for alert in news.alerts]
            position.numbered = sorted(news.numbered)
            position.save(self._file)
        if is_last:
            self._backend.close(has_failed=self._phase() != "done")
        return used_s

    def _phase(self) -> str:
        return str(self._experiment.store.reader(self._task.run_id).status().get("phase"))

    def _open(self, position: Position) -> Backend:
        task = self._task
        module = importlib.import_module(f"streamscalar.tracking.worker.mirrors.backends.{task.backend}")
        # Saved first, so that a process that dies in between leaves the identifier to the next one.
        position.save(self._file)
        target = Target(task.run_id, task.group, position.id, position.is_started, task.settings)
        backend: Backend = module.open_backend(target)
        position.id, position.is_started = backend.id, True
        position.save(self._file)
        return backend


def guard(task: Assignment, mirror: Mirror) -> None:
    """Report a back end that does not answer; end this process `LEFT_S` after those that record the run are gone."""
    is_reported = False
    while not task.are_recorders_gone(1.0):
        since_s = mirror.busy_since_s
        if since_s is not None and time.monotonic() - since_s > SLOW_S and not is_reported:
            is_reported = True
            task.say(f"{task.backend} has not answered for {SLOW_S:.0f} s; rows are stored all the same")
    time.sleep(LEFT_S)
    os._exit(1)


def main() -> None:
    """Send the results of a run until it has ended."""
    task = Assignment.read()
    # The process of a worker that died may still be sending; it ends by itself.
    while (lock := NameLock.take(Path(task.store), f"{task.run_id}.{task.backend}")) is None:
        time.sleep(0.1)
    mirror = Mirror(task)
    threading.Thread(target=guard, args=(task, mirror), name="guard", daemon=True).start()
    is_over, pause_s = False, 0.0
    while not is_over:
        # Before the rows are read, so that none follows the last ones.
        is_over = task.are_recorders_gone(pause_s) or mirror.is_over()
        pause_s = mirror.send(is_last=is_over)
    lock.release()
    task.say("")


if __name__ == "__main__":
    main()
