"""The schedule of an experiment: which pack of runs trains next, which is retried, and when the experiment is over.

A pack is the set of runs that one trainer trains together: one run, or several small ones. It has the name of its first
run. Events go in, instructions come out; the schedule does no I/O. Each instruction carries the id of the event that
caused it, so that a line of the log can be followed to its cause.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

MAX_ATTEMPTS = 4
"""The first attempt and three retries."""


ON_REQUEST = "cancelled on request"
"""Reason of a pack that was cancelled on its own, not with the whole experiment."""


class Phase(StrEnum):
    """Phase of a pack of runs."""

    WAITING = "waiting"
    TRAINING = "training"
    TRAINED = "trained"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How the training of a pack ended without an error."""

    FINISHED = "finished"
    STOPPED = "stopped"


ENDED = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identified:
    """Base of events and instructions: `event_id` names an event, and the event that caused an instruction."""

    event_id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class TrainingFinished(_Identified):
    """All rows of the pack's runs are stored."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class TrainingStopped(_Identified):
    """The trainer stopped on request; the rows it recorded are stored."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class PackFinalised(_Identified):
    """The exact solutions of the pack's runs are stored."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class WorkerLost(_Identified):
    """A process of the pack died, or failed in another way that a retry may fix.

    `has_progressed` is whether the attempt stored new rows; if so, the count of attempts restarts at 1.
    """

    pack_id: str
    reason: str
    has_progressed: bool = False


@dataclass(frozen=True, slots=True)
class PackFailed(_Identified):
    """The pack failed in a way that a retry would repeat."""

    pack_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CancelRequested(_Identified):
    """The user requested the end of the experiment."""


@dataclass(frozen=True, slots=True)
class PackAdded(_Identified):
    """The user requested another pack of runs; a known pack is not changed."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class PackCancelled(_Identified):
    """The user cancelled this pack; its stored rows are kept, and a trained pack is still finalised."""

    pack_id: str


ScheduleEvent = (
    TrainingFinished
    | TrainingStopped
    | PackFinalised
    | WorkerLost
    | PackFailed
    | CancelRequested
    | PackAdded
    | PackCancelled
)


@dataclass(frozen=True, slots=True)
class StartTraining(_Identified):
    """Train the pack's runs, from their last common key frame if there is one."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class StopTraining(_Identified):
    """Make the pack's trainer stop after its current row."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class FinalisePack(_Identified):
    """Embed the remaining rows of the pack's runs and compute their exact solutions."""

    pack_id: str


Instruction = StartTraining | StopTraining | FinalisePack


@dataclass(slots=True)
class PackState:
    """State of one pack.

    Attributes
    ----------
    phase
        Its phase.
    attempts
        Attempts so far.
    reason
        Why the last attempt failed; empty if none did.
    is_wanted
        False once the user cancelled this pack.
    position
        Position in the order of starting.
    n_runs
        Number of its runs.
    """

    phase: Phase = Phase.WAITING
    attempts: int = 0
    reason: str = ""
    is_wanted: bool = True
    position: int = 0
    n_runs: int = 1


