"""Ensembles against the slow and obvious way: one replica, one sample, one unit at a time."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamscalar.config.models import ModelSection, TaskSection
from streamscalar.errors import BadCall
from streamscalar.training.batches import Batches
from streamscalar.training.data import Data
from streamscalar.training.ensemble import Ensemble, check_twins, initial_replicas, initial_tangents
from streamscalar.training.optimizers import Adam, Descent, Optimizer
from streamscalar.training.perceptron import Perceptron
from streamscalar.training.problem import Product
from streamscalar.training.quadratic import Quadratic
from streamscalar.training.setup import build_problem
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
    ensemble = Ensemble(problem, start, np.full(len(start), 0.4), Descent(), Product.FUSED, CPU)
    for _ in range(10):
        ensemble.step()
    factors = (1 - 0.4 * np.array(curvatures)) ** 10
    np.testing.assert_allclose(ensemble.weights, start * factors, rtol=1e-13)


@pytest.mark.parametrize(("n_samples", "batch_size"), [(333, None), (336, None), (1001, None), (333, 5), (333, 37)])
@pytest.mark.parametrize("n_replicas", [2, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identical_twins_stay_identical_under_the_chosen_product(
    n_replicas: int, n_samples: int, batch_size: int | None, dtype: str
) -> None:
    task = TaskSection(name="digits", n_train=n_samples, n_test=50)
    problem = build_problem(task, ModelSection(widths=(5,)), getattr(torch, dtype), CPU)
    start = problem.initial(np.random.default_rng(0)).astype(dtype)
    batches = None if batch_size is None else Batches([1], n_replicas, n_samples, batch_size, CPU)
    twins = check_twins(problem, start, n_replicas, CPU, batches)
    assert twins.is_exact
    rows, rates = np.tile(start, (n_replicas, 1)), np.full(n_replicas, 8.0)
    ensemble = Ensemble(problem, rows, rates, Descent(), twins.product, CPU, batches=batches)
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
        BadCall, match=r"perturbation.epsilon: .*float32: only \d+% of the weights would change; got 1e-08"
    ):
        initial_replicas(problem, _layout(problem, "float32"), 1e-8, weights_only=True, seed=5)


OPTIMIZERS: dict[str, Optimizer] = {
    "descent": Descent(),
    "momentum": Descent(0.9),
    "decay": Descent(0.9, 0.1),
    "adam": Adam(),
    "adamw": Adam(0.1),
}
TORCH: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "descent": lambda p: torch.optim.SGD(p, lr=0.3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
    "decay": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.3, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_as_torch_moves(data: Data, name: str) -> None:
    problem = Perceptron(data, ModelSection(widths=(4,)), torch.float64, CPU)
    start = np.stack([problem.initial(np.random.default_rng(seed)) for seed in range(2)])
    ensemble = Ensemble(problem, start, np.full(2, 0.3), OPTIMIZERS[name], Product.FUSED, CPU)
    theirs = torch.nn.Parameter(torch.tensor(start))
    stepper = TORCH[name]([theirs])
    for _ in range(12):
        ensemble.step()
        theirs.grad = problem.evaluate(theirs.detach(), Product.FUSED, with_accuracy=False).gradient
        stepper.step()
    np.testing.assert_allclose(ensemble.weights, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tangent_growth_is_that_of_a_tiny_separation(data: Data, name: str) -> None:
    problem = Perceptron(data, ModelSection(widths=(4,)), torch.float64, CPU)
    start = problem.initial(np.random.default_rng(3))
    direction = initial_tangents(len(start), 1, seed=3)
    epsilon, n_steps = 1e-7, 15
    unit = direction[0] / np.linalg.norm(direction)
    pair = Ensemble(
        problem,
        np.stack([start - epsilon * unit, start + epsilon * unit]),
        np.full(2, 0.5),
        OPTIMIZERS[name],
        Product.FUSED,
        CPU,
    )
    carried = Ensemble(problem, start[None], np.full(1, 0.5), OPTIMIZERS[name], Product.FUSED, CPU, direction[None])
    growth = 0.0
    for _ in range(n_steps):
        pair.step()
        carried.step()
        growth += float(carried.metrics()["tangent_1"][0])
    apart = np.concatenate([pair.weights, *pair.state().values()], axis=1)
    separation = np.linalg.norm(apart[1] - apart[0]) / (2 * epsilon)
    assert growth == pytest.approx(math.log(separation), abs=1e-4)


def test_hessian_product_is_the_difference_of_gradients(data: Data) -> None:
    problem = Perceptron(data, ModelSection(widths=(4,)), torch.float64, CPU)
    rng = np.random.default_rng(0)
    weights = torch.tensor(np.stack([problem.initial(rng) for _ in range(3)]))
    vectors = torch.tensor(rng.standard_normal((3, 2, weights.shape[1])))
    found = problem.hessian_product(weights, vectors, Product.FUSED)
    for k in range(2):
        up, down = (
            problem.evaluate(weights + sign * 1e-5 * vectors[:, k], Product.FUSED, with_accuracy=False).gradient
            for sign in (1, -1)
        )
        np.testing.assert_allclose(found[:, k].numpy(), ((up - down) / 2e-5).numpy(), atol=1e-8)


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_tangents_give_every_exponent_of_a_quadratic(rate: float) -> None:
    curvatures = np.array([0.3, 1.0, 2.5, 4.0])
    tangents = initial_tangents(4, 4, seed=1)[None]
    problem = Quadratic(torch.tensor(curvatures))
    ensemble = Ensemble(problem, np.ones((1, 4)), np.full(1, rate), Descent(), Product.FUSED, CPU, tangents)
    growth = []
    for _ in range(300):
        ensemble.step()
        metrics = ensemble.metrics()
        growth.append([metrics[f"tangent_{k + 1}"][0] for k in range(4)])
    expected = np.sort(np.log(np.abs(1 - rate * curvatures)))[::-1]
    np.testing.assert_allclose(np.mean(growth[200:], axis=0), expected, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restored_state_goes_on_with_equal_bits(data: Data, name: str) -> None:
    problem = Perceptron(data, ModelSection(widths=(4,)), torch.float64, CPU)
    start = np.tile(problem.initial(np.random.default_rng(0)), (2, 1))
    tangents = np.tile(initial_tangents(start.shape[1], 2, seed=0), (2, 1, 1))

    def ensemble(rows: NDArray[np.floating]) -> Ensemble:
        return Ensemble(problem, rows, np.full(2, 0.5), OPTIMIZERS[name], Product.FUSED, CPU, tangents)

    through = ensemble(start)
    for _ in range(5):
        through.step()
    resumed = ensemble(through.weights.copy())
    resumed.restore(through.state(), 5)
    for _ in range(5):
        through.step()
        resumed.step()
    assert through.weights.tobytes() == resumed.weights.tobytes()
    for key, values in through.metrics().items():
        assert values.tobytes() == resumed.metrics()[key].tobytes()
