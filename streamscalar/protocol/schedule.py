"""Which run trains next, which one is retried, when the experiment is over."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

MAX_ATTEMPTS = 4
"""The first attempt and three retries."""


class Phase(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    TRAINING = "training"
    TRAINED = "trained"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED})


@dataclass(frozen=True, slots=True)
class TrainingFinished:
    """All rows of the run are stored."""

    run_id: str


@dataclass(frozen=True, slots=True)
class TrainingStopped:
    """The trainer obeyed a stop; what it recorded is stored."""

    run_id: str


@dataclass(frozen=True, slots=True)
class RunFinalised:
    """The exact solution of the run is stored."""

    run_id: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A process died under the run, or something else that a retry may mend.

    `has_progressed` says whether the lost attempt brought the run further: then the count of attempts starts anew.
    """

    run_id: str
    reason: str
    has_progressed: bool = False


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The run cannot succeed; a retry would end the same."""

    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The user wants to stop."""


Event = TrainingFinished | TrainingStopped | RunFinalised | WorkerLost | RunFailed | CancelRequested


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Train the run, from its last key frame where there is one."""

    run_id: str


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Ask the run's trainer to stop after the row it is at."""

    run_id: str


@dataclass(frozen=True, slots=True)
class FinaliseRun:
    """Embed what is left of the run and solve exactly."""

    run_id: str


Instruction = StartTraining | StopTraining | FinaliseRun


@dataclass(slots=True)
class RunState:
    """Phase of one run, its attempts so far, and why the last one ended where it failed."""

    phase: Phase = Phase.WAITING
    attempts: int = 0
    reason: str = ""


@dataclass(slots=True)
class Schedule:
    """State machine of an experiment.

    Parameters
    ----------
    max_concurrent
        Runs in training at once. As many again may wait for their exact solution, which bounds the disk that
        runs in flight use.
    runs
        In the order in which they should start.
    """

    max_concurrent: int
    runs: dict[str, RunState] = field(default_factory=dict)
    is_cancelled: bool = False

    @classmethod
    def of(cls, run_ids: Iterable[str], max_concurrent: int) -> "Schedule":
        """Return a schedule in which every run waits."""
        return cls(max_concurrent, {run_id: RunState() for run_id in run_ids})

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return all(run.phase in ENDED for run in self.runs.values())

    def restore(self, run_id: str, *, is_trained: bool, is_done: bool) -> list[Instruction]:
        """Take over what the store says of a run; call `start` when all are restored."""
        if is_done:
            self.runs[run_id].phase = Phase.DONE
        elif is_trained:
            self.runs[run_id].phase = Phase.TRAINED
            return [FinaliseRun(run_id)]
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
        for run_id, run in self.runs.items():
            if room <= 0:
                break
            if run.phase is Phase.WAITING:
                run.phase = Phase.TRAINING
                run.attempts += 1
                room -= 1
                instructions.append(StartTraining(run_id))
        return instructions

    def handle(self, event: Event) -> list[Instruction]:
        """Return what to do after `event`."""
        match event:
            case TrainingFinished(run_id):
                self.runs[run_id].phase = Phase.TRAINED
                return [FinaliseRun(run_id), *self.start()]
            case TrainingStopped(run_id):
                self.runs[run_id].phase = Phase.CANCELLED
            case RunFinalised(run_id):
                self.runs[run_id] = RunState(Phase.DONE, self.runs[run_id].attempts)
            case RunFailed(run_id, reason):
                self._end(run_id, reason)
            case WorkerLost(run_id, reason, has_progressed):
                if has_progressed:
                    self.runs[run_id].attempts = 1
                return self._retry(run_id, reason)
            case CancelRequested():
                return self._cancel()
        return self.start()

    def _count(self, phase: Phase) -> int:
        return sum(run.phase is phase for run in self.runs.values())

    def _end(self, run_id: str, reason: str) -> None:
        run = self.runs[run_id]
        run.phase = Phase.CANCELLED if self.is_cancelled else Phase.FAILED
        run.reason = reason

    def _retry(self, run_id: str, reason: str) -> list[Instruction]:
        run = self.runs[run_id]
        run.reason = reason
        if self.is_cancelled or run.attempts >= MAX_ATTEMPTS:
            self._end(run_id, f"{reason} (after {run.attempts} attempts)")
            return self.start()
        if run.phase is Phase.TRAINED:
            run.attempts += 1
            return [FinaliseRun(run_id)]
        run.phase = Phase.WAITING
        return self.start()

    def _cancel(self) -> list[Instruction]:
        self.is_cancelled = True
        for run in self.runs.values():
            if run.phase is Phase.WAITING:
                run.phase = Phase.CANCELLED
        return [StopTraining(run_id) for run_id, run in self.runs.items() if run.phase is Phase.TRAINING]
