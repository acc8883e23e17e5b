"""The schedule: one decision per test."""

import pytest

from streamscalar.protocol.schedule import (
    MAX_ATTEMPTS,
    CancelRequested,
    FinalisePack,
    PackFailed,
    PackFinalised,
    Phase,
    Schedule,
    StartTraining,
    StopTraining,
    TrainingFinished,
    TrainingStopped,
    WorkerLost,
)


@pytest.fixture
def schedule() -> Schedule:
    return Schedule.of(["a", "b", "c"], max_concurrent=1)


def test_starts_in_order_and_within_bounds() -> None:
    assert Schedule.of(["a", "b", "c"], 2).start() == [StartTraining("a"), StartTraining("b")]


def test_a_finished_training_is_finalised_and_makes_room(schedule: Schedule) -> None:
    schedule.start()
    assert schedule.handle(TrainingFinished("a")) == [FinalisePack("a"), StartTraining("b")]


def test_trained_runs_that_wait_for_their_solution_hold_training_back(schedule: Schedule) -> None:
    schedule.start()
    schedule.handle(TrainingFinished("a"))
    assert schedule.handle(TrainingFinished("b")) == [FinalisePack("b")]
    assert schedule.handle(PackFinalised("a")) == [StartTraining("c")]


def test_over_when_every_run_ended(schedule: Schedule) -> None:
    schedule.start()
    for run in "abc":
        assert not schedule.is_over
        schedule.handle(TrainingFinished(run))
        schedule.handle(PackFinalised(run))
    assert schedule.is_over


def test_a_lost_worker_is_retried_a_bounded_number_of_times(schedule: Schedule) -> None:
    schedule.start()
    for _ in range(MAX_ATTEMPTS - 1):
        assert schedule.handle(WorkerLost("a", "killed")) == [StartTraining("a")]
    assert schedule.handle(WorkerLost("a", "killed")) == [StartTraining("b")]
    assert schedule.packs["a"].phase is Phase.FAILED
    assert schedule.packs["a"].reason == f"killed (after {MAX_ATTEMPTS} attempts)"


def test_progress_starts_the_count_of_attempts_anew(schedule: Schedule) -> None:
    schedule.start()
    for _ in range(3 * MAX_ATTEMPTS):
        assert schedule.handle(WorkerLost("a", "killed", has_progressed=True)) == [StartTraining("a")]


def test_a_failure_is_final_and_the_next_run_starts(schedule: Schedule) -> None:
    schedule.start()
    assert schedule.handle(PackFailed("a", "no such file")) == [StartTraining("b")]
    assert schedule.packs["a"].reason == "no such file"


def test_a_worker_lost_while_finalising_is_retried_there(schedule: Schedule) -> None:
    schedule.start()
    schedule.handle(TrainingFinished("a"))
    assert schedule.handle(WorkerLost("a", "killed")) == [FinalisePack("a")]


def test_cancel_stops_what_trains_and_starts_nothing(schedule: Schedule) -> None:
    schedule.start()
    assert schedule.handle(CancelRequested()) == [StopTraining("a")]
    assert schedule.handle(TrainingStopped("a")) == []
    assert {run.phase for run in schedule.packs.values()} == {Phase.CANCELLED}
    assert schedule.is_over


def test_a_restart_goes_on_where_the_store_stands(schedule: Schedule) -> None:
    assert schedule.restore("a", is_trained=True, is_done=True) == []
    assert schedule.restore("b", is_trained=True, is_done=False) == [FinalisePack("b")]
    assert schedule.start() == [StartTraining("c")]
