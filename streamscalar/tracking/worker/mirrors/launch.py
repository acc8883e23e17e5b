"""Starts the processes that send results to back ends, and passes on what they report."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from streamscalar.tracking.channel.messages import Open

FINISH_S = 10.0
"""Time that the end of a run waits for its back ends."""

LEFT_S = 600.0
"""Time that back ends have after that: at the lowest priority on a busy machine it takes minutes."""


@dataclass(frozen=True)
class Assignment:
    """What a process sends, and how it reaches the one that started it.

    Attributes
    ----------
    store, run_id, group
        Folder of the store, and names of run and group.
    backend, settings
        As in `Destination`.
    recorders
        Pipe that is closed when the processes that record the run are gone.
    answers
        Pipe for lines of JSON: back end, run, and a problem, which is empty at the end.
    """

    store: str
    run_id: str
    group: str
    backend: str
    settings: dict[str, str]
    recorders: int
    answers: int

    @classmethod
    def read(cls) -> Self:
        """Read the assignment of this process from its standard input."""
        return cls(**json.loads(sys.stdin.read()))

    def are_recorders_gone(self, timeout_s: float) -> bool:
        """Wait until the processes that record the run are gone, at most `timeout_s`; return whether they are."""
        return bool(select.select([self.recorders], [], [], timeout_s)[0])

    def say(self, problem: str) -> None:
        """Report a problem, or the end with an empty text."""
        # A line within the limit of atomic writes is never mixed with that of another process.
        line = json.dumps([self.backend, self.run_id, problem[:500]]) + "\n"
        with contextlib.suppress(OSError):
            os.write(self.answers, line.encode())


class Mirrors:
    """The processes of one tracker; made before the worker forks its finisher, which waits for them at the end."""

    def __init__(self) -> None:
        self._recorders = os.pipe()
        self._answers = os.pipe()
        self._started: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._unread = b""

    def only_wait(self) -> None:
        """In a process that starts none: close the end of the pipe that the started ones write to."""
        os.close(self._answers[1])

    def start(self, request: Open, run_id: str, report: Callable[[str, str], None]) -> None:
        """Start the processes of a run unless they were started."""
        for to in request.mirrors:
            if (run_id, to.backend) in self._started:
                continue
            group = str(request.setting.group)
            files = self._recorders[0], self._answers[1]
            task = Assignment(request.store, run_id, group, to.backend, to.settings, *files)
            try:
                self._started[run_id, to.backend] = _spawn(task)
            except OSError as error:
                report(f"mirror {to.backend}", f"results do not reach {to.backend}: {error}")

    def take(self, report: Callable[[str, str], None]) -> None:
        """Pass on the problems that were reported; does not wait."""
        while self._started and select.select([self._answers[0]], [], [], 0)[0]:
            for backend, _, problem in self._lines(os.read(self._answers[0], 2**16)):
                if problem:
                    report(f"mirror {backend}", problem)

    def wait(self, request: Open, run_id: str, report: Callable[[str, str], None]) -> None:
        """Wait until all have ended, at most `FINISH_S`; report the back ends that have not."""
        if self._started:
            self.only_wait()
        os.close(self._recorders[1])
        started = {to.backend for to in request.mirrors if files_of(request.store, run_id, to.backend)[1].exists()}
        until = time.monotonic() + FINISH_S
        why = (
            f"did not take all results within {FINISH_S:.0f} s; the rest follows for at most {LEFT_S / 60:.0f} minutes"
        )
        left = set(started)
        while left and select.select([self._answers[0]], [], [], max(0.0, until - time.monotonic()))[0]:
            data = os.read(self._answers[0], 2**16)
            if not data:
                why = f"did not take all results; see tracking/{run_id}.*.log in the store"
                break
            for backend, run, problem in self._lines(data):
                if problem:
                    report(f"mirror {backend}", problem)
                elif run == run_id:
                    left.discard(backend)
        for backend in sorted(left):
            report(f"mirror {backend}", f"{backend} {why}")

    def _lines(self, data: bytes) -> Iterator[tuple[str, str, str]]:
        """Yield back end, run and problem of the whole lines so far."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            backend, run_id, problem = json.loads(line)
            yield backend, run_id, problem


def files_of(store: str | Path, run_id: str, backend: str) -> tuple[Path, Path]:
    """Return where a mirror keeps its position, and the output of its back end."""
    folder = Path(store, "tracking")
    return folder / f"{run_id}.{backend}.json", folder / f"{run_id}.{backend}.log"


def _spawn(task: Assignment) -> subprocess.Popen[bytes]:
    """Start a process; it inherits the low priority of this one."""
    log = files_of(task.store, task.run_id, task.backend)[1]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "streamscalar.tracking.worker.mirrors.main"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(task.recorders, task.answers),
        )
    # Not in the arguments, which all users of the machine can see: an address may hold a password.
    if process.stdin is not None:
        with contextlib.suppress(OSError), process.stdin as file:
            file.write(json.dumps(asdict(task)).encode())
    return process
