"""Hashes the tensors of this rank every so many steps, and writes them to its stream from a thread."""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from streamscalar.store.rank_streams import Description, RankWriter, Role
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.capture import Flight, is_sharded
from streamscalar.tracking.training.ranks.compared import Compared
from streamscalar.tracking.training.ranks.hashes import hash_tensors
from streamscalar.tracking.training.ranks.meeting import Meeting, Place, session_name
from streamscalar.tracking.training.ranks.writing import Writer, WriterThread

EVERY = 100
"""Default number of steps between two comparisons; it doubles while they cost more than their share."""

SHARE = 0.25
"""Share of `max_overhead` that comparisons may take where their distance was not chosen."""

MOST_WAITING = 64
"""Number of hashed steps that wait for the thread; more are dropped, because the file system does not answer."""


@dataclass(frozen=True)
class _Hashed:
    """The hashes of a step, perhaps still on their way from a device."""

    call: int
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
    model
        The model. Its wrapper is searched for at the first step, because it may be made after the tracker.
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
        model: nn.Module,
        find: Callable[[], Place | None],
        every: int | None,
        max_overhead: float,
        notices: Notices,
    ) -> None:
        self._model = model
        self._find = find
        self._every = every
        self._notices = notices
        self._stride = every or EVERY
        self._share = None if every else SHARE * max_overhead
        self._first = self._last = 0
        self._n_steps = 0
        self._started_s = 0.0
        self._is_off = False
        self._thread: WriterThread[_Hashed] | None = None

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
        if self._thread is not None:
            self._thread.close()

    def _is_due(self, number: int) -> bool:
        before, self._last = self._last, number
        if not self._n_steps:
            self._first, self._started_s = number, time.perf_counter()
        self._n_steps += 1
        if self._n_steps == 1 or number < before:
            return True
        return (number - self._first) // self._stride != (before - self._first) // self._stride

    def _record(self, number: int, *, is_counted: bool) -> None:
        if self._thread is None:
            self._compared = Compared.of(self._model)
            if not self._compared.are_copies(is_asked=self._every is not None):
                self._is_off = True
                return
            rank = torch.distributed.get_rank()
            writer = _StreamWriter(rank, self._compared.group)
            about = f"the comparison of rank {rank}"
            self._thread = WriterThread(self._find, writer, MOST_WAITING, about, self._notices)
        if self._thread.has_failed:
            self._is_off = True
            return
        found = self._compared.tensors()
        hashes = hash_tensors([tensor for _, tensor in found.values()])
        flight = Flight.start([hashes]) if hashes.is_cuda else None
        roles = {name: role for name, (role, _) in found.items()}
        self._thread.put(_Hashed(self._n_steps, number, is_counted, roles, hashes, flight))


class _StreamWriter(Writer[_Hashed]):
    """Writes hashed steps to the stream of this rank."""

    def __init__(self, rank: int, group: Sequence[int]) -> None:
        self._rank, self._group = rank, tuple(group)
        self._newest = 0
        self._roles: dict[str, Role] = {}

    def open(self, place: Place) -> None:
        """Create the stream."""
        self._newest = place.newest
        self._stream = RankWriter(place.folder, self._rank)

    def write(self, item: _Hashed) -> None:
        """Append the hashes, once they have come from their device."""
        hashes = item.hashes
        if item.flight is not None:
            item.flight.event.synchronize()
            hashes = item.flight.numbers[0]
        if item.tensors != self._roles:
            self._roles = item.tensors
            self._stream.describe(Description(self._rank, socket.gethostname(), self._group, item.tensors))
        step = item.step + self._newest if item.is_counted else item.step
        self._stream.append(item.call, step, hashes.numpy())

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


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
    folder = run / "ranks" / session_name()
    meeting.announce(Place(folder, newest))

    def find() -> Place | None:
        if not (run / "zarr.json").exists():
            return None
        folder.mkdir(parents=True, exist_ok=True)
        # Rank 0 itself counts from the newest step on.
        return Place(folder, 0)

    return find


def may_compare(model: nn.Module, every: int | None) -> bool:
    """Return whether the ranks of this job may be copies of each other, and are to be compared if they are."""
    distributed = torch.distributed
    if every == 0 or not distributed.is_available() or not distributed.is_initialized():
        return False
    return distributed.get_world_size() > 1 and not is_sharded(model)
