"""Ties the schedule to the store: rebuilds it, and keeps what became of each run."""

from collections.abc import Sequence

from streamscalar.config import RunPlan
from streamscalar.errors import Kind, StreamscalarError
from streamscalar.protocol.progress import RunProgress, RunView, Snapshot
from streamscalar.protocol.schedule import (
    CancelRequested,
    Event,
    Instruction,
    RunFailed,
    Schedule,
    WorkerLost,
)
from streamscalar.store import Store


class Coordinator:
    """Decides what happens next; whoever calls it carries the instructions out.

    Parameters
    ----------
    store
        Store of the experiment, writable.
    plans
        Runs in the order in which they should start.
    max_concurrent
        Runs in training at once.
    n_rows
        Rows of one run.
    """

    def __init__(self, store: Store, plans: Sequence[RunPlan], max_concurrent: int, n_rows: int) -> None:
        self._store = store
        self._n_rows = n_rows
        self._schedule = Schedule.of([plan.run_id for plan in plans], max_concurrent)
        self._progress: dict[str, RunProgress] = {}
        self._error = ""
        self._rows_when_lost: dict[str, int] = {}
        self.plans = {plan.run_id: plan for plan in plans}

    def begin(self) -> list[Instruction]:
        """Take over what the store holds and return the first instructions."""
        instructions: list[Instruction] = []
        for run_id in set(self._store.run_ids()) & set(self.plans):
            reader = self._store.reader(run_id)
            instructions += self._schedule.restore(run_id, is_trained=reader.is_complete, is_done=reader.has_exact)
            if reader.has_exact:
                self._progress[run_id] = RunProgress(run_id, reader.n_embedded, float("nan"), 0, float("nan"))
        return instructions + self._schedule.start()

    def report(self, progress: RunProgress) -> None:
        """Take note of an embedded block; late and repeated reports change nothing."""
        known = self._progress.get(progress.run_id)
        if known is None or progress.n_rows >= known.n_rows:
            self._progress[progress.run_id] = progress

    def handle(self, event: Event) -> list[Instruction]:
        """Return what to do after `event`, and keep the phase of its run in the store."""
        instructions = self._schedule.handle(event)
        if not isinstance(event, CancelRequested):
            run = self._schedule.runs[event.run_id]
            if event.run_id in self._store.run_ids():
                self._store.set_status(event.run_id, phase=str(run.phase), attempts=run.attempts, reason=run.reason)
        return instructions

    def fail(self, run_id: str, error: BaseException) -> list[Instruction]:
        """Handle an exception of a worker; a full disk stops the whole experiment."""
        instructions: list[Instruction] = []
        if isinstance(error, StreamscalarError) and error.kind is Kind.STORE_FULL:
            self._error = str(error)
            instructions += self._schedule.handle(CancelRequested())
        return instructions + self.handle(self._meaning(run_id, error))

    def _meaning(self, run_id: str, error: BaseException) -> Event:
        """Return what an exception of a worker means: final where a retry would end the same."""
        if isinstance(error, StreamscalarError) and error.kind is not Kind.FENCED:
            return RunFailed(run_id, str(error))
        n_rows = self._progress[run_id].n_rows if run_id in self._progress else 0
        has_progressed = n_rows > self._rows_when_lost.get(run_id, 0)
        self._rows_when_lost[run_id] = n_rows
        return WorkerLost(run_id, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", has_progressed)

    def snapshot(self) -> Snapshot:
        """Return the state of all runs."""
        runs = tuple(
            RunView(run_id, str(run.phase), run.attempts, run.reason, self._progress.get(run_id))
            for run_id, run in self._schedule.runs.items()
        )
        n_rows = sum(progress.n_rows for progress in self._progress.values())
        return Snapshot(self._n_rows, n_rows, self._schedule.is_over, self._error, runs)
