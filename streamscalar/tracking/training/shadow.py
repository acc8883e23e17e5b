"""Shadows: perturbed copies of a user's model that are trained in parallel on the same batches."""

import copy
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from streamscalar.errors import BadCall, Kind
from streamscalar.seeds import SeedStream, generator
from streamscalar.tracking.training.capture import Selection
from streamscalar.tracking.training.replay import Rehearsal

LossFunction = Callable[[Any, Any], Tensor]
"""Takes (model, batch), returns the scalar loss that the training minimises."""

FLOAT64_EPSILON = 1e-8
MOST, LEAST = 0.9, 0.5
"""Share of the weights that the default epsilon changes, and that any epsilon has to change."""


class Shadows:
    """Perturbed copies of a model, each with a copy of its optimiser.

    They start at the first forward pass in training mode, with U(-epsilon, epsilon) added to every weight (not to
    biases), and repeat every update with the same batch, the same random numbers, and the hyperparameters of the
    optimizer at that update. Changes of gradients between `backward` and `step` (clipping, loss scaling) are not
    repeated. Cost: one more forward and backward pass and update per shadow and step.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and its optimizer.
    loss_fn
        Its loss.
    n_shadows
        Number of copies.
    epsilon
        Size of the perturbation.
    selection
        The recorded parameters.
    seed
        Seed of the perturbations.

    Attributes
    ----------
    models : list of Module
        The shadows.

    Raises
    ------
    BadCall
        The model or its optimiser cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        n_shadows: int,
        epsilon: float,
        selection: Selection,
        seed: int,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._loss_fn = loss_fn
        self._epsilon = epsilon
        self._selection = selection
        self._seed = seed
        try:
            self.models: list[nn.Module] = [copy.deepcopy(model) for _ in range(n_shadows)]
            self._optimizers = [self._copied_optimizer(shadow) for shadow in self.models]
        except Exception as error:
            must = "must be a model that can be copied with its optimizer, for a shadow"
            raise BadCall("model", must, f"{type(error).__name__}: {error}", kind=Kind.DATA) from error
        self._own = [self._matching(shadow) for shadow in self.models]
        self._hyperparameters: list[dict[str, Any]] = []
        self._n_updates = 0
        self._rehearsal = Rehearsal(model, selection.device, self._begin)
        self._handle = optimizer.register_step_pre_hook(self._record_update)

    @property
    def parameters(self) -> list[list[nn.Parameter]]:
        """The recorded parameters of each shadow."""
        return self._own

    def start(self) -> None:
        """Start the shadows from the current state of the model."""
        self._rehearsal.begin()

    def _begin(self) -> None:
        with torch.no_grad():
            for index, shadow in enumerate(self.models):
                for into, values in zip(_tensors(shadow), _tensors(self._model), strict=True):
                    into.copy_(values)
                self._optimizers[index] = self._copied_optimizer(shadow)
                rng = generator(self._seed, SeedStream.SHADOW_PERTURBATIONS, index)
                for p in weights_of(self._selection, self._own[index]):
                    noise = torch.from_numpy(rng.uniform(-self._epsilon, self._epsilon, tuple(p.shape)))
                    p.copy_(p.double() + noise.to(p.device))

    def step(self, batch: object) -> list[Tensor]:
        """Repeat the update of the training since the last call; return the loss of each shadow before its update."""
        losses = []
        if self._n_updates > 1:
            raise RuntimeError(f"a shadow follows one update per step(); there were {self._n_updates}")
        for shadow, optimizer in zip(self.models, self._optimizers, strict=True):
            with self._rehearsal.replay(shadow):
                loss = self._loss_fn(shadow, batch)
                torch.autograd.backward(loss, inputs=[p for p in shadow.parameters() if p.requires_grad])
                if self._n_updates:
                    for group, values in zip(optimizer.param_groups, self._hyperparameters, strict=True):
                        group.update(values)
                    optimizer.step()
                    optimizer.zero_grad()
            losses.append(loss.detach())
        self._n_updates = 0
        self._rehearsal.forget()
        return losses

    @property
    def awaits_batch(self) -> bool:
        """Whether the training made an update since the last `step`."""
        return self._n_updates > 0

    def remove(self) -> None:
        """Remove the hooks from the model and its optimizer."""
        self._rehearsal.remove()
        self._handle.remove()

    def _record_update(self, optimizer: Optimizer, *_: object) -> None:
        # Read at the update: a scheduler may change the learning rate before step() is called.
        self._hyperparameters = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        self._n_updates += 1

    def _copied_optimizer(self, shadow: nn.Module) -> Optimizer:
        """Return a copy of the current optimizer over the parameters of a shadow."""
        twins = dict(zip(map(id, self._model.parameters()), shadow.parameters(), strict=True))
        return copy.deepcopy(self._optimizer, dict(twins))

    def _matching(self, shadow: nn.Module) -> list[nn.Parameter]:
        twins = dict(zip(map(id, self._model.parameters()), shadow.parameters(), strict=True))
        return [twins[id(p)] for p in self._selection.parameters]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def weights_of(selection: Selection, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that are weights; all if there are only biases."""
    weights = [p for layer, p in zip(selection.layers, parameters, strict=True) if layer.is_weight]
    return weights or list(parameters)


def moved_share(selection: Selection, epsilon: float) -> float:
    """Return the share of the weights that U(-epsilon, epsilon) changes, after rounding to their type."""
    n_moved, n = 0.0, 0
    for p in weights_of(selection, selection.parameters):
        size = p.detach().double().abs().clamp_min(torch.finfo(p.dtype).tiny)
        half_gap = torch.exp2(torch.floor(torch.log2(size))) * torch.finfo(p.dtype).eps / 2
        n_moved += float((1 - half_gap / epsilon).clamp_min(0).sum())
        n += p.numel()
    return n_moved / n


def default_epsilon(selection: Selection) -> float:
    """Return 1e-8 for float64, else the smallest of 1, 2, 5 times a power of ten that changes nine weights in ten."""
    if selection.dtype == "float64":
        return FLOAT64_EPSILON
    ladder = [digit * 10.0**power for power, digit in product(range(-12, 3), (1, 2, 5))]
    return next((epsilon for epsilon in ladder if moved_share(selection, epsilon) >= MOST), ladder[-1])


def checked_epsilon(selection: Selection, epsilon: float | None) -> float:
    """Return the epsilon to use.

    Raises
    ------
    BadCall
        It would change less than half of the weights.
    """
    if epsilon is None:
        return default_epsilon(selection)
    if not 0 < epsilon < float("inf"):
        raise BadCall("epsilon", "must be a positive number", repr(epsilon), kind=Kind.CONFIG)
    share = moved_share(selection, epsilon)
    if share < LEAST:
        must = f"must be large enough for {selection.dtype} weights: only {share:.0%} of them would change"
        fix = f"Leave it out for {default_epsilon(selection):g}, or train in float64"
        raise BadCall("epsilon", must, f"{epsilon:g}", fix, Kind.CONFIG)
    return epsilon
