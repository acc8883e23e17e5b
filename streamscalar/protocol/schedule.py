"""Which pack of runs trains next, which one is retried, when the experiment is over.

A pack is what one trainer trains at once: one run, or several small ones; it is named after its first.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

MAX_ATTEMPTS = 4
"""The first attempt and three retries."""


ON_REQUEST = "cancelled on request"
"""Reason of a pack that the user did not want any more."""


class Phase(StrEnum):
    """Where a pack of runs stands."""

    WAITING = "waiting"
    TRAINING = "training"
    TRAINED = "trained"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED})


@dataclass(frozen=True, slots=True)
class TrainingFinished:
    """All rows of the pack's runs are stored."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class TrainingStopped:
    """The trainer obeyed a stop; what it recorded is stored."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class PackFinalised:
    """The exact solutions of the pack's runs are stored."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A process died under the pack, or something else that a retry may mend.

    `has_progressed` says whether the lost attempt brought it further: then the count of attempts starts anew.
    """

    pack_id: str
    reason: str
    has_progressed: bool = False


@dataclass(frozen=True, slots=True)
class PackFailed:
    """The pack cannot succeed; a retry would end the same."""

    pack_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The user wants to stop."""


@dataclass(frozen=True, slots=True)
class PackAdded:
    """The user wants another pack of runs; one that is there already stays as it is."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class PackCancelled:
    """The user no longer wants this pack; what it recorded is kept, and a pack that is trained is still finalised."""

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
class StartTraining:
    """Train the pack's runs, from their last common key frame where there is one."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Ask the pack's trainer to stop after the row it is at."""

    pack_id: str


@dataclass(frozen=True, slots=True)
class FinalisePack:
    """Embed what is left of the pack's runs and solve exactly."""

    pack_id: str


Instruction = StartTraining | StopTraining | FinalisePack


@dataclass(slots=True)
class PackState:
    """Phase of one pack, its attempts so far, why the last one ended where it failed, and whether it is wanted.

    `position` counts the packs in the order in which they should start; `n_runs` are the runs of the pack.
    """

    phase: Phase = Phase.WAITING
    attempts: int = 0
    reason: str = ""
    is_wanted: bool = True
    position: int = 0
    n_runs: int = 1


class Schedule:
    """State machine of an experiment.

    An event costs the same however many packs there are (a logarithm where one waits again): packs are counted and
    kept by phase, and those that wait lie in a heap in the order in which they should start.

    Parameters
    ----------
    max_concurrent
        Packs in training at once. As many again may wait for their exact solution, which bounds the disk that
        packs in flight use.

    Attributes
    ----------
    packs : dict
        State of each pack by its name, in the order in which they should start; to be read, not changed.
    is_cancelled : bool
        Whether the user wants to stop.
    n_runs : Counter
        Runs by the phase of their pack.
    n_unwanted : int
        Runs that were cancelled one by one, on request.
    """

    def __init__(self, max_concurrent: int) -> None:
        self.max_concurrent = max_concurrent
        self.packs: dict[str, PackState] = {}
        self.is_cancelled = False
        self.n_runs: Counter[Phase] = Counter()
        self.n_unwanted = 0
        # Dictionaries as sets that keep their order: views of a phase begin with what entered it first.
        self._by_phase: dict[Phase, dict[str, None]] = {phase: {} for phase in Phase}
        self._waiting: list[tuple[int, str]] = []

    @classmethod
    def of(cls, pack_ids: Iterable[str], max_concurrent: int) -> "Schedule":
        """Return a schedule in which every pack, of one run each, waits."""
        schedule = cls(max_concurrent)
        for pack_id in pack_ids:
            schedule.add(pack_id)
        return schedule

    def add(self, pack_id: str, n_runs: int = 1) -> None:
        """Let a pack wait behind all others, without starting it; one that is there already stays as it is."""
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
        """Packs that wait or train: as many trainers could be busy."""
        return self._count(Phase.WAITING) + self._count(Phase.TRAINING)

    def in_phase(self, phase: Phase) -> Iterator[str]:
        """Iterate over the packs in `phase`, first those that entered it first."""
        return iter(self._by_phase[phase])

    def resize(self, max_concurrent: int) -> list[Instruction]:
        """Let so many packs train at once from now on; more than that which train already go on to their end."""
        self.max_concurrent = max_concurrent
        return self.start()

    def restore(self, pack_id: str, *, is_trained: bool, is_done: bool) -> list[Instruction]:
        """Take over what the store says of a pack; call `start` when all are restored."""
        if is_done:
            self._move(pack_id, Phase.DONE)
        elif is_trained:
            self._move(pack_id, Phase.TRAINED)
            return [FinalisePack(pack_id)]
        return []

    def start(self) -> list[Instruction]:
        """Return the instructions that fill the free places."""
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
            # One that was cancelled or restored meanwhile left its entry behind.
            if self.packs[pack_id].phase is Phase.WAITING:
                self._move(pack_id, Phase.TRAINING)
                self.packs[pack_id].attempts += 1
                room -= 1
                instructions.append(StartTraining(pack_id))
        return instructions

    def handle(self, event: ScheduleEvent) -> list[Instruction]:
        """Return what to do after `event`."""
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
        """Change the phase of a pack and, where there is one, the reason; keep what is counted by phase."""
        pack = self.packs[pack_id]
        self._tally(pack, -1)
        del self._by_phase[pack.phase][pack_id]
        pack.phase = phase
        pack.reason = pack.reason if reason is None else reason
        self._by_phase[phase][pack_id] = None
        self._tally(pack, 1)
        if phase is Phase.WAITING:
            heapq.heappush(self._waiting, (pack.position, pack_id))

    def _tally(self, pack: PackState, sign: int) -> None:
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
