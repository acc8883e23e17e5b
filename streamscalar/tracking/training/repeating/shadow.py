"""Shadows: perturbed copies of a user's model that are trained in parallel on the same batches."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from streamscalar.errors import BadCall, Kind
from streamscalar.seeds import SeedStream, generator
from streamscalar.tracking.training.capture import Selection
from streamscalar.tracking.training.repeating.twin import Twin

FLOAT64_EPSILON = 1e-8
MOST, LEAST = 0.9, 0.5
"""Share of the weights that the default epsilon changes, and that any epsilon has to change."""


class Shadows:
    """Perturbed copies of a model, each with a copy of its optimizer.

    They start at the first forward pass in training mode, with U(-epsilon, epsilon) added to every weight (not to
    biases), and repeat every step with the same batch, the same random numbers, and the hyperparameters of the
    optimizer at its update. Cost: one more forward and backward pass and update per shadow and step.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and its optimizer.
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
    twins : list of Twin
        The shadows.

    Raises
    ------
    BadCall
        The model or its optimizer cannot be copied.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, n_shadows: int, epsilon: float, selection: Selection, seed: int
    ) -> None:
        self._epsilon = epsilon
        self._selection = selection
        self._seed = seed
        self.twins = [Twin(model, optimizer, is_perturbed=True) for _ in range(n_shadows)]
        self._own = [selection.of(twin.model) for twin in self.twins]

    @property
    def parameters(self) -> Sequence[Sequence[Tensor]]:
        """The recorded parameters and buffers of each shadow."""
        if self._selection.buffers:
            # A module may replace a buffer instead of changing it.
            self._own = [self._selection.of(twin.model) for twin in self.twins]
        return self._own

    def start(self) -> None:
        """Start from the current state of the model and its optimizer."""
        for index, twin in enumerate(self.twins):
            twin.follow()
            rng = generator(self._seed, SeedStream.SHADOW_PERTURBATIONS, index)
            with torch.no_grad():
                for p in weights_of(self._selection, self._own[index]):
                    noise = torch.from_numpy(rng.uniform(-self._epsilon, self._epsilon, tuple(p.shape)))
                    p.copy_(p.double() + noise.to(p.device))


def weights_of(selection: Selection, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters that are weights; all if there are only biases."""
    named = zip(selection.layers, tensors, strict=True)
    parameters = [(layer, p) for layer, p in named if layer.name not in selection.buffers]
    weights = [p for layer, p in parameters if layer.is_weight]
    return weights or [p for _, p in parameters]


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
