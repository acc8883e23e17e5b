"""Ranks that stay equal raise no alarm, ranks that drift do, and shards on meshes of four ranks make the whole."""

from pathlib import Path

import streamscalar as ss
from tests.rank_trainings import FAULTY, FOUND, SOUND, run_pair, run_ranks, trainings
from tests.shard_meshes import N_RANKS, SIZES

N_TRAININGS = 2 * len(SOUND)


def test_sound_trainings_raise_no_alarm(tmp_path: Path) -> None:
    names = list(trainings(SOUND, N_TRAININGS))
    said = run_pair(tmp_path, names)
    experiment = ss.open(tmp_path / "s")
    assert [alert for alert in experiment.alerts() if alert.rule == "ranks_drifted"] == []
    for name in names:
        states = experiment.run(name).ranks()
        assert {state.rank for state in states} == {0, 1}
        assert all(state.n_compared >= 1 and state.drift is None for state in states)
    assert not [line for line in said if "differs" in line]


def test_every_faulty_training_raises_the_alarm(tmp_path: Path) -> None:
    run_pair(tmp_path, list(FAULTY))
    found = {alert.run_id: alert for alert in ss.open(tmp_path / "s").alerts() if alert.rule == "ranks_drifted"}
    assert {name: (alert.step, alert.evidence["layer"]) for name, alert in found.items()} == {
        name: (step, tensor) for name, (step, _, tensor, _) in FOUND.items()
    }


def test_shards_on_meshes_of_two_dimensions_make_the_whole(tmp_path: Path) -> None:
    said = run_ranks("tests.shard_meshes", tmp_path, ["sharded", "hybrid", "replicated"], N_RANKS)
    assert len(said) == 3 * 2 * len(SIZES)
    assert [line for line in said if not line.endswith(" True")] == []
