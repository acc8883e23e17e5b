"""The part of each row that a rank of a sharded training holds, written for the worker of rank 0."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from streamscalar.tracking.channel.shards import Shards, write_part, write_positions
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.capture import Flight
from streamscalar.tracking.training.identity import Identity
from streamscalar.tracking.training.ranks.meeting import Meeting, Place, session_name
from streamscalar.tracking.training.ranks.shards import ShardedSelection
from streamscalar.tracking.training.ranks.writing import Writer, WriterThread

MOST_WAITING = 8
"""Number of parts that wait for the file system; more are dropped, and their rows are lost."""


@dataclass(frozen=True)
class _Part:
    """The values of a row, perhaps still on their way from a device."""

    call: int
    values: Tensor
    flight: Flight | None


class ShardRows:
    """Writes the part of this rank of every row; no error of it reaches the training.

    Parameters
    ----------
    identity
        The recorded parameters, a `ShardedSelection`.
    every
        Number of calls of `step` between rows, as on all ranks.
    find
        Returns where to write, and `None` as long as that is not known.
    notices
        Receives problems.
    """

    def __init__(self, identity: Identity, every: int, find: Callable[[], Place | None], notices: Notices) -> None:
        self._identity = identity
        self._every = every
        self._notices = notices
        self._n_calls, self._last, self._newest = 0, 0, -1
        rank = torch.distributed.get_rank()
        writer = _PartWriter(rank, _shards(identity))
        self._thread = WriterThread(find, writer, MOST_WAITING, f"the part of rank {rank}", notices)

    def step(self, number: int, *, is_counted: bool) -> float:
        """Copy the part of this rank if the step is recorded; `is_counted` has no meaning here."""
        del is_counted
        if number == self._last and self._n_calls:
            return 0.0
        self._last = number
        self._n_calls += 1
        # As the tracker of rank 0 decides with a fixed stride: going back begins a child run with a row.
        if (self._n_calls - 1) % self._every == 0 or number <= self._newest:
            self._newest = number
            changes = self._identity.changes()
            if changes:
                self._notices.warn("parameters", f"the parameters of this rank changed: {', '.join(changes[:3])}")
            elif not self._thread.has_failed:
                values = _shards(self._identity).values()
                flight = Flight.start([values]) if values.is_cuda else None
                self._thread.put(_Part(self._n_calls, values, flight))
        return 0.0

    def close(self) -> None:
        """Wait until everything is written."""
        self._thread.close()


class _PartWriter(Writer[_Part]):
    """Writes one file per row."""

    def __init__(self, rank: int, shards: ShardedSelection) -> None:
        self._rank = rank
        self._positions = torch.cat(shards.positions).cpu().numpy()

    def open(self, place: Place) -> None:
        """Write which positions the parts have."""
        self._folder = place.folder
        write_positions(self._folder, self._rank, self._positions)

    def write(self, item: _Part) -> None:
        """Write one part, once it has come from its device."""
        values = item.values
        if item.flight is not None:
            item.flight.event.synchronize()
            values = item.flight.numbers[0]
        if len(values):
            write_part(self._folder, self._rank, item.call, values.numpy())

    def close(self) -> None:
        """Do nothing."""


def new_shards(store: Path) -> Shards:
    """Return a folder in a store that no other job has, and the number of ranks."""
    return Shards(str(store / "tracking" / "shards" / session_name()), torch.distributed.get_world_size())


def announce_shards(shards: Shards, identity: Identity, meeting: Meeting) -> None:
    """Make the folder, write the positions of rank 0, and publish the folder to the other ranks.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    folder = Path(shards.folder)
    folder.mkdir(parents=True)
    write_positions(folder, 0, torch.cat(_shards(identity).positions).cpu().numpy())
    meeting.announce(Place(folder, 0))


def _shards(identity: Identity) -> ShardedSelection:
    selection = identity.selection
    assert isinstance(selection, ShardedSelection)
    return selection
