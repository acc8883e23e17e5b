"""The coordinator connects the schedule to the store: it rebuilds the schedule and stores the phase of each run.

The cost of a call does not depend on the number of runs: what is queried often is counted when it changes. Only `begin`
visits every run, with one read for each that is done.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from streamscalar.config import RunPlan
from streamscalar.errors import BadCall, Kind, StreamscalarError
from streamscalar.protocol.progress import MAX_VIEWS, RunProgress, RunView, Snapshot
from streamscalar.protocol.schedule import (
    CancelRequested,
    Instruction,
    PackAdded,
    PackCancelled,
    PackFailed,
    Phase,
    Schedule,
    ScheduleEvent,
    WorkerLost,
)
from streamscalar.store import Store, Unreachable

_LOG = logging.getLogger(__name__)

FAILED_VIEWS = 8
"""Failed runs that a snapshot shows before those in training if it cannot show all."""


N_READERS = 32
"""Concurrent reads of runs in a bucket."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """State of a run in the store."""

    is_trained: bool
    is_done: bool
    n_rows: int


class Coordinator:
    """Decides what happens next; the executor carries the instructions out.

    Parameters
    ----------
    store
        Store of the experiment, writable.
    packs
        Packs in the order of starting.
    max_concurrent
        Maximum number of packs in training.
    n_rows
        Rows of one run.

    Attributes
    ----------
    packs : dict
        Runs of each pack by the name of the pack, including those added on request.
    """

    def __init__(self, store: Store, packs: Sequence[tuple[RunPlan, ...]], max_concurrent: int, n_rows: int) -> None:
        self._store = store
        self._n_rows = n_rows
        self.packs: dict[str, tuple[RunPlan, ...]] = {}
        self._pack_of: dict[str, str] = {}
        self._schedule = Schedule(max_concurrent)
        for pack in packs:
            self._add(pack)
        self._known_requests: set[str] = set()
        self._progress: dict[str, RunProgress] = {}
        self._n_rows_embedded = 0
        self._error = ""
        self._rows_when_lost: dict[str, int] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self._schedule.is_over

    @property
    def n_wanted(self) -> int:
        """Number of packs that wait or train, which is how many trainers could be busy."""
        return self._schedule.n_wanted

    def begin(self) -> list[Instruction]:
        """Restore the schedule from the store and return the first instructions."""
        instructions: list[Instruction] = []
        requests = self._new_requests()
        stored = set(self._store.run_ids())
        known = [plan.run_id for pack in self.packs.values() for plan in pack if plan.run_id in stored]
        standings = dict(zip(known, self._standings(known), strict=True))
        for pack_id in self.packs:
            instructions += self._restore(pack_id, standings)
        for request in requests:
            if isinstance(request, PackCancelled):
                instructions += self.handle(request)
        return instructions + self._schedule.start()

    def _standings(self, run_ids: Sequence[str]) -> list[_Standing]:
        if not self._store.medium.is_remote:
            return [self._standing(run_id) for run_id in run_ids]
        # Each read of a bucket takes tens of milliseconds, however many run concurrently.
        with ThreadPoolExecutor(N_READERS) as pool:
            return list(pool.map(self._standing, run_ids))

    def _standing(self, run_id: str) -> _Standing:
        # This status is written after the exact solution, so nothing else needs to be read.
        if self._store.status(run_id).get("phase") == Phase.DONE:
            return _Standing(is_trained=True, is_done=True, n_rows=self._n_rows)
        reader = self._store.reader(run_id)
        is_done = reader.embedding.has_exact
        return _Standing(is_done or reader.is_complete, is_done, reader.embedding.n_rows if is_done else 0)

    def _restore(self, pack_id: str, standings: Mapping[str, _Standing]) -> list[Instruction]:
        """Restore a pack; `standings` lacks the runs that are not stored."""
        pack = self.packs[pack_id]
        found = {plan.run_id: standings[plan.run_id] for plan in pack if plan.run_id in standings}
        for run_id, standing in found.items():
            if standing.is_done:
                self.report(RunProgress(run_id, standing.n_rows, float("nan"), 0, float("nan")))
        is_all = len(found) == len(pack)
        return self._schedule.restore(
            pack_id,
            is_trained=is_all and all(standing.is_trained for standing in found.values()),
            is_done=is_all and all(standing.is_done for standing in found.values()),
        )

    def resize(self, max_concurrent: int) -> list[Instruction]:
        """Change the maximum number of packs in training and return what starts; no training is stopped."""
        return self._schedule.resize(max_concurrent)

    def handle_requests(self) -> list[Instruction]:
        """Return the instructions that follow from the requests made in the store since the last call."""
        return [instruction for request in self._new_requests() for instruction in self.handle(request)]

    def _new_requests(self) -> list[PackAdded | PackCancelled]:
        """Read new requests and register the packs that they add."""
        events: list[PackAdded | PackCancelled] = []
        for request in self._store.requests(self._known_requests):
            if request["kind"] == "add":
                plans = [RunPlan(**run) for run in request["runs"]]
                events += [PackAdded(self._add((plan,))) for plan in plans if plan.run_id not in self._pack_of]
            elif (pack_id := self._pack_of.get(request["run_id"])) is not None:
                events.append(PackCancelled(pack_id))
        return events

    def _add(self, pack: tuple[RunPlan, ...]) -> str:
        """Register a pack and return its name."""
        pack_id = pack[0].run_id
        self.packs[pack_id] = pack
        self._pack_of.update((plan.run_id, pack_id) for plan in pack)
        self._schedule.add(pack_id, len(pack))
        return pack_id

    def report(self, progress: RunProgress) -> None:
        """Register an embedded block; late and repeated reports have no effect."""
        known = self._progress.get(progress.run_id)
        if known is None or progress.n_rows >= known.n_rows:
            self._progress[progress.run_id] = progress
            self._n_rows_embedded += progress.n_rows - (0 if known is None else known.n_rows)

    def handle(self, event: ScheduleEvent) -> list[Instruction]:
        """Return the instructions that follow from `event`, log it, and store the phase of its runs.

        An event without an id gets one; the log line, and every instruction that follows, has it.
        """
        if not event.event_id:
            event = replace(event, event_id=f"{type(event).__name__}-{secrets.token_hex(4)}")
        instructions = self._schedule.handle(event)
        self._log_event(event)
        if not isinstance(event, CancelRequested):
            state = self._schedule.packs[event.pack_id]
            for plan in self.packs[event.pack_id]:
                self._set_status(plan.run_id, phase=str(state.phase), attempts=state.attempts, reason=state.reason)
        return instructions

    def _log_event(self, event: ScheduleEvent) -> None:
        about = {"experiment": self._store.config.get("experiment", {}).get("name"), "event": event.event_id}
        if not isinstance(event, CancelRequested):
            about["run"] = event.pack_id
        if isinstance(event, WorkerLost | PackFailed):
            about["reason"] = event.reason
        _LOG.info("event %s", type(event).__name__, extra=about)

    def _set_status(self, run_id: str, **facts: str | int) -> None:
        """Store facts about a run; without effect before a trainer has created the run."""
        try:
            self._store.set_status(run_id, **facts)
        except BadCall as error:
            if error.kind is not Kind.STORE_MISSING:
                raise

    def fail(self, pack_id: str, error: BaseException) -> list[Instruction]:
        """Handle an exception of a worker; a full disk ends the whole experiment."""
        instructions: list[Instruction] = []
        if isinstance(error, StreamscalarError) and error.kind is Kind.STORE_FULL:
            self._error = str(error)
            instructions += self.handle(CancelRequested())
        return instructions + self.handle(self._event_of(pack_id, error))

    def _event_of(self, pack_id: str, error: BaseException) -> ScheduleEvent:
        """Return the event for a worker's exception: `PackFailed` if a retry would fail again, else `WorkerLost`."""
        is_passing = isinstance(error, Unreachable) or (
            isinstance(error, StreamscalarError) and error.kind is Kind.FENCED
        )
        if isinstance(error, StreamscalarError) and not is_passing:
            return PackFailed(pack_id, str(error))
        n_rows = sum(self._progress[run.run_id].n_rows for run in self.packs[pack_id] if run.run_id in self._progress)
        has_progressed = n_rows > self._rows_when_lost.get(pack_id, 0)
        self._rows_when_lost[pack_id] = n_rows
        return WorkerLost(pack_id, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", has_progressed)

    def snapshot(self) -> Snapshot:
        """Return the state of the experiment, with at most `MAX_VIEWS` views of runs."""
        counts = {str(phase): n for phase, n in self._schedule.n_runs.items() if n}
        return Snapshot(
            self._n_rows,
            self._n_rows_embedded,
            self.is_over,
            self._error,
            counts,
            self._schedule.n_unwanted,
            tuple(self._view(run_id) for run_id in self._shown(sum(counts.values()))),
        )

    def _shown(self, n_runs: int) -> list[str]:
        """Return the runs to show, in the planned order."""
        if n_runs <= MAX_VIEWS:
            return list(self._pack_of)
        phases = (Phase.TRAINING, Phase.TRAINED, Phase.FAILED)
        chosen = dict.fromkeys(islice(self._runs_in(Phase.FAILED), FAILED_VIEWS))
        for run_id in (run_id for phase in phases for run_id in self._runs_in(phase)):
            if len(chosen) >= MAX_VIEWS:
                break
            chosen[run_id] = None
        return sorted(chosen, key=lambda run_id: self._schedule.packs[self._pack_of[run_id]].position)

    def _runs_in(self, phase: Phase) -> Iterator[str]:
        return (plan.run_id for pack_id in self._schedule.in_phase(phase) for plan in self.packs[pack_id])

    def _view(self, run_id: str) -> RunView:
        state = self._schedule.packs[self._pack_of[run_id]]
        return RunView(run_id, str(state.phase), state.attempts, state.reason, self._progress.get(run_id))
