"""Networks and tasks of a user's own, named in tests as `tests.unit.training.own_networks:function`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from streamscalar.training.tasks import Task

BLOBS = "tests.unit.training.own_networks:blobs"
NETWORK = "tests.unit.training.own_networks:normed"
NOT_A_FUNCTION = 3


def blobs() -> Task:
    """Return three classes of points in the plane."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    y = np.arange(90) % 3
    x = centres[y] + 0.4 * rng.standard_normal((90, 2))
    return Task(x[:60], y[:60], x[60:], y[60:])


def waves(path: str | None = None) -> Task:
    """Return a regression, its frequency read from a file where there is one."""
    frequency = 3.0 if path is None else float(Path(path).read_text())
    x = np.linspace(-1, 1, 40)[:, None]
    return Task(x, np.sin(frequency * x[:, 0]))


def sentences() -> Task:
    """Return sequences of tokens, each followed by its successor."""
    x = torch.randint(0, 7, (24, 5), generator=torch.Generator().manual_seed(1))
    y = (x + 1) % 7
    return Task(x[:16], y[:16], x[16:], y[16:])


def counts() -> Task:
    """Return whole numbers, labelled by the place of the largest."""
    x = np.random.default_rng(2).integers(0, 9, (12, 16))
    return Task(x, x.argmax(1))


def margins() -> Task:
    """Return the blobs under a loss and an accuracy of their own."""
    task = blobs()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.multi_margin_loss(outputs, targets)

    def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).double().mean()

    return Task(task.x_train, task.y_train, task.x_test, task.y_test, loss, accuracy)


def no_task() -> int:
    """Return what is no task."""
    return 3


def broken_task() -> Task:
    """Raise."""
    raise ValueError("no such table")


def lopsided() -> Task:
    """Return more targets than inputs."""
    return Task(np.ones((3, 2)), np.ones(4))


def normed(n_inputs: int, n_outputs: int) -> nn.Module:
    """Return a network with a norm of layers."""
    return nn.Sequential(nn.Linear(n_inputs, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, n_outputs))


class Tied(nn.Module):
    """Tokens in and out through one matrix, with a frozen scale and a constant buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
        self.shift: Tensor
        self.register_buffer("shift", torch.ones(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of the next token."""
        return self.head(torch.tanh(self.scale * self.embedding(tokens) + self.shift))  # type: ignore[no-any-return]
