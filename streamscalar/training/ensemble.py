"""The replicas of one run: how they start, and how they move in lockstep."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.errors import BadCall, Kind
from streamscalar.training.problems import Evaluation, Problem, Product
from streamscalar.types import Layout

N_TWIN_STEPS = 3


@contextmanager
def pinned_threads(n_threads: int) -> Iterator[None]:
    """Pin torch to `n_threads` CPU threads, because sums depend on how they are split."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_device(name: str) -> torch.device:
    """Return the device that `training.device` means here.

    Raises
    ------
    BadCall
        CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadCall(
            "training.device", "must be auto or cpu where no CUDA device is visible", "cuda", kind=Kind.CONFIG
        )
    return torch.device(name)


def initial_replicas(
    problem: Problem, layout: Layout, epsilon: float, weights_only: bool, seed: int
) -> NDArray[np.floating]:
    """Return the first row of a run, shape (R, P), in the dtype of `layout`.

    The reference, then replicas that start U(-epsilon, epsilon) away in each weight, then the control. The same
    seed gives the same reference, and the same directions of perturbation at every epsilon.

    Raises
    ------
    BadCall
        Epsilon is too small for the dtype: fewer than half of the weights would move.
    """
    start_stream, noise_stream = np.random.SeedSequence(seed).spawn(2)
    reference = problem.initial(np.random.default_rng(start_stream)).astype(layout.dtype)
    rng = np.random.default_rng(noise_stream)
    rows = np.tile(reference, (layout.n_replicas, 1))
    moves = np.concatenate([np.full(layer.size, layer.is_weight or not weights_only) for layer in layout.layers])
    for replica in range(layout.n_replicas)[layout.perturbed]:
        noise = epsilon * rng.uniform(-1.0, 1.0, layout.n_parameters)
        rows[replica] = (reference + np.where(moves, noise, 0)).astype(layout.dtype)
    if layout.n_perturbed:
        moved = float((rows[layout.perturbed] != reference)[:, moves].mean())
        if moved < 0.5:
            raise BadCall(
                "perturbation.epsilon",
                f"must be large enough for training.dtype {layout.dtype}: only {moved:.0%} of the weights would move",
                f"{epsilon:g}",
                "Use float64, or raise it",
                Kind.CONFIG,
            )
    return rows


@dataclass(frozen=True, slots=True)
class TwinCheck:
    """The fastest product under which identical twins stay identical, and whether any did."""

    product: Product
    is_exact: bool


def check_twins(problem: Problem, reference: NDArray[np.floating], n_replicas: int, device: torch.device) -> TwinCheck:
    """Move `n_replicas` identical copies a few steps under each product, fastest first.

    Fused products may give replicas different last bits where a kernel's edge meets one of them
    (chaos then drives identical twins apart); the first product that keeps all bits equal is taken.
    """
    start = torch.tensor(reference, device=device).repeat(n_replicas, 1)
    for product in Product:
        weights, is_exact = start, True
        for _ in range(N_TWIN_STEPS):
            gradient = problem.evaluate(weights, product, with_accuracy=False).gradient
            # The gradients, not the weights, whose rounding hides small differences.
            is_exact = is_exact and bool(torch.equal(gradient, gradient[:1].expand_as(gradient)))
            weights = weights - gradient
        if is_exact:
            return TwinCheck(product, is_exact=True)
    return TwinCheck(Product.SEPARATE, is_exact=False)


class Ensemble:
    """The replicas of a run, or of a pack of runs, under full-batch gradient descent.

    Parameters
    ----------
    problem
        Loss and gradient.
    rows
        Weights to start from, shape (R, P); R counts the replicas of all runs of the pack.
    learning_rates
        Step size of each replica, shape (R,).
    product
        How matrix products are computed.
    device
        Where.
    """

    def __init__(
        self,
        problem: Problem,
        rows: NDArray[np.floating],
        learning_rates: NDArray[np.float64],
        product: Product,
        device: torch.device,
    ) -> None:
        self._problem = problem
        self._weights = torch.tensor(rows, device=device)
        self._learning_rates = torch.tensor(learning_rates, device=device, dtype=self._weights.dtype)[:, None]
        self._product = product
        self._evaluation: Evaluation | None = None

    @property
    def weights(self) -> NDArray[np.floating]:
        """Weights now, shape (R, P); a view on CPU, not to be changed."""
        return np.asarray(self._weights.cpu())

    def metrics(self) -> Mapping[str, NDArray[np.floating]]:
        """Return loss and test accuracy at the weights now, shape (R,) each."""
        self._evaluation = self._problem.evaluate(self._weights, self._product, with_accuracy=True)
        values: dict[str, Tensor | None] = {
            "loss": self._evaluation.loss,
            "accuracy": self._evaluation.accuracy,
        }
        return {name: value.cpu().numpy() for name, value in values.items() if value is not None}

    def step(self) -> None:
        """Make one update of all replicas."""
        evaluation = self._evaluation or self._problem.evaluate(self._weights, self._product, with_accuracy=False)
        self._weights = self._weights - self._learning_rates * evaluation.gradient
        self._evaluation = None
