"""Records what a copy of the model needs to repeat a step of the training, without disturbing the training."""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from streamscalar.tracking.training.repeating.beside.stateful import Own, Stateful, States
from streamscalar.tracking.training.repeating.guard import plain_attributes
from streamscalar.tracking.training.repeating.twin import options_of


@dataclass(frozen=True)
class Generators:
    """States of all global generators that a step of a training may draw from."""

    cpu: Tensor
    cuda: Tensor | None
    python: Any
    numpy: Any

    @classmethod
    def now(cls, device: torch.device) -> "Generators":
        """Return the current states."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        # A forward pass of a user may draw from the global generator of NumPy.
        return cls(torch.get_rng_state(), cuda, random.getstate(), np.random.get_state())  # noqa: NPY002  (the global one)

    def restore(self, device: torch.device) -> None:
        """Restore all generators to these states."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002  (the global one)


@dataclass(frozen=True)
class Start:
    """How one batch of the training began.

    Attributes
    ----------
    before
        Generators at the end of the call of `step` before it.
    forward
        Generators at its first forward pass in training mode; `None` if there was none.
    modes, attributes, needs_gradient
        At that pass: training mode and plain attributes of each module, `requires_grad` of each parameter.
    owned
        States of the objects that the function of the user owns, at the end of the call of `step` before it.
    """

    before: Generators
    forward: Generators | None
    modes: list[bool]
    attributes: list[dict[str, Any]]
    needs_gradient: list[bool]
    owned: States


class Recorder:
    """Records the start of each batch and the hyperparameters of each update.

    Its hooks are those that torch keeps for all modules and optimizers, so neither the model nor the optimizer holds a
    reference to it: both are copied, saved and wrapped as without it.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and its optimizer.
    stateful
        Objects with a state that the function of the user owns.
    device
        Device of the model.
    on_first
        Called once, before the first forward pass in training mode.

    Attributes
    ----------
    hyperparameters
        Options of each group of parameters at the newest update.
    has_begun
        Whether there was a forward pass in training mode.
    has_gradient
        Which parameters of each group had a gradient then; the others are left as they are.
    n_updates
        Updates since `forget_updates`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stateful: Stateful,
        device: torch.device,
        on_first: Callable[[], None],
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._stateful = stateful
        self._device = device
        self._on_first = on_first
        self.has_begun = False
        self.hyperparameters: list[dict[str, Any]] = []
        self.has_gradient: list[list[bool]] = []
        self.n_updates = 0
        # A compiled model does not bear hooks: each of its batches begins with the call of `step` before it.
        self._is_compiled = "_orig_mod" in dict(model.named_children())
        self._rest()
        self._handles = [register_optimizer_step_pre_hook(self._record_update)]
        if not self._is_compiled:
            warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there are global hooks")
            self._handles.append(register_module_forward_pre_hook(self._record_forward))

    def take(self) -> Start:
        """Return how the batch began that `step` was given, and wait for the next."""
        start = Start(self._before, self._forward, self._modes, self._attributes, self._needs_gradient, self._owned)
        self._rest()
        return start

    def rest(self) -> None:
        """Take the state at the end of a call of `step` as the start of the next batch."""
        self._rest()

    def forget_updates(self) -> None:
        """Start to count updates again."""
        self.n_updates = 0

    @property
    def n_variables(self) -> int:
        """Number of variables of the user that repeats have changed so far."""
        return self._stateful.n_variables

    @property
    def begins_now(self) -> bool:
        """Whether the first forward pass cannot be seen, so that copies have to start before it."""
        return self._is_compiled

    def begin(self) -> None:
        """Call `on_first` now, not at the first forward pass."""
        self.has_begun = True
        self._on_first()

    @contextmanager
    def replaying(self, copy: nn.Module, start: Start, own: Own | None, *, from_forward: bool) -> Iterator[None]:
        """Run the block as the batch began; then restore the generators, and the objects that the user owns.

        A perturbed copy has states of its own beside it, `own`.

        Raises
        ------
        RuntimeError
            The model made no forward pass in training mode, where the block has to begin.
        """
        generators = start.forward if from_forward and not self._is_compiled else start.before
        if generators is None:
            raise RuntimeError("step() was given a batch, but the model made no forward pass in training mode")
        if start.modes:
            modules = zip(copy.modules(), start.modes, start.attributes, strict=True)
            for module, mode, attributes in modules:
                module.__dict__.update(attributes)
                module.training = mode
            for parameter, needs in zip(copy.parameters(), start.needs_gradient, strict=True):
                parameter.requires_grad_(needs)
        before = Generators.now(self._device)
        held = self._stateful.hold()
        generators.restore(self._device)
        self._stateful.restore(start.owned if own is None else own.start(start.owned))
        try:
            with torch.enable_grad():
                yield
            if own is not None:
                own.ends = self._stateful.states(), held.states
        finally:
            before.restore(self._device)
            self._stateful.release(held)

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _rest(self) -> None:
        self._before = Generators.now(self._device)
        self._owned = self._stateful.states()
        self._forward: Generators | None = None
        self._modes: list[bool] = []
        self._attributes: list[dict[str, Any]] = []
        self._needs_gradient: list[bool] = []
        if self._is_compiled:
            self._note_modules()

    def _record_forward(self, module: nn.Module, *_: object) -> None:
        if self._forward is not None or not self._is_ours(module):
            return
        if not (self._model.training and torch.is_grad_enabled()):
            return
        if not self.has_begun:
            self.begin()
        self._note_modules()
        self._forward = Generators.now(self._device)

    def _note_modules(self) -> None:
        modules = list(self._model.modules())
        self._modes = [one.training for one in modules]
        self._attributes = [plain_attributes(one) for one in modules]
        self._needs_gradient = [p.requires_grad for p in self._model.parameters()]

    def _is_ours(self, module: nn.Module) -> bool:
        """Return whether a module is the model, or the wrapper that `torch.compile` puts around it."""
        return module is self._model or vars(module).get("_modules", {}).get("_orig_mod") is self._model

    def _record_update(self, optimizer: Optimizer, *_: object) -> None:
        if optimizer is not self._optimizer:
            return
        # Read at the update: a scheduler may change the learning rate before step() is called.
        self.hyperparameters = [options_of(group) for group in optimizer.param_groups]
        self.has_gradient = [[p.grad is not None for p in group["params"]] for group in optimizer.param_groups]
        self.n_updates += 1
