"""Trainings that change the model or the optimizer between steps."""

import copy

import torch
from torch.optim import Optimizer

from tests.trainings.loops import OPTIMIZERS, Training


class Reloaded(Training):
    """Returns to its checkpoint once."""

    def between(self) -> None:
        if self.number == 6:
            self.kept = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        if self.number == 16:
            self.model.load_state_dict(self.kept[0])
            self.optimizer.load_state_dict(self.kept[1])


class OptimizerReset(Training):
    """Loads an earlier state of the optimizer, and leaves the weights."""

    def between(self) -> None:
        if self.number == 6:
            self.kept = copy.deepcopy(self.optimizer.state_dict())
        if self.number == 16:
            self.optimizer.load_state_dict(self.kept)


class Frozen(Training):
    """Freezes a layer for some steps."""

    def between(self) -> None:
        next(self.model.parameters()).requires_grad_(not 8 <= self.number < 14)


class Rescaled(Training):
    """Shrinks the weights between steps, once."""

    def between(self) -> None:
        if self.number == 16:
            with torch.no_grad():
                for p in self.model.parameters():
                    p.mul_(0.9)


class Replaced(Training):
    """Gets other tensors of the same shapes in the middle, as `load_state_dict(assign=True)` does."""

    def between(self) -> None:
        if self.number == 16:
            self.model.load_state_dict(copy.deepcopy(self.model.state_dict()), assign=True)
            for p, q in zip(self.optimizer.param_groups[0]["params"], self.model.parameters(), strict=True):
                self.optimizer.state[q] = self.optimizer.state.pop(p, {})
            self.optimizer.param_groups[0]["params"] = list(self.model.parameters())


class OtherOptimizer(Training):
    """Goes on with another optimizer from the middle on."""

    def between(self) -> None:
        if self.number == 16:
            self.optimizer = type(self.optimizer)(self.model.parameters(), lr=0.01)  # type: ignore[call-arg]  # all have one


class GroupAdded(Training):
    """Trains a layer from the middle on, by a further group of the optimizer."""

    def optimizer_of(self, kind: str) -> Optimizer:
        return OPTIMIZERS[kind](self.model[0].parameters())  # type: ignore[index]  # a Sequential

    def between(self) -> None:
        if self.number == 10:
            self.optimizer.add_param_group({"params": list(self.model[2].parameters())})  # type: ignore[index]
