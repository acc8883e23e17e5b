"""The ranks of real distributed trainings of two processes, and what is found where one of them drifts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import streamscalar as ss
from streamscalar.cli.commands import app
from tests.rank_trainings import FOUND, N_STEPS, run_pair

SOUND_HERE = ["norm_local", "unused", "resumed"]
FAULTY_HERE = ["flipped", "late_parameter", "local_statistic", "changed_buffer"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the store of the trainings, and what the trackers said."""
    folder = tmp_path_factory.mktemp("ranks")
    said = run_pair(folder, [*SOUND_HERE, *FAULTY_HERE])
    return folder / "s", said


def test_ranks_that_agree_raise_nothing(trained: tuple[Path, list[str]]) -> None:
    store, said = trained
    experiment = ss.open(store)
    for name in SOUND_HERE:
        states = experiment.run(name).ranks()
        assert [(state.rank, state.n_compared, state.last_step, state.drift) for state in states][:2] == [
            (0, N_STEPS, N_STEPS, None),
            (1, N_STEPS, N_STEPS, None),
        ]
        assert experiment.store.status(name)["ranks_drifted"] == ""
        assert not [line for line in said if f"run {name}" in line and "differs" in line]


def test_a_resumed_job_is_compared_at_the_steps_of_rank_0(trained: tuple[Path, list[str]]) -> None:
    experiment = ss.open(trained[0])
    child = experiment.run("resumed-2")
    # Rank 0 counts on from the newest row, which the budget chose.
    newest = int(experiment.run("resumed").steps()[-1])
    assert child.steps()[0] == newest + 1
    # Its ranks write where the job began: in the run that it resumed.
    states = child.ranks()
    assert len({state.session for state in states}) == 2
    assert [state.last_step for state in states] == [N_STEPS] * 2 + [newest + N_STEPS] * 2
    assert [state.n_compared for state in states] == [N_STEPS] * 4


def test_a_rank_that_drifts_is_found_with_tensor_and_step(trained: tuple[Path, list[str]]) -> None:
    store, said = trained
    experiment = ss.open(store)
    alerts = {alert.run_id: alert for alert in experiment.alerts() if alert.rule == "ranks_drifted"}
    assert alerts.keys() == set(FAULTY_HERE)
    for name in FAULTY_HERE:
        step, equal_at, tensor, role = FOUND[name]
        first, second = experiment.run(name).ranks()
        assert first.drift is None
        assert second.drift is not None
        drift = second.drift
        assert (drift.rank, drift.step, drift.equal_at, drift.tensors) == (1, step, equal_at, {tensor: role})
        alert = alerts[name]
        assert (alert.level, alert.step, alert.evidence["layer"], alert.evidence["ranks"]) == (
            "error",
            step,
            tensor,
            [1],
        )
        assert experiment.store.status(name)["ranks_drifted"] == str(drift)
        assert f"0: run {name}: {drift}" in said
        assert experiment.run(name).is_complete


def test_the_service_lists_the_alert(trained: tuple[Path, list[str]]) -> None:
    found = CliRunner().invoke(app, ["alerts", str(trained[0]), "--level", "error", "--json"])
    assert found.exit_code == 0, found.output
    listed = {alert["run"].split(":")[1]: alert for alert in json.loads(found.stdout)["items"]}
    assert {name: (alert["rule"], alert["step"]) for name, alert in listed.items()} == {
        name: ("ranks_drifted", FOUND[name][0]) for name in FAULTY_HERE
    }
