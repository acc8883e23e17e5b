"""Ties the schedule to the store: rebuilds it, and keeps what became of each run."""

from collections.abc import Sequence

from streamscalar.config import RunPlan
from streamscalar.errors import Kind, StreamscalarError
from streamscalar.protocol.progress import RunProgress, RunView, Snapshot
from streamscalar.protocol.schedule import (
    CancelRequested,
    Event,
    Instruction,
    PackAdded,
    PackCancelled,
    PackFailed,
    PackState,
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
    packs
        Runs in the order in which they should start, those together that one trainer trains at once.
    max_concurrent
        Packs in training at once.
    n_rows
        Rows of one run.
    """

    def __init__(self, store: Store, packs: Sequence[tuple[RunPlan, ...]], max_concurrent: int, n_rows: int) -> None:
        self._store = store
        self._n_rows = n_rows
        self.packs = {pack[0].run_id: pack for pack in packs}
        self._schedule = Schedule.of(self.packs, max_concurrent)
        self._known_requests: set[str] = set()
        self._progress: dict[str, RunProgress] = {}
        self._error = ""
        self._rows_when_lost: dict[str, int] = {}

    def begin(self) -> list[Instruction]:
        """Take over what the store holds and return the first instructions."""
        instructions: list[Instruction] = []
        wishes = self._wishes()
        stored = set(self._store.run_ids())
        for pack_id, pack in self.packs.items():
            readers = [self._store.reader(plan.run_id) for plan in pack if plan.run_id in stored]
            if len(readers) == len(pack):
                is_trained = all(reader.is_complete for reader in readers)
                is_done = all(reader.has_exact for reader in readers)
                instructions += self._schedule.restore(pack_id, is_trained=is_trained, is_done=is_done)
            for reader in readers:
                if reader.has_exact:
                    done = RunProgress(reader.run_id, reader.n_embedded, float("nan"), 0, float("nan"))
                    self._progress[reader.run_id] = done
        for wish in wishes:
            if isinstance(wish, PackCancelled):
                instructions += self.handle(wish)
        return instructions + self._schedule.start()

    def obey(self) -> list[Instruction]:
        """Return what to do about the runs that were asked for, or cancelled, since the last call."""
        return [instruction for wish in self._wishes() for instruction in self.handle(wish)]

    def _wishes(self) -> list[PackAdded | PackCancelled]:
        """Read new requests; packs that they add are known from now on."""
        wishes: list[PackAdded | PackCancelled] = []
        for request in self._store.requests(self._known_requests):
            if request["kind"] == "add":
                for run in request["runs"]:
                    plan = RunPlan(**run)
                    if self._pack_of(plan.run_id) is None:
                        self.packs[plan.run_id] = (plan,)
                        self._schedule.packs[plan.run_id] = PackState()
                        wishes.append(PackAdded(plan.run_id))
            elif (pack_id := self._pack_of(request["run_id"])) is not None:
                wishes.append(PackCancelled(pack_id))
        return wishes

    def _pack_of(self, run_id: str) -> str | None:
        return next((name for name, pack in self.packs.items() if any(run.run_id == run_id for run in pack)), None)

    def report(self, progress: RunProgress) -> None:
        """Take note of an embedded block; late and repeated reports change nothing."""
        known = self._progress.get(progress.run_id)
        if known is None or progress.n_rows >= known.n_rows:
            self._progress[progress.run_id] = progress

    def handle(self, event: Event) -> list[Instruction]:
        """Return what to do after `event`, and keep the phase of its runs in the store."""
        instructions = self._schedule.handle(event)
        if not isinstance(event, CancelRequested):
            state = self._schedule.packs[event.pack_id]
            stored = set(self._store.run_ids())
            for plan in self.packs[event.pack_id]:
                if plan.run_id in stored:
                    self._store.set_status(
                        plan.run_id, phase=str(state.phase), attempts=state.attempts, reason=state.reason
                    )
        return instructions

    def fail(self, pack_id: str, error: BaseException) -> list[Instruction]:
        """Handle an exception of a worker; a full disk stops the whole experiment."""
        instructions: list[Instruction] = []
        if isinstance(error, StreamscalarError) and error.kind is Kind.STORE_FULL:
            self._error = str(error)
            instructions += self._schedule.handle(CancelRequested())
        return instructions + self.handle(self._meaning(pack_id, error))

    def _meaning(self, pack_id: str, error: BaseException) -> Event:
        """Return what an exception of a worker means: final where a retry would end the same."""
        if isinstance(error, StreamscalarError) and error.kind is not Kind.FENCED:
            return PackFailed(pack_id, str(error))
        n_rows = sum(self._progress[run.run_id].n_rows for run in self.packs[pack_id] if run.run_id in self._progress)
        has_progressed = n_rows > self._rows_when_lost.get(pack_id, 0)
        self._rows_when_lost[pack_id] = n_rows
        return WorkerLost(pack_id, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", has_progressed)

    def snapshot(self) -> Snapshot:
        """Return the state of all runs."""
        runs = tuple(
            RunView(plan.run_id, str(state.phase), state.attempts, state.reason, self._progress.get(plan.run_id))
            for pack_id, state in self._schedule.packs.items()
            for plan in self.packs[pack_id]
        )
        n_rows = sum(progress.n_rows for progress in self._progress.values())
        return Snapshot(self._n_rows, n_rows, self._schedule.is_over, self._error, runs)
