"""Modules as replicas against plain modules, trained one by one by torch itself."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from streamscalar.config.models import ModelSection, TaskSection
from streamscalar.errors import BadCall
from streamscalar.training.batches import Batches
from streamscalar.training.ensemble import Ensemble, check_twins, initial_tangents
from streamscalar.training.modules import N_MAPPED, N_MEASURED, ModuleProblem
from streamscalar.training.networks import Build, convolutional, perceptron
from streamscalar.training.optimizers import Adam, Descent, Optimizer
from streamscalar.training.perceptron import Perceptron
from streamscalar.training.problem import Product
from streamscalar.training.setup import build_problem
from streamscalar.training.tasks import LoadedTask, Samples, Task, cross_entropy, share_right
from tests.unit.training.own_networks import Tied, normed, sentences

CPU = torch.device("cpu")
N_STEPS = 15
RATE = 0.01
"""Low enough that no network here is sensitive, so that last bits stay last bits."""
PRODUCTS = [Product.BATCHED, Product.SEPARATE]


def images(n_train: int = 23, n_test: int = 9) -> LoadedTask:
    generator = torch.Generator().manual_seed(7)
    parts = [
        Samples(
            torch.rand(n, 64, generator=generator, dtype=torch.float64), torch.randint(0, 4, (n,), generator=generator)
        )
        for n in (n_train, n_test)
    ]
    return LoadedTask(parts[0], parts[1], 4, cross_entropy, share_right)


BUILDS: dict[str, Build] = {
    "perceptron": lambda: perceptron(64, (5, 3), 4, "gelu"),
    "convolutional": lambda: convolutional((1, 8, 8), (2, 3), 4, "tanh"),
    "normed": lambda: normed(64, 4),
}


def problem_of(build: Build, task: LoadedTask | None = None, init: str = "torch") -> ModuleProblem:
    return ModuleProblem(build, "own", task or images(), init, torch.float64, CPU)


def starts(problem: ModuleProblem | Perceptron, n: int = 3) -> NDArray[np.float64]:
    return np.stack([problem.initial(np.random.default_rng(seed)) for seed in range(n)])


def loaded(build: Build, row: NDArray[np.float64]) -> nn.Module:
    """Return a plain module with the weights of one row."""
    module = build().double()
    nn.utils.vector_to_parameters(torch.tensor(row), [p for p in module.parameters() if p.requires_grad])
    return module


OPTIMIZERS: dict[str, tuple[Optimizer, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]] = {
    "descent": (Descent(), lambda p: torch.optim.SGD(p, lr=RATE)),
    "decay": (Descent(0.0, 0.03), lambda p: torch.optim.SGD(p, lr=RATE, weight_decay=0.03)),
    "momentum": (Descent(0.8, 0.03), lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.8, weight_decay=0.03)),
    "adam": (Adam(), lambda p: torch.optim.Adam(p, lr=RATE)),
    "adamw": (Adam(0.03), lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.03)),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("build", BUILDS)
def test_replicas_move_as_modules_trained_by_torch(
    build: str, optimizer: str, size: int | None, product: Product
) -> None:
    problem, task = problem_of(BUILDS[build]), images()
    ours, theirs = OPTIMIZERS[optimizer]
    batches = None if size is None else Batches([11], 3, len(task.train), size, CPU)
    rows = starts(problem)
    ensemble = Ensemble(problem, rows, np.full(3, RATE), ours, product, CPU, batches=batches)
    losses, accuracies = [], []
    for _ in range(N_STEPS):
        measured = ensemble.metrics()
        losses.append(measured["loss"])
        accuracies.append(measured["accuracy"])
        ensemble.step()
    assert task.test is not None
    for replica, row in enumerate(rows):
        module = loaded(BUILDS[build], row)
        stepper = theirs(list(module.parameters()))
        for step in range(N_STEPS):
            with torch.no_grad():
                loss = nn.functional.cross_entropy(module(task.train.x), task.train.y)
                right = (module(task.test.x).argmax(1) == task.test.y).double().mean()
            assert losses[step][replica] == pytest.approx(loss.item(), abs=1e-11)
            assert accuracies[step][replica] == right
            samples = task.train if batches is None else task.train.take(batches.at(step))
            stepper.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(module(samples.x), samples.y))
            stepper.step()
        expected = nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
        tolerance = 1e-12
        np.testing.assert_allclose(ensemble.weights[replica], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n_batch_axes", [0, 1, 2])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_perceptron_as_a_module_is_the_perceptron(n_batch_axes: int, product: Product) -> None:
    task = images()
    data = task.as_classes()
    assert data is not None
    built_in = Perceptron(data, ModelSection(widths=(5, 3), activation="gelu"), torch.float64, CPU)
    as_module = problem_of(BUILDS["perceptron"], task, "normal")
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(starts(built_in), starts(as_module))
    weights = torch.tensor(starts(built_in))
    vectors = torch.tensor(rng.standard_normal((3, 2, weights.shape[1])))
    batch = None if n_batch_axes == 0 else torch.tensor(rng.integers(0, 23, (3, 6)[2 - n_batch_axes :]))
    found, expected = (p.evaluate(weights, product, with_accuracy=True, batch=batch) for p in (as_module, built_in))
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-13)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=0, atol=1e-14)
    assert found.accuracy is not None
    assert expected.accuracy is not None
    np.testing.assert_array_equal(found.accuracy, expected.accuracy)
    curved, reference = (p.hessian_product(weights, vectors, product, batch) for p in (as_module, built_in))
    np.testing.assert_allclose(curved, reference, rtol=0, atol=1e-12)
    for ours, theirs in zip(as_module.measure(weights, product), built_in.measure(weights, product), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-13)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("build", BUILDS)
def test_hessian_product_is_that_of_the_full_hessian(build: str, product: Product) -> None:
    problem, task = problem_of(BUILDS[build]), images()
    rows = starts(problem, 2)
    batch = torch.tensor([3, 1, 20, 8])
    vectors = np.random.default_rng(2).standard_normal((2, 3, rows.shape[1]))
    found = problem.hessian_product(torch.tensor(rows), torch.tensor(vectors), product, batch)
    for replica, row in enumerate(rows):
        module = loaded(BUILDS[build], row)
        names = [name for name, _ in module.named_parameters()]
        sizes = [layer.size for layer in problem.layers]

        def loss(
            flat: Tensor, module: nn.Module = module, names: list[str] = names, sizes: list[int] = sizes
        ) -> Tensor:
            parts = [
                part.reshape(layer.shape)
                for part, layer in zip(torch.split_with_sizes(flat, sizes), problem.layers, strict=True)
            ]
            outputs = torch.func.functional_call(module, dict(zip(names, parts, strict=True)), (task.train.x[batch],))
            return cross_entropy(outputs, task.train.y[batch])

        hessian = torch.autograd.functional.hessian(loss, torch.tensor(row)).numpy()  # type: ignore[no-untyped-call]
        np.testing.assert_allclose(found[replica].numpy(), vectors[replica] @ hessian, rtol=0, atol=1e-11)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tangent_growth_on_mini_batches_is_that_of_a_tiny_separation(optimizer: str) -> None:
    problem = problem_of(BUILDS["convolutional"])
    start = starts(problem, 1)[0]
    direction = initial_tangents(len(start), 1, seed=3)
    epsilon, unit = 1e-7, direction[0] / np.linalg.norm(direction)
    chosen = OPTIMIZERS[optimizer][0]
    batches = Batches([1], 1, problem.n_train, 5, CPU)
    rows = np.stack([start - epsilon * unit, start + epsilon * unit])
    pair = Ensemble(problem, rows, np.full(2, 0.05), chosen, Product.BATCHED, CPU, batches=batches)
    carried = Ensemble(problem, start[None], np.full(1, 0.05), chosen, Product.BATCHED, CPU, direction[None], batches)
    growth = 0.0
    for _ in range(15):
        pair.step()
        carried.step()
        growth += float(carried.metrics()["tangent_1"][0])
    apart = np.concatenate([pair.weights, *pair.state().values()], axis=1)
    assert growth == pytest.approx(math.log(np.linalg.norm(apart[1] - apart[0]) / (2 * epsilon)), abs=1e-4)


def test_tied_parameters_count_once_and_frozen_ones_stay() -> None:
    task = sentences()
    assert isinstance(task, Task)
    problem = build_problem(
        TaskSection(name="tests.unit.training.own_networks:sentences"),
        ModelSection(name="tests.unit.training.own_networks:Tied"),
        torch.float64,
        CPU,
    )
    assert [(layer.name, layer.shape) for layer in problem.layers] == [("embedding.weight", (7, 4))]
    row = problem.initial(np.random.default_rng(0))
    ensemble = Ensemble(problem, row[None], np.ones(1), Descent(), Product.BATCHED, CPU)
    module = loaded(Tied, row)
    (weight,) = (p for p in module.parameters() if p.requires_grad)
    stepper = torch.optim.SGD([weight], lr=1.0)
    x, y = torch.as_tensor(task.x_train), torch.as_tensor(task.y_train)
    before = float(ensemble.metrics()["loss"][0])
    for _ in range(30):
        ensemble.step()
        stepper.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(x).flatten(0, 1), y.flatten()))
        stepper.step()
    np.testing.assert_allclose(ensemble.weights[0], weight.detach().numpy().ravel(), atol=1e-12)
    assert ensemble.metrics()["loss"][0] < 0.9 * before


def test_the_initialisation_is_the_modules_own_under_a_seed_and_leaves_torch_alone() -> None:
    problem = problem_of(BUILDS["normed"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (problem.initial(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    weight, bias = first[: 6 * 64], first[6 * 65 : 6 * 66]
    assert 0.12 < np.abs(weight).max() <= 1 / math.sqrt(64)
    assert (bias == 1).all()  # the weight of the norm, as torch has it


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identical_twins_stay_identical_under_the_chosen_product(build: str, dtype: str) -> None:
    task = images(331)
    problem = ModuleProblem(BUILDS[build], "own", task, "torch", getattr(torch, dtype), CPU)
    start = problem.initial(np.random.default_rng(0)).astype(dtype)
    batches = Batches([1], 5, problem.n_train, 37, CPU)
    twins = check_twins(problem, start, 5, CPU, batches)
    assert twins.is_exact
    ensemble = Ensemble(
        problem, np.tile(start, (5, 1)), np.full(5, 2.0), Descent(), twins.product, CPU, batches=batches
    )
    for _ in range(30):
        ensemble.step()
    assert len({row.tobytes() for row in ensemble.weights}) == 1


class Branching(nn.Module):
    """Looks at its values, which a map over replicas cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, doubled where their sum is positive."""
        scores = self.linear(x)
        return 2 * scores if bool(scores.detach().sum() > 0) else scores  # type: ignore[no-any-return]


def test_a_module_that_cannot_be_mapped_is_trained_one_by_one() -> None:
    problem = problem_of(Branching)
    assert problem.products(8) == problem.products(10**6) == (Product.SEPARATE,)
    start = starts(problem, 1)[0]
    twins = check_twins(problem, start, 3, CPU)
    assert (twins.product, twins.is_exact) == (Product.SEPARATE, True)
    ensemble = Ensemble(problem, start[None], np.full(1, 0.1), Descent(), Product.SEPARATE, CPU)
    before = ensemble.metrics()["loss"][0]
    for _ in range(10):
        ensemble.step()
    assert ensemble.metrics()["loss"][0] < before


def test_a_gradient_without_a_derivative_refuses_tangents() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        @once_differentiable
        def backward(ctx: object, g: Tensor) -> Tensor:
            return g * 2

    class Custom(Branching):
        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(self.linear(x))  # type: ignore[no-any-return,no-untyped-call]

    problem = problem_of(Custom)
    weights = torch.tensor(starts(problem, 2))
    with pytest.raises(BadCall, match=r"training.n_tangents: must be 0 .*RuntimeError"):
        problem.hessian_product(weights, weights[:, None], Product.SEPARATE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_second_derivative_refuses_tangents(dtype: str) -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            slope: Tensor = g * 3 * x.detach() ** 2
            return slope

    class Custom(Branching):
        def forward(self, x: Tensor) -> Tensor:
            return Wrong.apply(self.linear(x))  # type: ignore[no-any-return,no-untyped-call]

    problem = ModuleProblem(Custom, "own", images(), "torch", getattr(torch, dtype), CPU)
    weights = torch.tensor(starts(problem, 2).astype(dtype))
    with pytest.raises(BadCall, match=r"training.n_tangents: must be 0 .* a relative error of 0\.\d+"):
        problem.hessian_product(weights, weights[:, None], Product.SEPARATE)


class Attending(nn.Module):
    """One layer of attention, whose fused kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        rows = x.view(len(x), 8, 8)
        return self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", [Attending, lambda: convolutional((1, 8, 8), (8, 16), 4, "relu")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hessian_products_of_attention_and_rectifiers_pass_the_check(build: Build, dtype: str) -> None:
    # Of so many samples, some always lie on either side of a kink.
    problem = ModuleProblem(build, "own", images(2000), "torch", getattr(torch, dtype), CPU)
    assert problem.products(8)[0] is Product.BATCHED
    weights, batch = torch.tensor(starts(problem, 2).astype(dtype)), torch.arange(20)
    mapped, looped = (problem.hessian_product(weights, weights[:, None], product, batch) for product in PRODUCTS)
    assert float(mapped.abs().max()) > 0
    np.testing.assert_allclose(mapped, looped, rtol=0, atol=1e-4 if dtype == "float32" else 1e-13)