class Schedule:
    """State machine of an experiment.

    The cost of an event does not depend on the number of packs, except for a logarithm if a pack waits again: packs
    are counted and kept by phase, and waiting packs are in a heap in the order of starting.

    Parameters
    ----------
    max_concurrent
        Maximum number of packs in training. As many again may wait for their exact solution, which bounds the disk
        space that unfinished packs use.

    Attributes
    ----------
    packs : dict
        State of each pack by its name, in the order of starting; read-only.
    is_cancelled : bool
        Whether the user requested the end of the experiment.
    n_runs : Counter
        Number of runs by the phase of their pack.
    n_unwanted : int
        Number of runs that were cancelled on their own.
    """

    def __init__(self, max_concurrent: int) -> None:
        self.max_concurrent = max_concurrent
        self.packs: dict[str, PackState] = {}
        self.is_cancelled = False
        self.n_runs: Counter[Phase] = Counter()
        self.n_unwanted = 0
        # Dictionaries serve as ordered sets: a view of a phase starts with the pack that entered it first.
        self._by_phase: dict[Phase, dict[str, None]] = {phase: {} for phase in Phase}
        self._waiting: list[tuple[int, str]] = []

    @classmethod
    def of(cls, pack_ids: Iterable[str], max_concurrent: int) -> "Schedule":
        """Return a schedule in which all packs, of one run each, wait."""
        schedule = cls(max_concurrent)
        for pack_id in pack_ids:
            schedule.add(pack_id)
        return schedule

    def add(self, pack_id: str, n_runs: int = 1) -> None:
        """Append a waiting pack, without starting it; a known pack is not changed."""
        if pack_id in self.packs:
            return
        pack = self.packs[pack_id] = PackState(position=len(self.packs), n_runs=n_runs)
        self.n_runs[Phase.WAITING] += n_runs
        self._by_phase[Phase.WAITING][pack_id] = None
        heapq.heappush(self._waiting, (pack.position, pack_id))

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return sum(len(self._by_phase[phase]) for phase in ENDED) == len(self.packs)

    @property
    def n_wanted(self) -> int:
        """Number of packs that wait or train, which is how many trainers could be busy."""
        return self._count(Phase.WAITING) + self._count(Phase.TRAINING)

    def in_phase(self, phase: Phase) -> Iterator[str]:
        """Iterate over the packs in `phase`, in the order in which they entered it."""
        return iter(self._by_phase[phase])

    def resize(self, max_concurrent: int) -> list[Instruction]:
        """Change the maximum number of packs in training and return what starts; no training is stopped."""
        self.max_concurrent = max_concurrent
        return self.start()

    def restore(self, pack_id: str, *, is_trained: bool, is_done: bool) -> list[Instruction]:
        """Restore a pack from the state of its runs in the store; call `start` after the last one."""
        if is_done:
            self._move(pack_id, Phase.DONE)
        elif is_trained:
            self._move(pack_id, Phase.TRAINED)
            return [FinalisePack(pack_id)]
        return []

    def start(self) -> list[Instruction]:
        """Start as many waiting packs as there is room for; return the instructions."""
        instructions: list[Instruction] = []
        if self.is_cancelled:
            return instructions
        n_training = self._count(Phase.TRAINING)
        room = min(
            self.max_concurrent - n_training,
            2 * self.max_concurrent - n_training - self._count(Phase.TRAINED),
        )
        while room > 0 and self._waiting:
            _, pack_id = heapq.heappop(self._waiting)
            # The heap keeps the entries of packs that were cancelled or restored meanwhile.
            if self.packs[pack_id].phase is Phase.WAITING:
                self._move(pack_id, Phase.TRAINING)
                self.packs[pack_id].attempts += 1
                room -= 1
                instructions.append(StartTraining(pack_id))
        return instructions

    def handle(self, event: ScheduleEvent) -> list[Instruction]:
        """Return the instructions that follow from `event`; they carry its id."""
        return [replace(instruction, event_id=event.event_id) for instruction in self._handled(event)]

    def _handled(self, event: ScheduleEvent) -> list[Instruction]:
        match event:
            case TrainingFinished(pack_id):
                self._move(pack_id, Phase.TRAINED)
                return [FinalisePack(pack_id), *self.start()]
            case TrainingStopped(pack_id):
                self._drop(pack_id)
            case PackAdded(pack_id):
                self.add(pack_id)
            case PackCancelled(pack_id):
                return self._cancel_pack(pack_id)
            case PackFinalised(pack_id):
                self._move(pack_id, Phase.DONE, "")
            case PackFailed(pack_id, reason):
                self._end(pack_id, reason)
            case WorkerLost(pack_id, reason, has_progressed):
                if has_progressed:
                    self.packs[pack_id].attempts = 1
                return self._retry(pack_id, reason)
            case CancelRequested():
                return self._cancel()
        return self.start()

    def _count(self, phase: Phase) -> int:
        return len(self._by_phase[phase])

    def _move(self, pack_id: str, phase: Phase, reason: str | None = None) -> None:
        """Change the phase of a pack, and its reason if one is given; update the counts."""
        pack = self.packs[pack_id]
        self._count_runs(pack, -1)
        del self._by_phase[pack.phase][pack_id]
        pack.phase = phase
        pack.reason = pack.reason if reason is None else reason
        self._by_phase[phase][pack_id] = None
        self._count_runs(pack, 1)
        if phase is Phase.WAITING:
            heapq.heappush(self._waiting, (pack.position, pack_id))

    def _count_runs(self, pack: PackState, sign: int) -> None:
        self.n_runs[pack.phase] += sign * pack.n_runs
        if pack.phase is Phase.CANCELLED and pack.reason == ON_REQUEST:
            self.n_unwanted += sign * pack.n_runs

    def _end(self, pack_id: str, reason: str) -> None:
        self._move(pack_id, Phase.CANCELLED if self.is_cancelled else Phase.FAILED, reason)

    def _cancel_pack(self, pack_id: str) -> list[Instruction]:
        pack = self.packs[pack_id]
        pack.is_wanted = False
        if pack.phase is Phase.WAITING:
            self._drop(pack_id)
        return [StopTraining(pack_id)] if pack.phase is Phase.TRAINING else []

    def _drop(self, pack_id: str) -> None:
        self._move(pack_id, Phase.CANCELLED, None if self.packs[pack_id].is_wanted else ON_REQUEST)

    def _retry(self, pack_id: str, reason: str) -> list[Instruction]:
        pack = self.packs[pack_id]
        if not pack.is_wanted and pack.phase is Phase.TRAINING:
            self._drop(pack_id)
        elif self.is_cancelled or pack.attempts >= MAX_ATTEMPTS:
            self._end(pack_id, f"{reason} (after {pack.attempts} attempts)")
        elif pack.phase is Phase.TRAINED:
            pack.attempts += 1
            pack.reason = reason
            return [FinalisePack(pack_id)]
        else:
            self._move(pack_id, Phase.WAITING, reason)
        return self.start()

    def _cancel(self) -> list[Instruction]:
        self.is_cancelled = True
        for pack_id in list(self._by_phase[Phase.WAITING]):
            self._move(pack_id, Phase.CANCELLED)
        training = sorted(self._by_phase[Phase.TRAINING], key=lambda pack_id: self.packs[pack_id].position)
        return [StopTraining(pack_id) for pack_id in training]
