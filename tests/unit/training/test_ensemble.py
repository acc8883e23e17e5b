"""Ensembles against the slow and obvious way: one replica, one sample, one unit at a time."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from streamscalar.config.models import ModelSection, TaskSection
from streamscalar.errors import BadCall
from streamscalar.training.data import Data
from streamscalar.training.ensemble import Ensemble, check_twins, initial_replicas
from streamscalar.training.problems import Perceptron, Product, Quadratic, build_problem
from streamscalar.types import Layout

CPU = torch.device("cpu")


@pytest.fixture
def data() -> Data:
    rng = np.random.default_rng(1)
    return Data(rng.uniform(size=(7, 5)), rng.integers(0, 3, 7), rng.uniform(size=(6, 5)), rng.integers(0, 3, 6), 3, {})


def naive_loss(flat: list[float], x: list[list[float]], y: list[int], widths: list[int]) -> float:
    """Return the mean cross-entropy of a tanh perceptron by loops."""
    total = 0.0
    for sample, label in zip(x, y, strict=True):
        values, offset = sample, 0
        for layer, (n_in, n_out) in enumerate(pairwise(widths)):
            if layer:
                values = [math.tanh(v) for v in values]
            bias = offset + n_out * n_in
            values = [
                sum(flat[offset + o * n_in + i] * values[i] for i in range(n_in)) + flat[bias + o] for o in range(n_out)
            ]
            offset = bias + n_out
        total += math.log(sum(math.exp(v) for v in values)) - values[label]
    return total / len(y)


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("widths", [(), (4,), (3, 6)])
def test_loss_and_gradient_of_every_replica(data: Data, product: Product, widths: tuple[int, ...]) -> None:
    problem = Perceptron(data, ModelSection(widths=widths), torch.float64, CPU)
    rows = np.stack([problem.initial(np.random.default_rng(seed)) for seed in range(3)])
    result = problem.evaluate(torch.tensor(rows), product, with_accuracy=True)
    shape = [5, *widths, 3]
    for replica, row in enumerate(rows):
        flat, x, y = row.tolist(), data.x_train.tolist(), data.y_train.tolist()
        assert result.loss[replica].item() == pytest.approx(naive_loss(flat, x, y, shape), rel=1e-12)
        for index in range(0, len(flat), 7):
            up, down = list(flat), list(flat)
            up[index] += 1e-6
            down[index] -= 1e-6
            slope = (naive_loss(up, x, y, shape) - naive_loss(down, x, y, shape)) / 2e-6
            assert result.gradient[replica, index].item() == pytest.approx(slope, abs=1e-8)


def test_accuracy_is_the_share_of_right_test_samples(data: Data) -> None:
    problem = Perceptron(data, ModelSection(widths=()), torch.float64, CPU)
    weights = np.zeros((2, 18))
    weights[0, 15:] = [1, 0, 0]
    weights[1, 15:] = [0, 0, 1]
    accuracy = problem.evaluate(torch.tensor(weights), Product.FUSED, with_accuracy=True).accuracy
    assert accuracy is not None
    assert accuracy.tolist() == [np.mean(data.y_test == 0), np.mean(data.y_test == 2)]


def test_gradient_descent_on_a_quadratic_multiplies_each_coordinate() -> None:
    curvatures = [0.5, 1.0, 3.0]
    problem = Quadratic(torch.tensor(curvatures, dtype=torch.float64))
    start = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0]])
    ensemble = Ensemble(problem, start, np.full(len(start), 0.4), Product.FUSED, CPU)
    for _ in range(10):
        ensemble.step()
    factors = (1 - 0.4 * np.array(curvatures)) ** 10
    np.testing.assert_allclose(ensemble.weights, start * factors, rtol=1e-13)


@pytest.mark.parametrize("n_samples", [333, 336, 1001])
@pytest.mark.parametrize("n_replicas", [2, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identical_twins_stay_identical_under_the_chosen_product(n_replicas: int, n_samples: int, dtype: str) -> None:
    task = TaskSection(name="digits", n_train=n_samples, n_test=50)
    problem = build_problem(task, ModelSection(widths=(5,)), getattr(torch, dtype), CPU)
    start = problem.initial(np.random.default_rng(0)).astype(dtype)
    twins = check_twins(problem, start, n_replicas, CPU)
    assert twins.is_exact
    ensemble = Ensemble(problem, np.tile(start, (n_replicas, 1)), np.full(n_replicas, 8.0), twins.product, CPU)
    for _ in range(30):
        ensemble.step()
    assert len({row.tobytes() for row in ensemble.weights}) == 1


def _layout(problem: Quadratic | Perceptron, dtype: str = "float64") -> Layout:
    return Layout(problem.layers, dtype, n_perturbed=2, has_control=True)


def test_replicas_start_within_epsilon_and_biases_stay(data: Data) -> None:
    problem = Perceptron(data, ModelSection(widths=(4,)), torch.float64, CPU)
    rows = initial_replicas(problem, _layout(problem), 1e-3, weights_only=True, seed=5)
    moved = np.abs(rows - rows[0])
    assert (rows[3] == rows[0]).all()
    assert 5e-4 < moved[1].max() <= 1e-3
    for layer in problem.layers:
        part = moved[1:3, layer.offset : layer.offset + layer.size]
        assert (part > 0).all() if layer.is_weight else (part == 0).all()


def test_an_epsilon_below_the_resolution_is_refused_with_the_share_that_moves(data: Data) -> None:
    problem = Perceptron(data, ModelSection(widths=(4,)), torch.float32, CPU)
    with pytest.raises(
        BadCall, match=r"perturbation.epsilon: .*float32: only \d+% of the weights would move; got 1e-08"
    ):
        initial_replicas(problem, _layout(problem, "float32"), 1e-8, weights_only=True, seed=5)