def test_measures_over_many_samples_are_means_of_all() -> None:
    task = images(N_MEASURED + 100, N_MEASURED + 1)
    problem = problem_of(BUILDS["normed"], task)
    weights = torch.tensor(starts(problem, 2))
    loss, accuracy = problem.measure(weights, Product.BATCHED)
    whole = problem.evaluate(weights, Product.BATCHED, with_accuracy=False)
    np.testing.assert_allclose(loss, whole.loss, rtol=1e-13)
    assert accuracy is not None
    assert task.test is not None
    right = (loaded(BUILDS["normed"], weights[1].numpy())(task.test.x).argmax(1) == task.test.y).double().mean()
    assert accuracy[1].item() == pytest.approx(right.item(), abs=1e-14)


def test_a_plain_classification_of_ones_own_takes_the_built_in_perceptron() -> None:
    names = {"blobs": Perceptron, "margins": ModuleProblem, "waves": ModuleProblem}
    for name, kind in names.items():
        task = TaskSection(name=f"tests.unit.training.own_networks:{name}")
        problem = build_problem(task, ModelSection(widths=(4,)), torch.float64, CPU)
        assert isinstance(problem, kind)
        assert problem.metrics == (("loss",) if name == "waves" else ("loss", "accuracy"))


def test_many_samples_are_gone_through_one_replica_at_a_time() -> None:
    problem = problem_of(BUILDS["normed"], images(300))
    start = starts(problem, 1)[0]
    chosen = [
        check_twins(problem, start, 3, CPU, Batches([1], 3, 300, size, CPU)).product
        for size in (N_MAPPED, N_MAPPED + 1)
    ]
    assert chosen == [Product.BATCHED, Product.SEPARATE]
    assert check_twins(problem, start, 3, CPU).product is Product.SEPARATE
