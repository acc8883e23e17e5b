"""The schedule counts and keeps by phase what the obvious version finds by looking at every pack."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from streamscalar.protocol.schedule import (
    ENDED,
    MAX_ATTEMPTS,
    ON_REQUEST,
    CancelRequested,
    FinalisePack,
    Instruction,
    PackAdded,
    PackCancelled,
    PackFailed,
    PackFinalised,
    PackState,
    Phase,
    Schedule,
    ScheduleEvent,
    StartTraining,
    StopTraining,
    TrainingFinished,
    TrainingStopped,
    WorkerLost,
)


@dataclass
class _Pack:
    phase: Phase = Phase.WAITING
    attempts: int = 0
    reason: str = ""
    is_wanted: bool = True


@dataclass
class _Scan:
    """The same decisions, made by looking at every pack each time."""

    max_concurrent: int
    packs: dict[str, _Pack] = field(default_factory=dict)
    is_cancelled: bool = False

    def count(self, *phases: Phase) -> int:
        return sum(pack.phase in phases for pack in self.packs.values())

    def restore(self, pack_id: str, is_trained: bool, is_done: bool) -> list[Instruction]:
        pack = self.packs[pack_id]
        pack.phase = Phase.DONE if is_done else Phase.TRAINED if is_trained else pack.phase
        return [FinalisePack(pack_id)] if pack.phase is Phase.TRAINED else []

    def start(self) -> list[Instruction]:
        started: list[Instruction] = []
        for pack_id, pack in self.packs.items():
            n_training = self.count(Phase.TRAINING)
            is_full = n_training + self.count(Phase.TRAINED) >= 2 * self.max_concurrent
            if self.is_cancelled or is_full or n_training >= self.max_concurrent:
                break
            if pack.phase is Phase.WAITING:
                pack.phase, pack.attempts = Phase.TRAINING, pack.attempts + 1
                started.append(StartTraining(pack_id))
        return started

    def handle(self, event: ScheduleEvent) -> list[Instruction]:
        if isinstance(event, CancelRequested):
            self.is_cancelled = True
            for pack in self.packs.values():
                pack.phase = Phase.CANCELLED if pack.phase is Phase.WAITING else pack.phase
            return [StopTraining(name) for name, pack in self.packs.items() if pack.phase is Phase.TRAINING]
        pack = self.packs.setdefault(event.pack_id, _Pack())
        match event:
            case TrainingFinished(pack_id):
                pack.phase = Phase.TRAINED
                return [FinalisePack(pack_id), *self.start()]
            case TrainingStopped():
                self.drop(pack)
            case PackCancelled(pack_id):
                pack.is_wanted = False
                if pack.phase is Phase.WAITING:
                    self.drop(pack)
                return [StopTraining(pack_id)] if pack.phase is Phase.TRAINING else []
            case PackFinalised():
                pack.phase, pack.reason = Phase.DONE, ""
            case PackFailed(_, reason):
                self.end(pack, reason)
            case WorkerLost():
                return self.lose(pack, event)
        return self.start()

    def lose(self, pack: _Pack, event: WorkerLost) -> list[Instruction]:
        pack.attempts = 1 if event.has_progressed else pack.attempts
        pack.reason = event.reason
        if pack.phase is Phase.TRAINING and not pack.is_wanted:
            self.drop(pack)
        elif self.is_cancelled or pack.attempts >= MAX_ATTEMPTS:
            self.end(pack, f"{event.reason} (after {pack.attempts} attempts)")
        elif pack.phase is Phase.TRAINED:
            pack.attempts += 1
            return [FinalisePack(event.pack_id)]
        else:
            pack.phase = Phase.WAITING
        return self.start()

    def drop(self, pack: _Pack) -> None:
        pack.phase, pack.reason = Phase.CANCELLED, pack.reason if pack.is_wanted else ON_REQUEST

    def end(self, pack: _Pack, reason: str) -> None:
        pack.phase, pack.reason = Phase.CANCELLED if self.is_cancelled else Phase.FAILED, reason


NAMES = "abcdef"
_names = st.sampled_from(NAMES)
_events = st.one_of(
    *(st.builds(kind, _names) for kind in (TrainingFinished, TrainingStopped, PackFinalised, PackCancelled)),
    st.builds(PackFailed, _names, st.just("no such file")),
    st.builds(WorkerLost, _names, st.just("killed"), st.booleans()),
    st.builds(PackAdded, st.sampled_from("cdefgh")),
    st.integers(0, 4),
    st.just(CancelRequested()),
)


@settings(max_examples=500)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=len(NAMES)),
    st.lists(_events, max_size=40),
)
def test_it_decides_and_counts_as_a_scan_of_all_packs_does(
    max_concurrent: int, stored: list[tuple[bool, bool]], events: list[ScheduleEvent | int]
) -> None:
    ours, scan = Schedule.of(NAMES, max_concurrent), _Scan(max_concurrent, {name: _Pack() for name in NAMES})
    for name, (is_trained, is_done) in zip(NAMES, stored, strict=False):
        assert ours.restore(name, is_trained=is_trained, is_done=is_done) == scan.restore(name, is_trained, is_done)
    assert ours.start() == scan.start()
    for event in events:
        if isinstance(event, int):
            scan.max_concurrent = event
            assert ours.resize(event) == scan.start()
        elif isinstance(event, CancelRequested | PackAdded) or event.pack_id in scan.packs:
            assert ours.handle(event) == scan.handle(event)
        _assert_same(ours, scan)


def _assert_same(ours: Schedule, scan: _Scan) -> None:
    assert {name: (p.phase, p.attempts, p.reason) for name, p in ours.packs.items()} == {
        name: (p.phase, p.attempts, p.reason) for name, p in scan.packs.items()
    }
    assert {phase: ours.n_runs[phase] for phase in Phase} == {phase: scan.count(phase) for phase in Phase}
    for phase in Phase:
        assert set(ours.in_phase(phase)) == {name for name, pack in scan.packs.items() if pack.phase is phase}
    assert ours.is_over == (scan.count(*ENDED) == len(scan.packs))
    assert ours.n_wanted == scan.count(Phase.WAITING, Phase.TRAINING)
    unwanted = [p for p in scan.packs.values() if p.phase is Phase.CANCELLED and p.reason == ON_REQUEST]
    assert ours.n_unwanted == len(unwanted)


def test_growing_starts_more_and_shrinking_stops_nothing() -> None:
    schedule = Schedule.of("abcd", 1)
    schedule.start()
    assert schedule.resize(3) == [StartTraining("b"), StartTraining("c")]
    assert schedule.resize(1) == []
    assert list(schedule.in_phase(Phase.TRAINING)) == ["a", "b", "c"]
    # Three trained or training, where 2 x 1 may be in flight: nothing starts until all but one are solved.
    for pack_id in "abc":
        assert schedule.handle(TrainingFinished(pack_id)) == [FinalisePack(pack_id)]
    assert schedule.handle(PackFinalised("a")) == []
    assert schedule.handle(PackFinalised("b")) == [StartTraining("d")]


def test_a_size_of_none_lets_what_trains_end_and_starts_nothing() -> None:
    schedule = Schedule.of("ab", 1)
    schedule.start()
    assert schedule.resize(0) == []
    schedule.handle(TrainingFinished("a"))
    assert schedule.handle(PackFinalised("a")) == []
    assert (schedule.n_wanted, schedule.is_over) == (1, False)
    assert schedule.resize(1) == [StartTraining("b")]


def test_runs_are_counted_by_the_size_of_their_pack() -> None:
    schedule = Schedule(1)
    schedule.add("a", 4)
    schedule.add("b", 3)
    schedule.start()
    assert (schedule.n_runs[Phase.TRAINING], schedule.n_runs[Phase.WAITING]) == (4, 3)
    schedule.handle(PackCancelled("b"))
    assert (schedule.n_runs[Phase.WAITING], schedule.n_unwanted) == (0, 3)


class _Seen(dict[str, PackState]):
    """Counts how often one of its packs is looked at; looking at all of them is forbidden."""

    n_reads = 0

    def __getitem__(self, name: str) -> PackState:
        self.n_reads += 1
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("looks at every pack")

    values = items = __iter__  # type: ignore[assignment]  # none of them may be called


def test_an_event_looks_at_the_packs_that_it_changes_alone() -> None:
    schedule = Schedule.of(map(str, range(1000)), 2)
    schedule.start()
    schedule.packs = seen = _Seen(schedule.packs)
    for pack in range(50):
        schedule.handle(TrainingFinished(str(pack)))
        schedule.handle(PackFinalised(str(pack)))
        assert not schedule.is_over
        assert schedule.n_wanted == 999 - pack
    assert seen.n_reads <= 50 * 6
