"""Trainings of other models, with several passes, several optimizers, or objects beside the model."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.optim import LBFGS, SGD, Adam, Optimizer, SparseAdam
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.trainings.loops import OPTIMIZERS, Batch, Training, backward


class Checkpointed(Training):
    """Computes a part of the forward pass, with dropout, again in the backward pass."""

    def network(self) -> nn.Module:
        return _Checkpointed()


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(checkpoint(self.body, x, use_reentrant=False))
        return found


class StochasticDepth(Training):
    """Leaves a block out at random, in the forward pass."""

    def network(self) -> nn.Module:
        return _StochasticDepth()


class _StochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if float(torch.rand(())) < 0.7:
            x = x + self.inner(x).tanh()
        found: Tensor = self.head(x)
        return found


class WithState(Training):
    """A model with a counter, a tensor and a list that its forward pass changes."""

    def network(self) -> nn.Module:
        return _WithState()

    def between(self) -> None:
        if self.number == 9:
            vars(self.model)["temperature"] = 1.5


class _WithState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 3)
        self.temperature = 1.0
        self.n_calls = 0
        self.mean = torch.zeros(())
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        out: Tensor = self.body(x) / self.temperature * (1 + 0.01 * (self.n_calls % 3)) * (1 + self.mean)
        self.mean = 0.9 * self.mean + 0.1 * out.detach().mean()
        self.seen.append(float(self.mean))
        return out


class SpectralNorm(Training):
    """Spectral norm."""

    def network(self) -> nn.Module:
        return nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 16)), nn.Tanh(), nn.Linear(16, 3))


class WeightNorm(Training):
    """Weight norm."""

    def network(self) -> nn.Module:
        return nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 16)), nn.Tanh(), nn.Linear(16, 3))


class Convolutional(Training):
    """Convolutional network."""

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8)),
            nn.Conv1d(1, 4, 3, bias=False),
            nn.BatchNorm1d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(24, 3),
        )


class Attention(Training):
    """Transformer layer with dropout."""

    def network(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        return nn.Sequential(nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.Linear(8, 3))


class Recurrent(Training):
    """LSTM."""

    def network(self) -> nn.Module:
        return _Recurrent()


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(2, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x.reshape(len(x), 4, 2))[0][:, -1])
        return found


class Tied(Training):
    """Two layers share their weights."""

    def network(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
        model[2].weight = model[0].weight
        return model


class Embedded(Training):
    """Sparse gradients of an embedding."""

    def network(self) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(20, 6, sparse=True), nn.Linear(6, 3))

    def optimizer_of(self, kind: str) -> Optimizer:
        if kind == "SparseAdam":
            return SparseAdam(self.model[0].parameters(), lr=0.01)  # type: ignore[index]  # a Sequential
        return OPTIMIZERS[kind](self.model.parameters())

    def data(self, number: int) -> Batch:
        x, y = super().data(number)
        return (10 + 3 * x).long().clamp(0, 19), y


class Compiled(Training):
    """`torch.compile`."""

    def prepare(self) -> None:
        self.model = torch.compile(self.model, backend="aot_eager")  # type: ignore[assignment]  # it is a Module


class SharpnessAware(Training):
    """Two passes: the gradient at the point that the first gradient points to (SAM)."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        backward(self.loss(model, data))
        with torch.no_grad():
            moves = [0.01 * p.grad for p in model.parameters() if p.grad is not None]
            for p, move in zip(model.parameters(), moves, strict=True):
                p.add_(move)
        optimizer.zero_grad()
        loss = self.loss(model, data)
        backward(loss)
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves, strict=True):
                p.sub_(move)
        optimizer.step()
        return loss.detach()


