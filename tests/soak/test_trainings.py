"""Sixty trainings of the kinds that people run: copies repeat each bit for bit, or say why not; none is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch

import streamscalar as ss
from streamscalar.tracking import track
from streamscalar.types import Status
from tests.integration.tracking.test_tracking import silence
from tests.trainings import loops, models
from tests.trainings.loops import N_STEPS, SEED, Training
from tests.trainings.repeating import state_of
from tests.trainings.table import CASES, Case, checked


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=[case.kind.__name__ for case in CASES])
def test_a_training_is_repeated_or_refused_as_the_table_says(case: Case) -> None:
    found = list(checked(case))
    assert [one for one in found if one[2]] == []


@pytest.mark.parametrize(
    ("kind", "procedure", "is_exact"),
    [
        (loops.Clipped, "train_step", True),
        (loops.Clipped, "loss_fn", False),
        (models.AveragedByHand, "train_step", True),
        (models.Adversarial, "train_step", True),
        (models.TwoOptimizersSometimes, "train_step", False),
        (loops.AccumulatedOverCalls, "loss_fn", True),
    ],
)
def test_rows_of_the_store_are_those_of_trainings_by_hand(
    tmp_path: Path, kind: type[Training], procedure: str, is_exact: bool
) -> None:
    training = kind("Adam", torch.float64)
    function = {"train_step": training.step} if procedure == "train_step" else {"loss_fn": training.loss}
    torch.manual_seed(SEED)
    run = track(
        training.model, name="a", store=tmp_path, optimizer=training.optimizer, every_n_steps=1, shadow=True, **function
    )
    run._companions.start()
    start = state_of(run._companions.shadows[0])
    with silence():
        _train(training, run)
        run.finish()
    alone, twin = kind("Adam", torch.float64), kind("Adam", torch.float64)
    twin.model.load_state_dict(start)
    expected = [_train(alone), _train(twin)]
    stored = ss.open(tmp_path).run("a")
    for step in range(1, N_STEPS + 1):
        row = stored.weights(step)
        assert row[0].tobytes() == expected[0][step - 1].tobytes()
        assert (row[1].tobytes() == expected[1][step - 1].tobytes()) or not is_exact
    assert (stored.estimates().estimates["ftle"].status is not Status.NOT_REPRODUCED) == is_exact


def _train(training: Training, run: ss.Tracker | None = None) -> list[np.ndarray]:
    torch.manual_seed(SEED)
    rows = []
    for training.number in range(1, N_STEPS + 1):
        training.between()
        data = training.data(training.number)
        loss = training.step(training.model, training.optimizer, data)
        if run is not None:
            run.step(loss=loss, batch=data)
        rows.append(torch.nn.utils.parameters_to_vector(training.model.parameters()).detach().numpy().copy())
    return rows
