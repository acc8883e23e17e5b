"""Copies repeat the training bit for bit, or are given up with the reason: no exponent rests on anything else."""

import copy
import functools
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from streamscalar.tracking.notices import Notices, TrackingWarning
from streamscalar.tracking.training.capture import select
from streamscalar.tracking.training.repeating import companions as module
from streamscalar.tracking.training.repeating.companions import Companions
from streamscalar.tracking.training.repeating.control import NotReproducedError
from streamscalar.tracking.training.repeating.shadow import Shadows
from streamscalar.tracking.training.repeating.twin import Procedure

Batch = tuple[Tensor, Tensor]
N_STEPS = 30
SEED = 5
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.3),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01),
    "rmsprop": lambda p: RMSprop(p, lr=0.003, momentum=0.5),
}


class Net(nn.Module):
    """Batch norm, dropout, a counter and a temperature that the training may change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 3)
        self.temperature = 1.0
        self.n_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        found: Tensor = self.head(self.body(x)) / self.temperature * (1 + 0.01 * (self.n_calls % 3))
        return found


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 8, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def loss_fn(model: nn.Module, data: Batch) -> Tensor:
    return functional.cross_entropy(model(data[0]), data[1])


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here


class Loop:
    """One training; `step` trains one batch with the model and the optimizer that it is given."""

    def __init__(self, optimizer_of: Callable[[Any], Optimizer]) -> None:
        self.model = net()
        self.optimizer = optimizer_of(self.model.parameters())
        self.number = 0
        self.noise = torch.Generator().manual_seed(3)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)

    def between(self) -> None:
        """Do what the training does between steps."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model, data)
        backward(loss)
        optimizer.step()
        return loss.detach()


class Clipped(Loop):
    """Clips gradients at every step."""

    bound = 0.05

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model, data)
        backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), self.bound)
        optimizer.step()
        return loss.detach()


class Accumulated(Loop):
    """Adds up gradients of parts of a batch."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        for x, y in zip(torch.split(data[0], 4), torch.split(data[1], 4), strict=True):
            backward(loss_fn(model, (x, y)) / 4)
        optimizer.step()
        return torch.zeros(())


class Penalised(Loop):
    """Adds a penalty that the loss does not have."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model, data) + 1e-3 * torch.stack([p.abs().sum() for p in model.parameters()]).sum()
        backward(loss)
        optimizer.step()
        return loss.detach()


class Noisy(Loop):
    """Draws noise for the inputs before the forward pass, from a generator of its own and the global one."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        x = data[0] + 0.1 * torch.randn(data[0].shape, generator=self.noise) + 0.1 * torch.randn(data[0].shape)
        optimizer.zero_grad()
        loss = loss_fn(model, (x, data[1]))
        backward(loss)
        optimizer.step()
        return loss.detach()


class Scaled(Loop):
    """Scales the loss, and skips updates with infinite gradients."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        backward(self.scaler.scale(loss_fn(model, data)))
        if data[0][0, 0] > 1:
            next(model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]  # there is a gradient
        self.scaler.step(optimizer)
        self.scaler.update()
        return torch.zeros(())


