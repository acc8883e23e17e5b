"""The tangent vector against the growth of a small finite separation, by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer

from streamscalar.errors import BadCall
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.capture import select
from streamscalar.tracking.training.repeating.companions import Companions
from streamscalar.tracking.training.repeating.tangent_vector import METRIC, Tangent
from streamscalar.tracking.training.repeating.twin import LossFunction, Procedure
from streamscalar.training.ensemble import initial_tangents

Batch = tuple[Tensor, Tensor]
SEED = 4
TINY = 1e-6


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3)).double()


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def _batches(n: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(20, 6, generator=generator).double(), torch.randint(0, 3, (20,), generator=generator))
        for _ in range(n)
    ]


def _followed(model: nn.Module, optimizer: Optimizer, loss: LossFunction = _loss) -> Companions:
    selection = select(model, None, 0)
    tangent = Tangent(optimizer, loss, selection, SEED)
    return Companions(model, optimizer, Procedure(loss, None), None, tangent, selection.device, Notices())


def _growth(companions: Companions) -> float:
    """Return the growth since the last call, the first one included."""
    companions._has_rows = True
    found = companions.growth()[METRIC]
    assert isinstance(found, Tensor)
    return float(found)


def _train(model: nn.Module, optimizer: Optimizer, companions: Companions | None, n: int) -> list[float]:
    torch.manual_seed(9)
    growths = []
    for step, batch in enumerate(_batches(n)):
        optimizer.zero_grad()
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        if companions is not None:
            companions.step(batch, step)
            growths.append(_growth(companions))
    return growths


def _phase(model: nn.Module, optimizer: Optimizer, names: tuple[str, ...]) -> Tensor:
    """Return the weights and what the optimiser remembers of them, flat."""
    parts = [p.detach().reshape(-1) for p in model.parameters()]
    for name in names:
        parts += [optimizer.state[p][name].reshape(-1) for p in model.parameters()]
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("optimizer_of", "names"),
    [
        (lambda p: SGD(p, lr=0.8), ()),
        (lambda p: SGD(p, lr=0.3, momentum=0.9, weight_decay=0.02), ("momentum_buffer",)),
        (lambda p: Adam(p, lr=0.02, weight_decay=0.02), ("exp_avg", "exp_avg_sq")),
        (lambda p: AdamW(p, lr=0.02, betas=(0.8, 0.9), weight_decay=0.1), ("exp_avg", "exp_avg_sq")),
    ],
)
def test_growth_is_that_of_a_small_separation(optimizer_of: Callable[[Any], Optimizer], names: tuple[str, ...]) -> None:
    model = _model()
    optimizer = optimizer_of(model.parameters())
    companions = _followed(model, optimizer)
    growth = np.cumsum(_train(model, optimizer, companions, 8))
    companions.remove()
    n = sum(p.numel() for p in model.parameters())
    direction = initial_tangents(n, 1, SEED)[0]
    direction /= np.linalg.norm(direction)
    # Central differences: the error is of third order.
    for n_steps in (1, 3, 8):
        ends = []
        for sign in (1, -1):
            moved = _model()
            start = torch.nn.utils.parameters_to_vector(moved.parameters()).detach()
            torch.nn.utils.vector_to_parameters(start + sign * TINY * torch.from_numpy(direction), moved.parameters())
            own = optimizer_of(moved.parameters())
            _train(moved, own, None, n_steps)
            ends.append(_phase(moved, own, names))
        length = float(torch.linalg.vector_norm(ends[0] - ends[1])) / (2 * TINY)
        assert growth[n_steps - 1] == pytest.approx(np.log(length), abs=1e-6)


def test_each_group_has_its_own_rate_and_parameters_without_one_stay() -> None:
    # Losses 1/2 h w^2: every coordinate is multiplied by 1 - lr h.
    model = nn.ParameterList([torch.ones(1, dtype=torch.float64) for _ in range(3)])
    groups = [{"params": [model[0]], "lr": 0.1}, {"params": [model[2]], "lr": 0.5}]
    optimizer = SGD(groups, lr=1.0)

    class Bowl(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = model

        def forward(self, curvature: Tensor) -> Tensor:
            return 0.5 * (curvature * torch.cat(list(self.weights)) ** 2).sum()

    bowl = Bowl()
    curvature = torch.tensor([3.0, 7.0, 8.0], dtype=torch.float64)
    companions = _followed(bowl, optimizer, lambda m, b: m(b))
    expected = initial_tangents(3, 1, SEED)[0]
    for _ in range(5):
        optimizer.zero_grad()
        bowl(curvature).backward()
        optimizer.step()
        companions.step(curvature, 1)
        expected = expected * np.array([0.7, 1.0, -3.0])
    length = np.linalg.norm(expected) / np.linalg.norm(initial_tangents(3, 1, SEED)[0])
    assert _growth(companions) == pytest.approx(np.log(length), abs=1e-12)
    companions.remove()


def test_what_has_no_derivative_here_is_a_bad_call() -> None:
    model = _model()
    for optimizer, words in (
        (torch.optim.RMSprop(model.parameters()), "must be torch.optim.SGD, Adam or AdamW"),
        (SGD(model.parameters(), lr=1, momentum=0.9, nesterov=True), "must not use nesterov"),
        (Adam(model.parameters(), amsgrad=True), "must not use amsgrad"),
        (SGD([{"params": [p], "momentum": m} for p, m in zip(model.parameters(), (0.1, 0.2, 0.1, 0.1), strict=True)]),
         "one momentum in all groups"),
    ):  # fmt: skip
        with pytest.raises(BadCall, match=words):
            Tangent(optimizer, _loss, select(model, None, 0), SEED)
