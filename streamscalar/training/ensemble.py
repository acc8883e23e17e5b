"""The replicas of a run: their initial weights, and their updates in lockstep."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from streamscalar.errors import BadCall, Kind
from streamscalar.seeds import SeedStream, generator
from streamscalar.training.batches import Batches
from streamscalar.training.optimizers import Optimizer
from streamscalar.training.problem import Evaluation, Problem, Product
from streamscalar.types import Layout

N_TWIN_STEPS = 3


@contextmanager
def pinned_threads(n_threads: int) -> Iterator[None]:
    """Pin torch to `n_threads` CPU threads, because the last bits of sums depend on how they are split.

    Convolutions on CUDA are pinned to deterministic kernels in full precision, without TF32.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


def resolve_device(name: str) -> torch.device:
    """Return the device for `training.device` on this machine.

    Raises
    ------
    BadCall
        CUDA is requested and not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadCall(
            "training.device", "must be auto or cpu, because no CUDA device is visible", "cuda", kind=Kind.CONFIG
        )
    return torch.device(name)


def initial_reference(problem: Problem, dtype: str, seed: int) -> NDArray[np.floating]:
    """Return the initial weights of the reference, shape (P,)."""
    return problem.initial(generator(seed, SeedStream.INITIAL_WEIGHTS)).astype(dtype)


def initial_replicas(
    problem: Problem, layout: Layout, epsilon: float, weights_only: bool, seed: int
) -> NDArray[np.floating]:
    """Return the first row of a run, shape (R, P), in the dtype of `layout`.

    The rows are the reference, the perturbed replicas with U(-epsilon, epsilon) added to each weight, and the control.
    A seed gives the same reference, and the same directions of perturbation, at every epsilon.

    Raises
    ------
    BadCall
        Epsilon is too small for the dtype: fewer than half of the weights would change.
    """
    reference = initial_reference(problem, layout.dtype, seed)
    rng = generator(seed, SeedStream.PERTURBATIONS)
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
                f"must be large enough for training.dtype {layout.dtype}: only {moved:.0%} of the weights would change",
                f"{epsilon:g}",
                "Use float64, or a larger epsilon",
                Kind.CONFIG,
            )
    return rows


@dataclass(frozen=True, slots=True)
class TwinCheck:
    """The fastest product under which identical replicas stay identical, and whether there was one."""

    product: Product
    is_exact: bool


def check_twins(
    problem: Problem,
    reference: NDArray[np.floating],
    n_replicas: int,
    device: torch.device,
    batches: Batches | None = None,
) -> TwinCheck:
    """Train `n_replicas` identical copies for a few steps with each product, fastest first, all on the first batch.

    Fused products may give replicas different last bits, depending on their position in a kernel, and chaos then
    separates identical replicas. The first product that keeps all bits equal is returned.
    """
    start = torch.tensor(reference, device=device).repeat(n_replicas, 1)
    batch = None if batches is None else batches.at(0)
    if batch is not None and batch.dim() == 2:
        batch = batch[:1].repeat(n_replicas, 1)
    for product in problem.products(problem.n_train if batch is None else batch.shape[-1]):
        weights, is_exact = start, True
        for _ in range(N_TWIN_STEPS):
            gradient = problem.evaluate(weights, product, with_accuracy=False, batch=batch).gradient
            # Compares gradients, because rounding of the weights hides small differences.
            is_exact = is_exact and bool(torch.equal(gradient, gradient[:1].expand_as(gradient)))
            weights = weights - gradient
        if is_exact:
            return TwinCheck(product, is_exact=True)
    return TwinCheck(Product.SEPARATE, is_exact=False)


class Ensemble:
    """The replicas of a run, or of a pack of runs, in lockstep.

    Parameters
    ----------
    problem
        Loss and gradient.
    rows
        Initial weights, shape (R, P); R counts the replicas of all runs of the pack.
    learning_rates
        Step size of each replica, shape (R,).
    optimizer
        What an update does.
    product
        How matrix products are computed.
    device
        Device of the weights.
    tangents
        Initial tangent vectors, shape (R, k, P), of any length; `None` for none.
    batches
        Samples of each update; `None` for all samples.
    """

    def __init__(
        self,
        problem: Problem,
        rows: NDArray[np.floating],
        learning_rates: NDArray[np.float64],
        optimizer: Optimizer,
        product: Product,
        device: torch.device,
        tangents: NDArray[np.floating] | None = None,
        batches: Batches | None = None,
    ) -> None:
        self._problem = problem
        self._batches = batches
        self._optimizer = optimizer
        self._weights = torch.tensor(rows, device=device)
        self._learning_rates = torch.tensor(learning_rates, device=device, dtype=self._weights.dtype)[:, None]
        self._product = product
        self._evaluation: Evaluation | None = None
        self._n_steps = 0
        self._state = tuple(torch.zeros_like(self._weights) for _ in optimizer.state_names)
        self._tangents: Tensor | None = None
        if tangents is not None:
            moves = torch.tensor(tangents, device=device, dtype=self._weights.dtype)
            self._tangents, _ = _orthonormal(functional.pad(moves, (0, len(self._state) * moves.shape[2])))
            self._growth = torch.zeros(moves.shape[:2], device=device, dtype=torch.float64)
            self._is_reported = False

    @property
    def weights(self) -> NDArray[np.floating]:
        """Current weights, shape (R, P); on a CPU a view, which must not be changed."""
        return np.asarray(self._weights.cpu())

    def metrics(self) -> Mapping[str, NDArray[np.floating]]:
        """Return loss over all training samples and test accuracy at the current weights, shape (R,) each.

        With tangent vectors also `tangent_1`, `tangent_2`...: ln of the growth factor of each since the last call.
        """
        if self._batches is None:
            # The next update needs the gradient at these weights.
            self._evaluation = self._problem.evaluate(self._weights, self._product, with_accuracy=True)
            loss, accuracy = self._evaluation.loss, self._evaluation.accuracy
        else:
            loss, accuracy = self._problem.measure(self._weights, self._product)
        values: dict[str, Tensor | None] = {"loss": loss, "accuracy": accuracy}
        if self._tangents is not None:
            values |= {f"tangent_{k + 1}": column for k, column in enumerate(self._growth.unbind(1))}
            self._is_reported = True
        return {name: value.cpu().numpy() for name, value in values.items() if value is not None}

    def step(self) -> None:
        """Update all replicas and their tangent vectors once."""
        batch = None if self._batches is None else self._batches.at(self._n_steps)
        evaluation = self._evaluation or self._problem.evaluate(
            self._weights, self._product, with_accuracy=False, batch=batch
        )
        self._n_steps += 1
        if self._tangents is not None:
            self._move_tangents(evaluation.gradient, self._tangents, batch)
        self._weights, self._state = self._optimizer.update(
            self._weights, evaluation.gradient, self._state, self._learning_rates, self._n_steps
        )
        self._evaluation = None

    def _move_tangents(self, gradient: Tensor, tangents: Tensor, batch: Tensor | None) -> None:
        moves = torch.chunk(tangents, 1 + len(self._state), dim=2)
        curved = self._problem.hessian_product(self._weights, moves[0], self._product, batch)
        state = tuple(tensor[:, None] for tensor in self._state)
        moved = self._optimizer.tangent(
            gradient[:, None], state, self._learning_rates[:, None], self._n_steps, moves, curved
        )
        self._tangents, growth = _orthonormal(torch.cat(moved, dim=2))
        self._growth = growth if self._is_reported else self._growth + growth
        self._is_reported = False

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Return the state that an update needs in addition to the weights, with replicas along the first axis."""
        tensors = dict(zip(self._optimizer.state_names, self._state, strict=True))
        if self._tangents is not None:
            tensors |= {"tangents": self._tangents, "growth": self._growth}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    def restore(self, state: Mapping[str, NDArray[np.floating]], n_steps: int) -> None:
        """Restore the `state` after `n_steps` updates."""
        self._n_steps = n_steps
        self._state = tuple(torch.tensor(state[name]).to(self._weights) for name in self._optimizer.state_names)
        if self._tangents is not None:
            self._tangents = torch.tensor(state["tangents"]).to(self._weights)
            self._growth = torch.tensor(state["growth"]).to(self._growth)


def initial_tangents(n_parameters: int, n_tangents: int, seed: int) -> NDArray[np.float64]:
    """Return random directions (k, P), the same for every replica of a run."""
    return generator(seed, SeedStream.TANGENTS).standard_normal((n_tangents, n_parameters))


def _orthonormal(tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors (R, k, n) orthonormalised in order, and ln of the length of each before, (R, k) float64."""
    if tangents.shape[1] == 1:
        length = torch.linalg.vector_norm(tangents, dim=2, keepdim=True)
        return tangents / length, length[..., 0].to(torch.float64).log()
    q, r = torch.linalg.qr(tangents.mT)
    return q.mT.contiguous(), torch.diagonal(r, dim1=1, dim2=2).abs().to(torch.float64).log()
