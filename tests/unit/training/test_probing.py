"""Every module that cannot be trained as replicas has its sentence."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from streamscalar.errors import BadCall
from streamscalar.training.modules import ModuleProblem
from streamscalar.training.networks import Build
from streamscalar.training.tasks import LoadedTask, Samples, cross_entropy, share_right

CPU = torch.device("cpu")
X = torch.linspace(0, 1, 40, dtype=torch.float64).reshape(10, 4)
TASK = LoadedTask(Samples(X, torch.arange(10) % 3), Samples(X[:3], torch.arange(3)), 3, cross_entropy, share_right)


class Wrapped(nn.Module):
    """A linear layer, then a function."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.function = function

    def forward(self, x: Tensor) -> object:
        """Return the function of the layer's outputs."""
        return self.function(self.linear(x))


class Counting(nn.Module):
    """Counts its calls in a buffer, in place or anew."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.in_place = in_place
        self.n_calls: Tensor
        self.register_buffer("n_calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        if self.in_place:
            self.n_calls += 1
        else:
            self.n_calls = self.n_calls + 1
        return self.linear(x)  # type: ignore[no-any-return]


def _frozen() -> nn.Module:
    return nn.Linear(4, 3).requires_grad_(requires_grad=False)


def _complex() -> nn.Module:
    return nn.Linear(4, 3, dtype=torch.complex64)


def _fickle() -> Build:
    numbers = itertools.count()

    def build() -> nn.Module:
        module = nn.Linear(4, 3)
        nn.init.constant_(module.bias, float(next(numbers)))
        return module

    return build


def _fail(x: Tensor) -> Tensor:
    raise ValueError(f"no {x.shape[1]}\nway")


REFUSED: dict[str, tuple[Build, str]] = {
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        r"must not change its buffers.*BatchNorm1d 1. Use GroupNorm or LayerNorm, set track_running_stats=False",
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)),
        r"must return the same outputs at every call.*got Dropout 0. Set p=0, or call .eval\(\)",
    ),
    "functional dropout": (
        lambda: Wrapped(functional.dropout),
        "must return the same outputs at every call.*other outputs for the same inputs",
    ),
    "buffer in place": (lambda: Counting(in_place=True), "must not change its buffers in forward.*n_calls"),
    "buffer anew": (lambda: Counting(in_place=False), "must not change its buffers in forward.*n_calls"),
    "detached": (lambda: Wrapped(Tensor.detach), "must be differentiable in its parameters.*detach, argmax"),
    "frozen": (_frozen, "must have a parameter that requires a gradient"),
    "complex": (_complex, "must have real parameters; got complex weight"),
    "lazy": (lambda: nn.LazyLinear(3), "must have parameters of known shape; got lazy weight"),
    "fickle": (_fickle(), "must have the same weights when built again under the same seed of torch"),
    "failing": (lambda: Wrapped(_fail), r"ValueError: no 3 way, test_probing.py line \d+, for torch.float64 of"),
    "wrong inputs": (lambda: nn.Linear(5, 3), r"must compute outputs .* RuntimeError: .* of shape \(4, 4\)"),
    "several outputs": (lambda: Wrapped(lambda x: (x, x)), "must return one tensor from forward; got tuple"),
    "no samples": (lambda: Wrapped(Tensor.sum), r"must return 4 outputs for 4 samples; got shape \(\)"),
    "too few classes": (
        lambda: nn.Linear(4, 2),
        r"outputs of shape \(3,\) per sample .* got \(2,\). Declare .*n_outputs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refused_module_has_its_sentence(name: str) -> None:
    build, words = REFUSED[name]
    with pytest.raises(BadCall, match=words) as caught:
        ModuleProblem(build, "my:net", TASK, "torch", torch.float64, CPU)
    text = str(caught.value)
    assert text.startswith("model.name my:net: must ")
    assert "\n" not in text


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(),
        lambda: nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)).eval(),
        lambda: nn.Sequential(
            nn.Linear(4, 6), nn.Unflatten(1, (6, 1)), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(6, 3)
        ),
    ],
)
def test_the_fixes_that_are_named_work(build: Build) -> None:
    ModuleProblem(build, "my:net", TASK, "torch", torch.float64, CPU)


@pytest.mark.parametrize(
    ("loss", "accuracy", "words"),
    [
        (_fail, share_right, "loss of the task: must take outputs and targets; got TypeError"),
        (lambda o, y: (o.sum(1) - y) ** 2, share_right, r"loss of the task: must return .* scalar.* shape \(4,\)"),
        (lambda o, y: float((o.sum(1) - y).sum().detach()), share_right, "loss of the task: must return .* float"),
        (lambda o, y: (o.argmax(1) == y).double().mean(), share_right, "loss of the task: must be differentiable"),
        (cross_entropy, lambda o, y: (o.argmax(1) == y).sum(), r"accuracy of the task: must return .*int64"),
    ],
)
def test_each_refused_loss_has_its_sentence(loss: object, accuracy: object, words: str) -> None:
    task = LoadedTask(TASK.train, TASK.test, 3, loss, accuracy)  # type: ignore[arg-type]
    with pytest.raises(BadCall, match=f"task.name: {words}"):
        ModuleProblem(lambda: nn.Linear(4, 3), "my:net", task, "torch", torch.float64, CPU)


def test_a_refused_module_leaves_the_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with pytest.raises(BadCall):
        ModuleProblem(lambda: Wrapped(functional.dropout), "my:net", TASK, "torch", torch.float64, CPU)
    assert torch.equal(torch.rand(2), expected)