class Twice(Loop):
    """Makes two updates with each batch."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        super().step(model, optimizer, data)
        return super().step(model, optimizer, data)


class Rescaled(Loop):
    """Shrinks the weights between steps, once."""

    def between(self) -> None:
        if self.number == 20:
            with torch.no_grad():
                for p in self.model.parameters():
                    p.mul_(0.9)


class Annealed(Loop):
    """Changes the temperature of the model and the learning rate between steps, and freezes a layer for a while."""

    def between(self) -> None:
        self.model.temperature = 1 + 0.1 * self.number
        self.optimizer.param_groups[0]["lr"] *= 0.97
        self.model.head.requires_grad_(not 10 <= self.number < 15)


class ClippedOnce(Clipped):
    """Clips once, late."""

    @property
    def bound(self) -> float:  # type: ignore[override]  # depends on the step
        return 0.01 if self.number == 23 else 1e9


class Skipping(Loop):
    """Skips every fifth update after the gradient is known."""

    def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model, data)
        backward(loss)
        if self.number % 5 != 3:
            optimizer.step()
        return loss.detach()


class Evaluating(Loop):
    """Evaluates the model, and draws random numbers, between steps."""

    def between(self) -> None:
        self.model.eval()
        with torch.no_grad():
            loss_fn(self.model, batch(999))
        self.model.train()
        torch.rand(3)


@pytest.fixture
def followed() -> Iterator[Callable[..., tuple[Companions, list[Tensor]]]]:
    """Return a function that trains a loop with an unperturbed shadow; gives its weights and buffers at each step."""
    made: list[Companions] = []

    def follow(
        loop: Loop, procedure: Procedure, n_steps: int = N_STEPS, seed: int = SEED
    ) -> tuple[Companions, list[Tensor]]:
        torch.manual_seed(seed)
        selection = select(loop.model, None, 0)
        shadows = Shadows(loop.model, loop.optimizer, 1, 1e-6, selection, 0)
        found = Companions(loop.model, loop.optimizer, procedure, shadows, None, selection.device, Notices())
        made.append(found)
        found.start()
        state = found.shadows[0].state_dict()
        with torch.no_grad():
            for name, value in loop.model.state_dict().items():
                state[name].copy_(value)
        shadow, rows = found.shadows[0], []
        torch.manual_seed(SEED)
        for loop.number in range(1, n_steps + 1):
            loop.between()
            loop.step(loop.model, loop.optimizer, batch(loop.number))
            found.step(batch(loop.number), loop.number)
            rows.append(flat(shadow))
        return found, rows

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        yield follow
    for one in made:
        one.remove()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.double().reshape(-1) for value in model.state_dict().values()])


def alone(loop: Loop, n_steps: int = N_STEPS) -> list[Tensor]:
    """Train a loop without companions."""
    rows = []
    torch.manual_seed(SEED)
    for loop.number in range(1, n_steps + 1):
        loop.between()
        loop.step(loop.model, loop.optimizer, batch(loop.number))
        rows.append(flat(loop.model))
    return rows


@pytest.mark.parametrize("optimizer_of", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("kind", [Loop, Annealed, Skipping, Evaluating])
def test_a_plain_update_is_repeated_from_the_loss(followed: Any, kind: type[Loop], optimizer_of: Any) -> None:
    loop = kind(optimizer_of)
    companions, rows = followed(loop, Procedure(loss_fn, None))
    assert companions.refused == ""
    for ours, theirs in zip(rows, alone(kind(optimizer_of)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer_of", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("kind", [Loop, Clipped, Accumulated, Penalised, Noisy, Scaled, Twice, Annealed, ClippedOnce])
def test_a_whole_step_is_repeated_whatever_it_does(followed: Any, kind: type[Loop], optimizer_of: Any) -> None:
    loop = kind(optimizer_of)
    companions, rows = followed(loop, Procedure(None, loop.step))
    assert companions.refused == ""
    # The training is as without companions, and the shadow is its twin.
    for ours, theirs in zip(rows, alone(kind(optimizer_of)), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(rows[-1], flat(loop.model))


@pytest.mark.parametrize("optimizer_of", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    ("kind", "step", "reason"),
    [
        (Clipped, 1, "scaled between backward and update|minimises something else"),
        (Accumulated, 1, "minimises something else"),
        (Penalised, 1, "minimises something else"),
        (Noisy, 1, "draws random numbers before the forward pass"),
        (Twice, 1, "made 2 updates"),
        (Rescaled, 20, "changes weights outside the optimizer"),
        (ClippedOnce, 23, "scaled between backward and update|minimises something else"),
    ],
)
def test_what_is_not_repeated_is_given_up_with_step_and_reason(
    followed: Any, kind: type[Loop], step: int, reason: str, optimizer_of: Any
) -> None:
    loop = kind(optimizer_of)
    companions, _ = followed(loop, Procedure(loss_fn, None))
    assert f"step {step}" in companions.refused
    assert any(part in companions.refused for part in reason.split("|")), companions.refused
    assert "train_step" in companions.refused
    expected = alone(kind(optimizer_of))
    assert torch.equal(flat(loop.model), expected[-1]), "the training goes on as without"


def test_a_seed_set_after_the_start_costs_the_first_step_alone(followed: Any) -> None:
    loop = Noisy(OPTIMIZERS["sgd"])
    companions, rows = followed(loop, Procedure(None, loop.step), seed=0)
    assert companions.refused == ""
    expected = alone(Noisy(OPTIMIZERS["sgd"]))
    apart = [float((ours - theirs).abs().max()) for ours, theirs in zip(rows, expected, strict=True)]
    assert 0 < apart[0] <= 1e-6, "the shadow starts after the first step"
    assert torch.equal(flat(loop.model), expected[-1])


def test_a_start_that_is_not_known_is_refused_once_a_row_has_its_distance(followed: Any) -> None:
    companions, _ = followed(Noisy(OPTIMIZERS["sgd"]), Procedure(None, Loop(OPTIMIZERS["sgd"]).step), 0)
    companions.growth()
    companions._pending.clear()
    companions._step = _not_repeated
    companions.step(batch(1), 1)
    assert companions.refused == "the update of step 1 was not repeated"


def _not_repeated(*_: object) -> list[Tensor]:
    raise NotReproducedError("the update of step 1 was not repeated")


def test_a_step_that_trains_the_model_it_was_not_given_is_found_and_undone(followed: Any) -> None:
    loop = Loop(OPTIMIZERS["adam"])

    def wrong(model: nn.Module, optimizer: Optimizer, data: Batch) -> None:
        del model, optimizer
        loop.step(loop.model, loop.optimizer, data)

    companions, _ = followed(loop, Procedure(None, wrong))
    assert "changed the model of the training" in companions.refused
    assert torch.equal(flat(loop.model), alone(Loop(OPTIMIZERS["adam"]))[-1])


def test_a_loss_with_a_generator_of_its_own_is_repeated(followed: Any) -> None:
    generator = torch.Generator().manual_seed(8)

    def noisy(model: nn.Module, data: Batch) -> Tensor:
        return loss_fn(model, (data[0] + torch.randn(data[0].shape, generator=generator), data[1]))

    class WithNoise(Loop):
        def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
            optimizer.zero_grad()
            backward(noisy(model, data))
            optimizer.step()
            return torch.zeros(())

    loop = WithNoise(OPTIMIZERS["sgd"])
    companions, rows = followed(loop, Procedure(functools.partial(noisy), None))
    assert companions.refused == ""
    generator.manual_seed(8)
    assert torch.equal(rows[-1], alone(WithNoise(OPTIMIZERS["sgd"]))[-1])


def test_model_and_optimizer_are_saved_and_copied_as_without(followed: Any) -> None:
    loop = Loop(OPTIMIZERS["adam"])
    followed(loop, Procedure(lambda m, b: loss_fn(m, b), None), 3)
    assert not loop.model._forward_pre_hooks
    assert not loop.optimizer._optimizer_step_pre_hooks
    torch.save(loop.model, io.BytesIO())
    pickle.dumps(loop.optimizer)
    copied = copy.deepcopy(loop.model)
    assert torch.equal(flat(copied), flat(loop.model))


def test_memory_is_bounded_where_there_is_never_an_update(followed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PENDING", 4)

    class Idle(Loop):
        def step(self, model: nn.Module, optimizer: Optimizer, data: Batch) -> Tensor:
            del optimizer
            return loss_fn(model, data)

    companions, _ = followed(Idle(OPTIMIZERS["sgd"]), Procedure(loss_fn, None), 6)
    assert "no update in 4 steps" in companions.refused
    assert companions._pending == []


def test_a_removed_companion_leaves_no_hook(followed: Any) -> None:
    from torch.nn.modules.module import _global_forward_pre_hooks
    from torch.optim.optimizer import _global_optimizer_pre_hooks

    before = len(_global_forward_pre_hooks), len(_global_optimizer_pre_hooks)
    companions, _ = followed(Loop(OPTIMIZERS["sgd"]), Procedure(loss_fn, None), 2)
    companions.remove()
    assert (len(_global_forward_pre_hooks), len(_global_optimizer_pre_hooks)) == before
