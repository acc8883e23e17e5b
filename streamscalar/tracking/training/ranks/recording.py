"""Hashes the tensors of this rank every so many steps, and writes them to its stream from a thread."""

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from streamscalar.store.rank_streams import Description, RankWriter, Role
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.capture import Flight
from streamscalar.tracking.training.ranks.compared import Compared
from streamscalar.tracking.training.ranks.hashes import hash_tensors
from streamscalar.tracking.training.ranks.meeting import Meeting, Place

_LOG = logging.getLogger(__name__)

EVERY = 100
"""Default number of steps between two comparisons; it doubles while they cost more than their share."""

SHARE = 0.25
"""Share of `max_overhead` that comparisons may take where their distance was not chosen."""

MOST_WAITING = 64
"""Number of hashed steps that wait for the thread; more are dropped, because the file system does not answer."""

FIND_S = 60.0
"""Time after the first comparison within which the folder of the streams must be there."""

CLOSE_S = 10.0
"""Time that `close` waits for the thread."""

_POLL_S = 0.05


@dataclass(frozen=True)
class _Hashed:
    """The hashes of a step, perhaps still on their way from a device."""

    turn: int
    step: int
    is_counted: bool
    tensors: dict[str, Role]
    hashes: Tensor
    flight: Flight | None


class RankHashes:
    """Records the hashes of one rank; no error of it reaches the training.

    The steps to compare follow from their numbers alone, so that all ranks choose the same ones without asking: the
    first, and then the first in each interval of `every` steps. Where the cost doubles the interval on some ranks, they
    compare every second of the steps of the others.

    Parameters
    ----------
    compared
        The compared tensors.
    find
        Returns where to write, and `None` as long as that is not known.
    every
        Number of steps between two comparisons; `None` for `EVERY`, or more where they cost too much.
    max_overhead
        Maximum share of the training time spent on all of the recording.
    notices
        Receives problems.
    """

    def __init__(
        self,
        compared: Compared,
        find: Callable[[], Place | None],
        every: int | None,
        max_overhead: float,
        notices: Notices,
    ) -> None:
        self._compared = compared
        self._notices = notices
        self._rank = torch.distributed.get_rank()
        self._stride = every or EVERY
        self._share = None if every else SHARE * max_overhead
        self._first = self._last = 0
        self._turn, self._n_steps = 0, 0
        self._started_s = 0.0
        self._is_off = False
        self._thread = _Thread(find, self._rank, compared.group, notices)

    def step(self, number: int, *, is_counted: bool) -> float:
        """Hash the tensors if the step is to be compared; return the time that took in this thread, in seconds.

        Parameters
        ----------
        number
            Number of the step.
        is_counted
            Whether this process counted it from 0, which is not where rank 0 of a resumed run does.
        """
        if self._is_off or not self._is_due(number):
            return 0.0
        started_s = time.thread_time()
        try:
            self._record(number, is_counted=is_counted)
        except Exception as error:  # noqa: BLE001  (no error of the recording may end the training)
            self._is_off = True
            self._notices.failed("ranks", error)
        cost_s = time.thread_time() - started_s
        if self._share is not None:
            elapsed_s = time.perf_counter() - self._started_s
            if self._n_steps > 1 and cost_s * self._n_steps > self._share * self._stride * elapsed_s:
                self._stride *= 2
        return cost_s

    def close(self) -> None:
        """Wait until everything is written."""
        self._is_off = True
        self._thread.close()

    def _is_due(self, number: int) -> bool:
        before, self._last = self._last, number
        if not self._n_steps:
            self._first, self._started_s = number, time.perf_counter()
        self._n_steps += 1
        if self._n_steps == 1:
            return True
        if number < before:
            self._turn += 1
            return True
        return (number - self._first) // self._stride != (before - self._first) // self._stride

    def _record(self, number: int, *, is_counted: bool) -> None:
        found = self._compared.tensors()
        hashes = hash_tensors([tensor for _, tensor in found.values()])
        flight = Flight.start([hashes]) if hashes.is_cuda else None
        roles = {name: role for name, (role, _) in found.items()}
        if not self._thread.put(_Hashed(self._turn, number, is_counted, roles, hashes, flight)):
            self._is_off = True


