"""A tangent vector along a user's training run: the growth of an infinitesimal separation, without an epsilon."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD, Adam, AdamW, Optimizer

from streamscalar.errors import BadCall, Kind
from streamscalar.tracking.training.capture import Selection
from streamscalar.tracking.training.repeating.control import Pending, Way
from streamscalar.tracking.training.repeating.recorder import Recorder
from streamscalar.tracking.training.repeating.twin import STEP_HOOKS, LossFunction, Twin
from streamscalar.training import optimizers
from streamscalar.training.ensemble import initial_tangents

N_CHECKED = 5
"""Number of updates at the start at which the gradient is computed twice."""

MOST_APART = 1e-5
"""Relative difference of two gradients that passes for rounding, on a device whose kernels do not repeat their bits."""

MOST_ASYMMETRIC = 0.01
"""Relative difference between `u H v` and `v H u` that passes for rounding."""

METRIC = "tangent_1"
"""Name under which the growth is stored."""


@dataclass(frozen=True)
class _Update:
    """State before an update: flat tensors, shape (P,), in the order of the recorded parameters.

    The optimizer leaves weights without a gradient as they are, with their state: `is_updated` is `False` there, and
    `None` where there are no such weights.
    """

    weights: Tensor
    state: tuple[Tensor, ...]
    learning_rate: Tensor
    weight_decay: Tensor
    step: int | Tensor
    is_updated: Tensor | None


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
        self._n_checked = 0

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

        def product(direction: Tensor) -> tuple[Tensor, Tensor]:
            replaying = recorder.replaying(twin.model, start, None, from_forward=way.from_forward)
            with replaying, sdpa_kernel(SDPBackend.MATH):
                return self._hessian_product(twin.model, own, batch, direction)

        gradient, curved = product(self._moves[0])
        if self._n_checked < N_CHECKED:
            self._n_checked += 1
            self._check(gradient, curved, product)
        if not all(start.needs_gradient):
            needs = dict(zip(map(id, twin.model.parameters()), start.needs_gradient, strict=True))
            is_trained = self._spread([float(needs[id(p)]) for p in own])
            gradient, curved = gradient * is_trained, curved * is_trained
        direction, *others = self._moves
        if not self._is_decoupled:
            gradient = gradient + update.weight_decay * update.weights
            curved = curved + update.weight_decay * direction
        moved = self._map.tangent(
            gradient,
            update.state,
            update.learning_rate,
            update.step,  # type: ignore[arg-type]  # one number, or one for each weight
            (direction, *others),
            curved,
        )
        if self._is_decoupled:
            moved = (moved[0] - update.learning_rate * update.weight_decay * direction, *moved[1:])
        if update.is_updated is not None:
            moved = tuple(torch.where(update.is_updated, new, old) for new, old in zip(moved, self._moves, strict=True))
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in moved]))
        self._moves = tuple(part / length for part in moved)
        self._growth = self._growth + length.double().log()

    def _check(self, gradient: Tensor, curved: Tensor, product: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        """Compute the product once more, along its own result: a Hessian of the weights alone is symmetric.

        Raises
        ------
        RuntimeError
            The gradient depends on more than the weights, or its derivative is not that of a loss.
        """
        length = torch.linalg.vector_norm(curved)
        again, back = product(curved / length if length > 0 else self._moves[0])
        apart = torch.linalg.vector_norm(again - gradient)
        if apart > (0.0 if gradient.device.type == "cpu" else MOST_APART * torch.linalg.vector_norm(gradient)):
            raise RuntimeError(
                "the gradient depends on buffers or attributes that the forward pass changes, such as those of "
                "spectral_norm, so the weights alone have no tangent vector; use shadow=True"
            )
        if abs(float(self._moves[0] @ back) - float(length)) > MOST_ASYMMETRIC * float(length):
            raise RuntimeError(
                "the second derivative of the loss is not symmetric: an operation in it has another derivative than "
                "its own, such as one that rounds, or the fused weight_norm of torch; use shadow=True"
            )

    def _hessian_product(
        self, model: nn.Module, own: Sequence[Tensor], batch: object, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return gradient and Hessian times a direction at the weights of `model`, shape (P,) each."""
        for p in own:
            # The gradient of a trained weight depends on frozen ones, which may have a separation, too.
            p.requires_grad_()
        loss = self._loss_fn(model, batch)
        gradient = _gradient(loss, own, create_graph=True)
        along = torch.stack([(g * v).sum() for g, v in zip(gradient, self._split(direction), strict=True)]).sum()
        curved = _gradient(along, own) if along.requires_grad else [torch.zeros_like(p) for p in own]
        return self._flat([g.detach() for g in gradient]), self._flat(curved)

    def _before(self, twin: Twin, recorder: Recorder) -> _Update:
        """Return the state before the update."""
        groups = zip(twin.optimizer.param_groups, recorder.hyperparameters, strict=True)
        owners = {id(p): values for group, values in groups for p in group["params"]}
        had = zip(twin.optimizer.param_groups, recorder.has_gradient, strict=True)
        updated = {id(p) for group, flags in had for p, flag in zip(group["params"], flags, strict=True) if flag}
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
        steps = self._spread([float(s.get("step", 0)) + 1 for s in states])
        is_all = all(id(p) in updated for p in parameters)
        mask = None if is_all else self._spread([float(id(p) in updated) for p in parameters]).bool()
        return _Update(weights, state, rates, decays, int(steps) if steps.ndim == 0 else steps, mask)

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
    if any(vars(optimizer).get(hooks) for hooks in STEP_HOOKS):
        must = "must have no hooks with a tangent vector, whose derivative is not known"
        raise BadCall("optimizer", must, "", "Use shadow=True instead", Kind.CONFIG)
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
