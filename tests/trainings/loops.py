"""Trainings of a perceptron in the loops that people write."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

Batch = tuple[Tensor, Tensor]
N_STEPS = 24
SEED = 5
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.2),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda p: Adam(p, lr=0.01),
    "AdamW": lambda p: AdamW(p, lr=0.01),
    "RMSprop": lambda p: RMSprop(p, lr=0.003),
}


def batch(number: int) -> Batch:
    """Return the batch of a step."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(16, 8, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def backward(loss: Tensor) -> None:
    """Call `backward`, which has no types."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here


class Training:
    """One training: `step` does all that it does for a batch, with the model and the optimizer that it is given.

    Parameters
    ----------
    kind
        Name of the optimizer.
    dtype
        Type of the weights.
    """

    def __init__(self, kind: str, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.dtype = dtype
        self.model = self.network().to(dtype)
        self.optimizer = self.optimizer_of(kind)
        self.number = 0
        self.prepare()

    def network(self) -> nn.Module:
        """Return the model."""
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

    def optimizer_of(self, kind: str) -> Optimizer:
        """Return the optimizer."""
        return OPTIMIZERS[kind](self.model.parameters())

    def prepare(self) -> None:
        """Make what the training has beside its model."""

    def data(self, number: int) -> Batch:
        """Return the batch of a step."""
        x, y = batch(number)
        return x.to(self.dtype), y

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        """Return the loss."""
        return functional.cross_entropy(model(data[0]), data[1])

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        """Train one batch."""
        optimizer.zero_grad()
        loss = self.loss(model, data)
        backward(loss)
        self.change(model)
        optimizer.step()
        return loss.detach()

    def change(self, model: nn.Module) -> None:
        """Change the gradients before the update."""

    def between(self) -> None:
        """Do what the training does before the next step."""

    def beside(self) -> list[Any]:
        """Return what else the training has changed, to be compared with the same training without copies."""
        return []


class Clipped(Training):
    """Clips gradients by norm."""

    def change(self, model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)


class ClippedByValue(Training):
    """Clips gradients by value."""

    def change(self, model: nn.Module) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 0.01)


class ClippedOnce(Training):
    """Clips gradients at one late step."""

    def change(self, model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.01 if self.number == 17 else 1e9)


class Centralised(Training):
    """Centralises gradients."""

    def change(self, model: nn.Module) -> None:
        for p in model.parameters():
            if p.grad is not None and p.ndim > 1:
                p.grad -= p.grad.mean(1, keepdim=True)


class GradientNoise(Training):
    """Adds noise to gradients."""

    def change(self, model: nn.Module) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad += 0.01 * torch.randn(p.shape)


class HookCentralised(Training):
    """A hook of the optimizer changes the gradients."""

    def prepare(self) -> None:
        def centralise(optimizer: Optimizer, *_: Any) -> None:
            for p in optimizer.param_groups[0]["params"]:
                if p.grad is not None and p.ndim > 1:
                    p.grad -= p.grad.mean(1, keepdim=True)

        self.optimizer.register_step_pre_hook(centralise)


class HookOnModel(Training):
    """A hook of the optimizer changes the gradients of the model of the training, whichever optimizer calls it."""

    def prepare(self) -> None:
        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.05)

        self.optimizer.register_step_pre_hook(clip)


class HookShrinks(Training):
    """A hook of the optimizer changes the weights of the model of the training, whichever optimizer calls it."""

    def prepare(self) -> None:
        def shrink(*_: Any) -> None:
            with torch.no_grad():
                for p in self.model.parameters():
                    p.mul_(0.999)

        self.optimizer.register_step_post_hook(shrink)


class ParameterHook(Training):
    """Hooks of the parameters clip their gradients."""

    def prepare(self) -> None:
        for p in self.model.parameters():
            p.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))  # type: ignore[no-untyped-call]  # torch


class ModuleHook(Training):
    """A hook of a layer changes its output."""

    def prepare(self) -> None:
        next(self.model.children()).register_forward_hook(lambda _, __, out: out * 1.5)


class UpdateInBackward(Training):
    """Every parameter is updated during the backward pass."""

    def prepare(self) -> None:
        def update(p: Tensor) -> None:
            with torch.no_grad():
                p.sub_(0.01 * p.grad)  # type: ignore[operator]  # it is there

        for p in self.model.parameters():
            p.register_post_accumulate_grad_hook(update)  # type: ignore[no-untyped-call]  # torch


class Accumulated(Training):
    """Adds up gradients of parts of a batch."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        for x, y in zip(torch.split(data[0], 4), torch.split(data[1], 4), strict=True):
            backward(self.loss(model, (x, y)) / 4)
        optimizer.step()
        return torch.zeros(())


