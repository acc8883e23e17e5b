"""Models that are sharded over two processes: rows of one run that are equal to the gathered model, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamscalar as ss
from tests.rank_trainings import run_ranks
from tests.shard_trainings import EVERY, N_STEPS, PROBE

KINDS = ["fsdp", "tensor_parallel"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the store of the trainings, and what the trackers said."""
    folder = tmp_path_factory.mktemp("shards")
    said = run_ranks("tests.shard_trainings", folder, KINDS)
    return folder / "s", said


def bits(values: NDArray[Any]) -> NDArray[np.uint32]:
    return values.astype(np.float32).view(np.uint32)


def test_rows_are_those_of_the_gathered_model(trained: tuple[Path, list[str]]) -> None:
    store, _ = trained
    gathered = np.load(f"{store}-fsdp.npy")
    experiment = ss.open(store)
    # The child has the same steps, and must not take parts of those before.
    for run_id, calls in (("fsdp", {1: 1, 3: 3}), ("fsdp-2", {1: 5, 3: 7})):
        run = experiment.run(run_id)
        assert run.steps().tolist() == list(calls)
        assert [layer.shape for layer in run.layout.layers] == [(7, 4), (7,), (3, 7), (3,), (3,)]
        assert run.is_complete
        assert np.isfinite(run.embedding().values).all()
        for step, call in calls.items():
            np.testing.assert_array_equal(bits(run.weights(step)[0]), bits(gathered[call - 1]))


def test_a_probe_has_its_coordinates_on_both_ranks(trained: tuple[Path, list[str]]) -> None:
    store, _ = trained
    gathered = np.load(f"{store}-tensor_parallel.npy")
    run = ss.open(store).run("tensor_parallel")
    assert set(run.setting["parameter_dtypes"].values()) == {"bfloat16"}
    probe = run.setting["probe"]
    offset, index = 0, []
    for layer in run.layout.layers:
        index += [offset + i for i in probe["indices"][layer.name]]
        offset += int(np.prod(probe["shapes"][layer.name]))
    assert PROBE <= len(index) < offset == gathered.shape[1]
    assert run.steps().tolist() == list(range(1, N_STEPS + 1, EVERY))
    for step in run.steps().tolist():
        np.testing.assert_array_equal(bits(run.weights(step)[0]), bits(gathered[step - 1, index]))


def test_nothing_is_said_or_left(trained: tuple[Path, list[str]]) -> None:
    store, said = trained
    assert sorted(said) == [
        "0 refused [True, True]",
        "0: training went back to a recorded step: run fsdp now has a child, fsdp-2",
        "1 refused [True, True]",
    ]
    assert not list((store / "tracking" / "shards").iterdir())