class Twice(Training):
    """Two updates with each batch."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        super().step(model, optimizer, data)
        return super().step(model, optimizer, data)


class OwnGenerator(Training):
    """A model with a generator of its own."""

    def network(self) -> nn.Module:
        return _OwnGenerator()


class _OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 3)
        self.noise = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x + 0.1 * torch.randn(x.shape, generator=self.noise, dtype=x.dtype))
        return found


class Closure(Training):
    """LBFGS, which calls a closure several times for an update."""

    def optimizer_of(self, kind: str) -> Optimizer:
        return LBFGS(self.model.parameters(), lr=0.1, max_iter=3)

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        def closure() -> float:
            optimizer.zero_grad()
            loss = self.loss(model, data)
            backward(loss)
            return float(loss)

        return torch.tensor(optimizer.step(closure))


class ProjectedWeights(Training):
    """Bounds the weights after the update."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        loss = super().step(model, optimizer, data)
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-0.3, 0.3)
        return loss


class Averaged(Training):
    """Keeps an average of the weights by `AveragedModel`, in the step."""

    def prepare(self) -> None:
        self.average = AveragedModel(self.model)

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        loss = super().step(model, optimizer, data)
        self.average.update_parameters(model)
        return loss

    def beside(self) -> list[Any]:
        return [self.average.state_dict()]


class AveragedByHand(Training):
    """Keeps an average of the weights in a dict of tensors, in the step, and trains towards it."""

    def prepare(self) -> None:
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        loss = super().step(model, optimizer, data)
        with torch.no_grad():
            for name, p in model.named_parameters():
                self.average[name].mul_(0.9).add_(p, alpha=0.1)
                p.lerp_(self.average[name], 0.01)
        return loss

    def beside(self) -> list[Any]:
        return [self.average]


class AveragedBetween(Averaged):
    """Keeps the average between steps, as a callback does."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        return Training.step(self, model, optimizer, data)

    def between(self) -> None:
        if self.number > 1:
            self.average.update_parameters(self.model)


class Distilled(Training):
    """Follows a teacher with batch-norm statistics, which is not trained."""

    def prepare(self) -> None:
        self.teacher = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).to(self.dtype)

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(data[0]).softmax(-1)
        return functional.cross_entropy(model(data[0]), wanted)

    def beside(self) -> list[Any]:
        return [self.teacher.state_dict()]


class Adversarial(Training):
    """A second model with an optimizer of its own is trained against the first, in the step."""

    def prepare(self) -> None:
        self.critic = nn.Linear(3, 1).to(self.dtype)
        self.other = Adam(self.critic.parameters(), lr=0.02)

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        self.other.zero_grad()
        backward(self.critic(model(data[0]).detach()).mean())
        self.other.step()
        optimizer.zero_grad()
        loss = self.loss(model, data) - 0.1 * self.critic(model(data[0])).mean()
        backward(loss)
        optimizer.step()
        found: Tensor = loss.detach()
        return found

    def beside(self) -> list[Any]:
        return [self.critic.state_dict(), self.other.state_dict()]


class TwoOptimizers(Training):
    """A second optimizer has the head of the model, and is called in the step."""

    every = 1

    def optimizer_of(self, kind: str) -> Optimizer:
        body, head = self.model.get_submodule("0"), self.model.get_submodule("2")
        self.second = SGD(head.parameters(), lr=0.05)
        return OPTIMIZERS[kind](body.parameters())

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        self.second.zero_grad()
        loss = self.loss(model, data)
        backward(loss)
        optimizer.step()
        if self.number % self.every == 0:
            self.second.step()
        return loss.detach()

    def beside(self) -> list[Any]:
        return [self.second.state_dict()]


class TwoOptimizersSometimes(TwoOptimizers):
    """A second optimizer has the head of the model, and is called at some steps."""

    every = 7


class WrongModelLate(Training):
    """Changes the model of the training, not the one that is given, from a late step on."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        loss = super().step(model, optimizer, data)
        if self.number % 12 == 0:
            with torch.no_grad():
                for p in self.model.parameters():
                    p.mul_(0.5)
        return loss


class LossOfPartial(Training):
    """The loss is a partial function with weights of the classes."""

    def prepare(self) -> None:
        self.criterion = functools.partial(functional.cross_entropy, weight=torch.tensor([1.0, 2, 3]).to(self.dtype))

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        found: Tensor = self.criterion(model(data[0]), data[1])
        return found
