"""A tangent vector along a user's training run: the growth of an infinitesimal separation, without an epsilon."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD, Adam, AdamW, Optimizer

from streamscalar.errors import BadCall, Kind
from streamscalar.tracking.training.capture import Selection
from streamscalar.tracking.training.control import Pending, Way
from streamscalar.tracking.training.recorder import Recorder
from streamscalar.tracking.training.twin import LossFunction, Twin
from streamscalar.training import optimizers
from streamscalar.training.ensemble import initial_tangents

METRIC = "tangent_1"
"""Name under which the growth is stored."""


@dataclass(frozen=True)
class _Update:
    """State before an update: flat tensors, shape (P,), in the order of the recorded parameters."""

    weights: Tensor
    state: tuple[Tensor, ...]
    learning_rate: Tensor
    weight_decay: Tensor
    step: int


class Tangent:
    """One tangent vector, propagated by the derivative of every update with a Hessian-vector product.

    The vector has a part for the weights and one for each state tensor of the optimizer, and is normalised at every
    step. Cost: a backward pass through a backward pass, about three more gradients per step, and a copy of the weights
    and of the state of the optimizer. Attention uses its plain formula, because the fused kernels cannot be
    differentiated twice; so the Hessian equals that of the training up to rounding.

    Parameters
    ----------
    optimizer
        The optimizer of the training: SGD (momentum, weight decay), Adam or AdamW.
    loss_fn
        Its loss.
    selection
        The recorded parameters, without a probe.
    seed
        Seed of the first direction.

    Raises
    ------
    BadCall
        The optimizer is another one, or has options whose derivative is not implemented.
    """

    def __init__(self, optimizer: Optimizer, loss_fn: LossFunction, selection: Selection, seed: int) -> None:
        self._map = _tangent_map(optimizer)
        # Descent is linear, so its derivative does not depend on the state.
        self._remembered = ("exp_avg", "exp_avg_sq") if isinstance(self._map, optimizers.Adam) else ()
        self._loss_fn = loss_fn
        self._selection = selection
        self._is_decoupled = bool(optimizer.defaults.get("decoupled_weight_decay", isinstance(optimizer, AdamW)))
        dtype = torch.float64 if selection.dtype == "float64" else torch.float32
        n = sum(p.numel() for p in selection.parameters)
        first = torch.from_numpy(initial_tangents(n, 1, seed)[0]).to(selection.device, dtype)
        first /= torch.linalg.vector_norm(first)
        self._moves: tuple[Tensor, ...] = (first, *(torch.zeros_like(first) for _ in self._map.state_names))
        self._growth = torch.zeros((), dtype=torch.float64, device=selection.device)

    @property
    def growth(self) -> Tensor:
        """`ln` of the growth factor since `forget_growth`, a float64 scalar on the device."""
        return self._growth

    def forget_growth(self) -> None:
        """Restart the measurement of the growth."""
        self._growth = torch.zeros_like(self._growth)

    def step(self, twin: Twin, recorder: Recorder, pending: Pending, way: Way) -> None:
        """Propagate the vector through an update.

        Parameters
        ----------
        twin
            Copy of the model and its optimizer in the state before the update; its buffers change.
        recorder, pending, way
            What is known of the update.

        Raises
        ------
        RuntimeError
            The gradients of several batches add up.
        """
        if way.n_last > 1:
            raise RuntimeError(f"a tangent vector follows updates from one batch; this one is from {way.n_last}")
        update = self._before(twin, recorder)
        start, batch = pending[-1]
        own = self._selection.of(twin.model)
        with recorder.replaying(twin.model, start, from_forward=way.from_forward), sdpa_kernel(SDPBackend.MATH):
            gradient, curved = self._hessian_product(twin.model, own, batch)
        direction, *others = self._moves
        if not self._is_decoupled:
            gradient = gradient + update.weight_decay * update.weights
            curved = curved + update.weight_decay * direction
        moved = self._map.tangent(
            gradient, update.state, update.learning_rate, update.step, (direction, *others), curved
        )
        if self._is_decoupled:
            moved = (moved[0] - update.learning_rate * update.weight_decay * direction, *moved[1:])
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in moved]))
        self._moves = tuple(part / length for part in moved)
        self._growth = self._growth + length.double().log()

    def _hessian_product(self, model: nn.Module, own: Sequence[Tensor], batch: object) -> tuple[Tensor, Tensor]:
        """Return gradient and Hessian times the direction at the weights of `model`, shape (P,) each."""
        loss = self._loss_fn(model, batch)
        gradient = _gradient(loss, own, create_graph=True)
        along = torch.stack([(g * v).sum() for g, v in zip(gradient, self._split(self._moves[0]), strict=True)]).sum()
        curved = _gradient(along, own) if along.requires_grad else [torch.zeros_like(p) for p in own]
        return self._flat([g.detach() for g in gradient]), self._flat(curved)

    def _before(self, twin: Twin, recorder: Recorder) -> _Update:
        """Return the state before the update."""
        groups = zip(twin.optimizer.param_groups, recorder.hyperparameters, strict=True)
        owners = {id(p): values for group, values in groups for p in group["params"]}
        parameters = self._selection.of(twin.model)
        states = [twin.optimizer.state.get(p, {}) for p in parameters]
        state = tuple(
            self._flat([s.get(name, torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)])
            for name in self._remembered
        )
        with torch.no_grad():
            weights = self._flat([p.detach() for p in parameters])
        rates = self._spread([float(owners[id(p)]["lr"]) if id(p) in owners else 0.0 for p in parameters])
        decays = self._spread([float(owners[id(p)]["weight_decay"]) if id(p) in owners else 0.0 for p in parameters])
        done = next((int(s["step"]) for s in states if "step" in s), 0)
        return _Update(weights, state, rates, decays, done + 1)

    def _spread(self, values: Sequence[float]) -> Tensor:
        """Return one value per parameter as one per coordinate, or as a scalar if all are equal."""
        like = self._moves[0]
        if len(set(values)) == 1:
            return torch.full((), values[0], dtype=like.dtype, device=like.device)
        sizes = torch.tensor([p.numel() for p in self._selection.parameters], device=like.device)
        return torch.tensor(values, dtype=like.dtype, device=like.device).repeat_interleave(sizes)

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in tensors]).to(self._moves[0].dtype)

    def _split(self, flat: Tensor) -> list[Tensor]:
        parameters = self._selection.parameters
        parts = torch.split_with_sizes(flat, [p.numel() for p in parameters])
        return [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]


def _gradient(value: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def _tangent_map(optimizer: Optimizer) -> optimizers.Optimizer:
    """Return the map whose derivative is that of the updates of `optimizer`.

    Raises
    ------
    BadCall
        There is none for this optimizer.
    """
    groups = optimizer.param_groups
    kind = type(optimizer)
    if kind not in {SGD, Adam, AdamW}:
        must = "must be torch.optim.SGD, Adam or AdamW to compute a tangent vector"
        raise BadCall("optimizer", must, kind.__name__, "Use shadow=True instead", Kind.CONFIG)
    unsupported = ("nesterov", "dampening", "amsgrad", "maximize")
    used = sorted({name for name in unsupported for group in groups if group.get(name)})
    if used:
        raise BadCall("optimizer", f"must not use {', '.join(used)} with a tangent vector", kind=Kind.CONFIG)
    shared = "momentum" if kind is SGD else "betas"
    if len({str((group[shared], group.get("eps"))) for group in groups}) > 1:
        raise BadCall("optimizer", f"must have one {shared} in all groups with a tangent vector", kind=Kind.CONFIG)
    if kind is SGD:
        return optimizers.Descent(float(groups[0]["momentum"]))
    adam = optimizers.Adam()
    adam.first_decay, adam.second_decay = (float(beta) for beta in groups[0]["betas"])
    adam.floor = float(groups[0]["eps"])
    return adam
