"""The batch order: what it depends on, and what it does not."""

import numpy as np
import pytest
import torch

from streamscalar.config import load_config, plan_packs
from streamscalar.config.models import ModelSection, TaskSection, TrainingSection
from streamscalar.errors import BadCall
from streamscalar.training.batches import Batches, build_batches
from streamscalar.training.ensemble import Ensemble
from streamscalar.training.optimizers import Descent
from streamscalar.training.problem import Problem, Product
from streamscalar.training.setup import build_problem, pack_batches

CPU = torch.device("cpu")


def batches(*seeds: int, n_replicas: int = 2, n_train: int = 10, size: int = 3) -> Batches:
    return Batches(seeds, n_replicas, n_train, size, CPU)


def test_an_epoch_is_a_permutation_without_its_remainder() -> None:
    one = batches(7)
    for epoch in range(4):
        rng = np.random.default_rng(np.random.SeedSequence([7, 5, epoch]))
        seen = torch.cat([one.at(3 * epoch + index) for index in range(3)])
        np.testing.assert_array_equal(seen.numpy(), rng.permutation(10)[:9])


def test_any_step_is_reached_without_the_steps_before() -> None:
    through = batches(7)
    found = [through.at(step).tolist() for step in range(20)]
    for step in (19, 4, 11):
        assert batches(7).at(step).tolist() == found[step]
    assert found != [batches(8).at(step).tolist() for step in range(20)]


def test_runs_of_a_pack_see_what_they_see_alone() -> None:
    packed = batches(7, 7, 9, n_replicas=2)
    for step in (0, 5):
        alone = {seed: batches(seed).at(step).tolist() for seed in (7, 9)}
        assert packed.at(step).tolist() == [alone[7]] * 4 + [alone[9]] * 2
    assert batches(7, 7).at(0).tolist() == batches(7).at(0).tolist()


def test_every_learning_rate_of_an_initial_condition_has_one_order() -> None:
    config = load_config(
        {
            "task": {"n_train": 50},
            "training": {"learning_rate": [0.1, 1], "batch_size": 8},
            "experiment": {"n_initial_conditions": 2},
        },
        environment={},
    )
    problem = build_problem(config.task, config.model, torch.float64, CPU)
    orders = {}
    for pack in plan_packs(config):
        found = pack_batches(config, pack, problem, CPU)
        assert found is not None
        orders[pack[0].run_id] = [found.at(step).tolist() for step in range(14)]
    assert orders["lr0.1_ic0"] == orders["lr1_ic0"] != orders["lr0.1_ic1"] == orders["lr1_ic1"]


@pytest.mark.parametrize(("name", "n_train"), [("digits", 30), ("quadratic", 0)])
def test_a_batch_of_more_samples_than_there_are_is_refused(name: str, n_train: int) -> None:
    task = TaskSection(name="quadratic", curvatures=(1.0,)) if n_train == 0 else TaskSection(n_train=30)
    assert task.name == name
    problem = build_problem(task, ModelSection(), torch.float64, CPU)
    with pytest.raises(BadCall, match=rf"training.batch_size: must be full, or at most .*, {n_train}; got 31"):
        build_batches(TrainingSection(batch_size=31), problem.n_train, [1], 2, CPU)
    assert build_batches(TrainingSection(), problem.n_train, [1], 2, CPU) is None


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("product", [Product.BATCHED, Product.SEPARATE])
def test_a_pack_of_several_initial_conditions_moves_as_its_runs_alone(model: str, product: Product) -> None:
    problem: Problem = build_problem(
        TaskSection(n_train=40, n_test=9), ModelSection(name=model, widths=(4,), channels=(2, 2)), torch.float64, CPU
    )
    seeds = [3, 4]
    rows = np.stack([problem.initial(np.random.default_rng(seed)) for seed in (1, 2, 3, 4)])
    rates = np.array([0.1, 0.1, 0.2, 0.2])
    packed = Ensemble(problem, rows, rates, Descent(), product, CPU, batches=Batches(seeds, 2, 40, 7, CPU))
    alone = [
        Ensemble(
            problem,
            rows[part],
            rates[part],
            Descent(),
            product,
            CPU,
            batches=Batches([seed], 2, 40, 7, CPU),
        )
        for seed, part in zip(seeds, (slice(2), slice(2, 4)), strict=True)
    ]
    for _ in range(12):
        for ensemble in (packed, *alone):
            ensemble.step()
    np.testing.assert_allclose(packed.weights, np.concatenate([one.weights for one in alone]), rtol=0, atol=1e-12)
