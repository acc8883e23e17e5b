"""Which pack of runs trains next, which one is retried, when the experiment is over.

A pack is what one trainer trains at once: one run, or several small ones; it is named after its first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
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


Event = (
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
    """Phase of one pack, its attempts so far, why the last one ended where it failed, and whether it is wanted."""

    phase: Phase = Phase.WAITING
    attempts: int = 0
    reason: str = ""
    is_wanted: bool = True


@dataclass(slots=True)
class Schedule:
    """State machine of an experiment.

    Parameters
    ----------
    max_concurrent
        Packs in training at once. As many again may wait for their exact solution, which bounds the disk that
        packs in flight use.
    packs
        In the order in which they should start.
    """

    max_concurrent: int
    packs: dict[str, PackState] = field(default_factory=dict)
    is_cancelled: bool = False

    @classmethod
    def of(cls, pack_ids: Iterable[str], max_concurrent: int) -> "Schedule":
        """Return a schedule in which every pack waits."""
        return cls(max_concurrent, {pack_id: PackState() for pack_id in pack_ids})

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return all(pack.phase in ENDED for pack in self.packs.values())

    def restore(self, pack_id: str, *, is_trained: bool, is_done: bool) -> list[Instruction]:
        """Take over what the store says of a pack; call `start` when all are restored."""
        if is_done:
            self.packs[pack_id].phase = Phase.DONE
        elif is_trained:
            self.packs[pack_id].phase = Phase.TRAINED
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
        for pack_id, pack in self.packs.items():
            if room <= 0:
                break
            if pack.phase is Phase.WAITING:
                pack.phase = Phase.TRAINING
                pack.attempts += 1
                room -= 1
                instructions.append(StartTraining(pack_id))
        return instructions

    def handle(self, event: Event) -> list[Instruction]:
        """Return what to do after `event`."""
        match event:
            case TrainingFinished(pack_id):
                self.packs[pack_id].phase = Phase.TRAINED
                return [FinalisePack(pack_id), *self.start()]
            case TrainingStopped(pack_id):
                self._drop(self.packs[pack_id])
            case PackAdded(pack_id):
                self.packs.setdefault(pack_id, PackState())
            case PackCancelled(pack_id):
                return self._cancel_pack(pack_id)
            case PackFinalised(pack_id):
                self.packs[pack_id] = PackState(Phase.DONE, self.packs[pack_id].attempts)
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
        return sum(pack.phase is phase for pack in self.packs.values())

    def _end(self, pack_id: str, reason: str) -> None:
        pack = self.packs[pack_id]
        pack.phase = Phase.CANCELLED if self.is_cancelled else Phase.FAILED
        pack.reason = reason

    def _cancel_pack(self, pack_id: str) -> list[Instruction]:
        pack = self.packs[pack_id]
        pack.is_wanted = False
        if pack.phase is Phase.WAITING:
            self._drop(pack)
        return [StopTraining(pack_id)] if pack.phase is Phase.TRAINING else []

    @staticmethod
    def _drop(pack: PackState) -> None:
        pack.phase = Phase.CANCELLED
        if not pack.is_wanted:
            pack.reason = ON_REQUEST

    def _retry(self, pack_id: str, reason: str) -> list[Instruction]:
        pack = self.packs[pack_id]
        pack.reason = reason
        if not pack.is_wanted and pack.phase is Phase.TRAINING:
            self._drop(pack)
            return self.start()
        if self.is_cancelled or pack.attempts >= MAX_ATTEMPTS:
            self._end(pack_id, f"{reason} (after {pack.attempts} attempts)")
            return self.start()
        if pack.phase is Phase.TRAINED:
            pack.attempts += 1
            return [FinalisePack(pack_id)]
        pack.phase = Phase.WAITING
        return self.start()

    def _cancel(self) -> list[Instruction]:
        self.is_cancelled = True
        for pack in self.packs.values():
            if pack.phase is Phase.WAITING:
                pack.phase = Phase.CANCELLED
        return [StopTraining(pack_id) for pack_id, pack in self.packs.items() if pack.phase is Phase.TRAINING]
