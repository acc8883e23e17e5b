"""A tangent vector along a user's training run: the growth of an infinitesimal separation, without an epsilon."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD, Adam, AdamW, Optimizer

from streamscalar.errors import BadCall, Kind
from streamscalar.tracking.training.capture import Selection
from streamscalar.tracking.training.replay import Rehearsal
from streamscalar.tracking.training.shadow import LossFunction
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
    model, optimizer
        The model that is trained, and its optimizer: SGD (momentum, weight decay), Adam or AdamW.
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

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, loss_fn: LossFunction, selection: Selection, seed: int
    ) -> None:
        self._map = _tangent_map(optimizer)
        # Descent is linear, so its derivative does not depend on the state.
        self._remembered = ("exp_avg", "exp_avg_sq") if isinstance(self._map, optimizers.Adam) else ()
        self._optimizer = optimizer
        self._loss_fn = loss_fn
        self._selection = selection
        self._is_decoupled = bool(optimizer.defaults.get("decoupled_weight_decay", isinstance(optimizer, AdamW)))
        try:
            self._carrier = copy.deepcopy(model)
        except Exception as error:
            must = "must be a model that can be copied, for a tangent vector"
            raise BadCall("model", must, f"{type(error).__name__}: {error}", kind=Kind.DATA) from error
        twins = dict(zip(map(id, model.parameters()), self._carrier.parameters(), strict=True))
        self._own = [twins[id(p)] for p in selection.parameters]
        dtype = torch.float64 if selection.dtype == "float64" else torch.float32
        n = sum(p.numel() for p in selection.parameters)
        first = torch.from_numpy(initial_tangents(n, 1, seed)[0]).to(selection.device, dtype)
        first /= torch.linalg.vector_norm(first)
        self._moves: tuple[Tensor, ...] = (first, *(torch.zeros_like(first) for _ in self._map.state_names))
        self._growth = torch.zeros((), dtype=torch.float64, device=selection.device)
        self._updates: list[_Update] = []
        self._model = model
        self._rehearsal = Rehearsal(model, selection.device, self._begin)
        self._handle = optimizer.register_step_pre_hook(self._record_update)

    @property
    def awaits_batch(self) -> bool:
        """Whether the training made an update since the last `step`."""
        return bool(self._updates)

    @property
    def growth(self) -> Tensor:
        """`ln` of the growth factor since `forget_growth`, a float64 scalar on the device."""
        return self._growth

    def forget_growth(self) -> None:
        """Restart the measurement of the growth."""
        self._growth = torch.zeros_like(self._growth)

    def start(self) -> None:
        """Start from the current state of the model."""
        self._rehearsal.begin()

    def step(self, batch: object) -> None:
        """Propagate the vector through the update since the last call."""
        updates, self._updates = self._updates, []
        if not updates:
            return
        if len(updates) > 1:
            raise RuntimeError(f"a tangent vector follows one update per step(); there were {len(updates)}")
        (update,) = updates
        gradient, curved = self._hessian_product(update.weights, batch)
        self._rehearsal.forget()
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

    def remove(self) -> None:
        """Remove the hooks from the model and its optimizer."""
        self._rehearsal.remove()
        self._handle.remove()

    def _begin(self) -> None:
        with torch.no_grad():
            for into, values in zip(self._carrier.buffers(), self._model.buffers(), strict=True):
                into.copy_(values)
            for parameter, value in zip(self._carrier.parameters(), self._model.parameters(), strict=True):
                parameter.copy_(value)

    def _hessian_product(self, weights: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        """Return gradient and Hessian times the direction, at `weights`, shape (P,) each."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._own), self._split(weights))
        with self._rehearsal.replay(self._carrier), sdpa_kernel(SDPBackend.MATH):
            loss = self._loss_fn(self._carrier, batch)
            gradient = _gradient(loss, self._own, create_graph=True)
            along = torch.stack(
                [(g * v).sum() for g, v in zip(gradient, self._split(self._moves[0]), strict=True)]
            ).sum()
            curved = _gradient(along, self._own) if along.requires_grad else [torch.zeros_like(p) for p in self._own]
        return self._flat([g.detach() for g in gradient]), self._flat(curved)

    def _record_update(self, optimizer: Optimizer, *_: object) -> None:
        """Keep the state before the update that follows."""
        groups = [(group, {id(p) for p in group["params"]}) for group in optimizer.param_groups]
        parameters = self._selection.parameters
        owners = [next((group for group, ids in groups if id(p) in ids), None) for p in parameters]
        states = [optimizer.state.get(p, {}) for p in parameters]
        state = tuple(
            self._flat([s.get(name, torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)])
            for name in self._remembered
        )
        with torch.no_grad():
            weights = self._flat([p.detach() for p in parameters])
        rates = self._spread([0.0 if group is None else float(group["lr"]) for group in owners])
        decays = self._spread([0.0 if group is None else float(group["weight_decay"]) for group in owners])
        done = next((int(s["step"]) for s in states if "step" in s), 0)
        self._updates.append(_Update(weights, state, rates, decays, done + 1))

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