class AccumulatedOverCalls(Training):
    """One update for four calls of `step`, from the loss."""

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        return super().loss(model, data) / 4

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        loss = self.loss(model, data)
        backward(loss)
        if self.number % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()


class WarmUp(Training):
    """Linear warm-up and cosine, stepped after the update."""

    def prepare(self) -> None:
        first = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.1, total_iters=6)
        second = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 18)
        self.schedule = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [first, second], [6])

    def between(self) -> None:
        if self.number > 1:
            self.schedule.step()

    def beside(self) -> list[Any]:
        return [self.schedule.get_last_lr()]


class ScheduledInside(WarmUp):
    """Linear warm-up and cosine, in the step."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        loss = super().step(model, optimizer, data)
        self.schedule.step()
        return loss

    def between(self) -> None:
        """Do nothing: the step does it."""


class OnPlateau(Training):
    """Lowers the learning rate on a plateau."""

    def prepare(self) -> None:
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=1, factor=0.7)

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        loss = super().step(model, optimizer, data)
        self.schedule.step(float(loss))
        return loss


class Counted(Training):
    """Counts its steps in attributes and lists, and trains by them."""

    def prepare(self) -> None:
        self.n_calls = 0
        self.log: list[float] = []
        self.sums = {"loss": 0.0}

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        self.n_calls += 1
        optimizer.param_groups[0]["lr"] = 0.01 / self.n_calls**0.5
        loss = super().step(model, optimizer, data)
        self.log.append(float(loss))
        self.sums["loss"] += float(loss)
        return loss

    def beside(self) -> list[Any]:
        return [self.n_calls, self.log, self.sums]


class Skipping(Training):
    """Skips the update where a gradient is too long, or not finite."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = self.loss(model, data)
        backward(loss)
        if self.number % 5 != 3:
            optimizer.step()
        return loss.detach()


class Scaled(Training):
    """Autocast to bfloat16, and a scaler that meets infinite gradients."""

    def prepare(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().loss(model, data)

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = self.loss(model, data)
        backward(self.scaler.scale(loss))
        if data[0][0, 0] > 1:
            next(model.parameters()).grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]  # there is one
        self.scaler.step(optimizer)
        self.scaler.update()
        return loss.detach()

    def beside(self) -> list[Any]:
        return [self.scaler.state_dict()]


class Autocast(Training):
    """Bfloat16 autocast."""

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().loss(model, data)


class GradientPenalty(Training):
    """Penalises the gradient with respect to the inputs, by a backward pass through a backward pass."""

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        x = data[0].clone().requires_grad_()
        loss = functional.cross_entropy(model(x), data[1])
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + 10 * slope.square().sum()


class Penalised(Training):
    """Adds a penalty that the loss does not have."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = self.loss(model, data) + 1e-3 * torch.stack([p.abs().sum() for p in model.parameters()]).sum()
        backward(loss)
        optimizer.step()
        return loss.detach()


class InputNoise(Training):
    """Adds noise before the forward pass, of a generator of its own, the global one, and that of Python."""

    def prepare(self) -> None:
        self.noise = torch.Generator().manual_seed(3)
        random.seed(4)

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        x = data[0] + 0.1 * torch.randn(data[0].shape, generator=self.noise, dtype=self.dtype) + 0.1 * random.random()
        return super().step(model, optimizer, (x + 0.1 * torch.randn(x.shape, dtype=self.dtype), data[1]))

    def beside(self) -> list[Any]:
        return [self.noise.get_state()]


class LabelNoise(Training):
    """Smooths its labels by draws of a generator of its own, in the loss."""

    def prepare(self) -> None:
        self.noise = torch.Generator().manual_seed(3)

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        smoothed = torch.rand((16, 3), generator=self.noise, dtype=self.dtype) / 10
        smoothed[range(16), data[1]] += 0.9
        return functional.cross_entropy(model(data[0]), smoothed)

    def beside(self) -> list[Any]:
        return [self.noise.get_state()]


class Dropout(Training):
    """Dropout."""

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 3))


class BatchNorm(Training):
    """Batch norm."""

    def network(self) -> nn.Module:
        # A bias before the normalisation has a gradient of rounding errors alone, which Adam would divide by itself.
        return nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


class Evaluated(BatchNorm):
    """Is evaluated between steps, where random numbers are drawn, too."""

    def between(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.loss(self.model, self.data(999))
        self.model.train()
        torch.rand(3)
