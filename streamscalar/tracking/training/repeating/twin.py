"""Copies of the model with copies of its optimizer, which repeat the steps of the training."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from streamscalar.errors import BadCall, Kind
from streamscalar.tracking.training.repeating.beside.stateful import Own

LossFunction = Callable[[Any, Any], Tensor]
"""Takes (model, batch), returns the scalar loss that the training minimises."""

StepFunction = Callable[[Any, Any, Any], Any]
"""Takes (model, optimizer, batch), does all that the training does for one batch, and may return the loss."""


@dataclass(frozen=True)
class Procedure:
    """What the training does for a batch; one of the two is given.

    Attributes
    ----------
    loss_fn
        The loss, whose gradient is the plain one: nothing changes it before the update.
    train_step
        Everything from the forward pass to the update.
    """

    loss_fn: LossFunction | None
    train_step: StepFunction | None

    @property
    def function(self) -> Callable[..., Any]:
        """The function of the user."""
        found = self.train_step or self.loss_fn
        if found is None:
            raise BadCall("loss_fn", "must be given, or train_step, with shadow or tangent", kind=Kind.CONFIG)
        return found

    @property
    def name(self) -> str:
        """The argument of `ss.track` that the function was."""
        return "train_step" if self.train_step else "loss_fn"


class Twin:
    """A copy of a model, and of its optimizer over the copied parameters.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and its optimizer.
    is_perturbed
        Whether what depends on its weights, such as their average, is not that of the training.

    Attributes
    ----------
    model, optimizer
        The copies.
    own
        States beside a perturbed copy; `None` where they are those of the training.

    Raises
    ------
    BadCall
        The model or its optimizer cannot be copied.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, is_perturbed: bool = False) -> None:
        self.own = Own() if is_perturbed else None
        self._source = model
        self._source_optimizer = optimizer
        try:
            self.model: nn.Module = copy.deepcopy(model)
            self.optimizer = copied_optimizer(optimizer, self._twins())
        except Exception as error:
            must = "must be a model that can be copied with its optimizer, for a shadow or a tangent vector"
            raise BadCall("model", must, f"{type(error).__name__}: {error}", kind=Kind.DATA) from error

    def follow(self) -> None:
        """Take the current weights and buffers of the model, and the state of its optimizer.

        Raises
        ------
        RuntimeError
            The model has other parameters or buffers than at the copy.
        """
        if self.own is not None:
            self.own = Own()
        with torch.no_grad():
            for into, values in self._pairs():
                into.copy_(values)
        twins = self._twins()
        source, own = self._source_optimizer, self.optimizer
        if [len(g["params"]) for g in source.param_groups] != [len(g["params"]) for g in own.param_groups]:
            raise RuntimeError("the optimizer has other groups of parameters than at ss.track()")
        for group, mine in zip(source.param_groups, own.param_groups, strict=True):
            mine.update(options_of(group))
            for p, twin in zip(group["params"], mine["params"], strict=True):
                state = source.state.get(p)
                if state is None:
                    own.state.pop(twin, None)
                elif not _copies_in_place(own.state.get(twin), state):
                    own.state[twin] = copy.deepcopy(state, dict(twins))

    def repeat(self, procedure: Procedure, batch: object) -> Tensor:
        """Do for a batch what the training did, apart from the update if there is only a loss; return the loss."""
        if procedure.train_step is not None:
            loss = procedure.train_step(self.model, self.optimizer, batch)
            return loss.detach() if isinstance(loss, Tensor) else torch.tensor(torch.nan)
        loss = procedure.function(self.model, batch)
        torch.autograd.backward(loss, inputs=[p for p in self.model.parameters() if p.requires_grad])
        found: Tensor = loss.detach()
        return found

    def update(self, hyperparameters: Sequence[dict[str, Any]]) -> None:
        """Do an update with the hyperparameters of the training at its update."""
        self.prepare(hyperparameters)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def prepare(self, hyperparameters: Sequence[dict[str, Any]]) -> None:
        """Take the hyperparameters of the training at its update."""
        if hyperparameters and len(hyperparameters) != len(self.optimizer.param_groups):
            raise RuntimeError("the optimizer has other groups of parameters than at ss.track()")
        for group, values in zip(self.optimizer.param_groups, hyperparameters, strict=False):
            group.update(values)

    def discard(self) -> None:
        """Forget the gradients since the last update."""
        self.optimizer.zero_grad()

    def difference(self) -> float:
        """Return the largest difference from the model in weights and buffers; 0 where all bits are equal.

        Where one of both is NaN, it is infinite.
        """
        largest = 0.0
        for own, theirs in self._pairs():
            if torch.equal(own, theirs):
                continue
            if own.shape != theirs.shape:
                return float("inf")
            # NaN in the same places is the same.
            is_same = (own == theirs) | (own.isnan() & theirs.isnan())
            if not is_same.all():
                apart = (own.detach().double() - theirs.detach().double()).abs()[~is_same]
                largest = max(largest, float(apart.nan_to_num(torch.inf, torch.inf).max()))
        return largest

    def moved(self) -> "Twin":
        """Return a copy, whose changes leave this one as it is."""
        copied = copy.copy(self)
        copied.model = copy.deepcopy(self.model)
        twins = dict(zip(map(id, self.model.parameters()), copied.model.parameters(), strict=True))
        copied.optimizer = copied_optimizer(self.optimizer, twins)
        for p, twin in zip(self.model.parameters(), copied.model.parameters(), strict=True):
            twin.grad = None if p.grad is None else p.grad.clone()
        return copied

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        own, theirs = tensors_of(self.model), tensors_of(self._source)
        if len(own) != len(theirs):
            raise RuntimeError("the model has other parameters or buffers than at ss.track()")
        return zip(own, theirs, strict=True)

    def _twins(self) -> dict[int, nn.Parameter]:
        return dict(zip(map(id, self._source.parameters()), self.model.parameters(), strict=True))


STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
"""Attributes of an optimizer with the hooks of its updates."""


def copied_optimizer(optimizer: Optimizer, twins: dict[int, nn.Parameter]) -> Optimizer:
    """Return a copy of an optimizer over other parameters, given by the `id` of those that they replace."""
    memo: dict[int, Any] = dict(twins)
    copied = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name in STEP_HOOKS:
            # A copy of an optimizer has no hooks of its own; a copy of a hook would copy what it belongs to.
            setattr(copied, name, copy.copy(value))
        elif name not in vars(copied) and not callable(value):
            # LBFGS keeps a list of its parameters, which torch leaves out of a copy.
            setattr(copied, name, copy.deepcopy(value, memo))
    return copied


def options_of(group: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a group of parameters, such as its learning rate; tensors are copied."""
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in group.items() if k != "params"}


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Return parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def _copies_in_place(into: Any, state: Any) -> bool:
    """Copy the state of one parameter where both have the same tensors; return whether they have."""
    if not isinstance(into, dict) or into.keys() != state.keys():
        return False
    for name, value in state.items():
        if not (isinstance(value, Tensor) and isinstance(into[name], Tensor) and value.shape == into[name].shape):
            return False
    with torch.no_grad():
        for name, value in state.items():
            into[name].copy_(value)
    return True