class _Thread:
    """Writes hashed steps to the stream of this rank, once its folder is known."""

    def __init__(self, find: Callable[[], Place | None], rank: int, group: list[int], notices: Notices) -> None:
        self._find = find
        self._rank, self._group = rank, tuple(group)
        self._notices = notices
        self._waiting: queue.Queue[_Hashed | None] = queue.Queue(MOST_WAITING)
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_failed = False
        self._roles: dict[str, Role] = {}

    def put(self, hashed: _Hashed) -> bool:
        """Queue a step; return whether comparisons are to go on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="streamscalar ranks", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(hashed)
        except queue.Full:
            self._notices.warn("ranks", f"rank {self._rank} is not compared at all steps: its file system is too slow")
        return not self._has_failed

    def close(self) -> None:
        """Write what waits, for a limited time."""
        self._is_closing.set()
        if self._thread is not None:
            try:
                self._waiting.put(None, timeout=CLOSE_S)
            except queue.Full:
                return
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:  # noqa: BLE001  (no error may leave a thread of the training process)
            self._has_failed = True
            self._notices.failed(f"rank {self._rank} is not compared", error)

    def _write(self) -> None:
        place = self._place()
        if place is None:
            self._has_failed = True
            return
        writer = RankWriter(place.folder, self._rank)
        try:
            while (hashed := self._waiting.get()) is not None:
                if hashed.flight is not None:
                    hashed.flight.event.synchronize()
                hashes = hashed.hashes if hashed.flight is None else hashed.flight.numbers[0]
                if hashed.tensors != self._roles:
                    self._roles = hashed.tensors
                    writer.describe(Description(self._rank, socket.gethostname(), self._group, hashed.tensors))
                step = hashed.step + place.newest if hashed.is_counted else hashed.step
                writer.append(hashed.turn, step, hashes.numpy())
        finally:
            writer.close()

    def _place(self) -> Place | None:
        """Wait for the folder; warn and return `None` if it does not come."""
        until_s, is_closing = time.monotonic() + FIND_S, False
        place = None
        while time.monotonic() < until_s:
            place = place or self._find()
            if place is not None and place.folder.is_dir():
                return place
            if self._is_closing.is_set() and not is_closing:
                until_s, is_closing = min(until_s, time.monotonic() + CLOSE_S / 2), True
            time.sleep(_POLL_S)
        where = "the folder of the run, which rank 0 did not announce" if place is None else str(place.folder)
        fix = "use a store on a file system that all hosts share"
        text = f"rank {self._rank} on {socket.gethostname()} is not compared with the others: it does not see {where}"
        self._notices.warn("ranks", f"{text}; {fix}")
        return None


def first_rank(meeting: Meeting, run: Path, newest: int) -> Callable[[], Place | None]:
    """Announce the folder of the streams; return a function that makes it as soon as the run is there.

    Parameters
    ----------
    meeting
        Where the other ranks look.
    run
        Folder of the run.
    newest
        Newest step of a resumed run; 0 for a new one.
    """
    place = meeting.announce(run, newest)

    def find() -> Place | None:
        if not (run / "zarr.json").exists():
            return None
        place.folder.mkdir(parents=True, exist_ok=True)
        # Rank 0 itself counts from the newest step on.
        return Place(place.folder, 0)

    return find


def comparable(model: nn.Module, every: int | None) -> Compared | None:
    """Return what to compare; `None` where ranks are not copies of each other, or are not to be compared.

    Parameters
    ----------
    model
        The model that this rank trains.
    every
        As passed to `track`: with `None`, only the wrapper of the model shows that ranks are copies.
    """
    distributed = torch.distributed
    if every == 0 or not distributed.is_available() or not distributed.is_initialized():
        return None
    compared = Compared.of(model)
    if (compared.parallel is None and every is None) or compared.averages_weights or len(compared.group) < 2:
        return None
    return compared
