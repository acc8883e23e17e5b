"""Optimizers as maps of weights and state, each with the tangent map that propagates an infinitesimal separation.

The tangent of the gradient is the Hessian of the loss times the tangent of the weights [1]_. With momentum or Adam the
separation has components in the weights and in the state of the optimizer, so its growth is measured over both.

Weight decay shrinks all parameters, biases included, as torch does by default. It is coupled in gradient descent, the
gradient of 1/2 weight_decay |w|^2, and decoupled in Adam [2]_, where it does not enter the moments.

References
----------
.. [1] G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15, 9 (1980).
.. [2] I. Loshchilov, F. Hutter, arXiv 1711.05101, algorithm 2 with the learning rate as its schedule, as in
   `torch.optim.AdamW`; algorithm 1 is the coupled form, as in `torch.optim.SGD`.
"""

from typing import Protocol

import torch
from torch import Tensor

from streamscalar.config.models import TrainingSection

OptimizerState = tuple[Tensor, ...]


class Optimizer(Protocol):
    """Update rule of the training, applied to every replica.

    Attributes
    ----------
    state_names
        Names of the state tensors, each shaped like the weights.
    """

    state_names: tuple[str, ...]

    def update(
        self, weights: Tensor, gradient: Tensor, state: OptimizerState, learning_rate: Tensor, step: int
    ) -> tuple[Tensor, OptimizerState]:
        """Return weights and state after update number `step` (from 1); all tensors have one shape (..., P)."""
        ...

    def tangent(
        self,
        gradient: Tensor,
        state: OptimizerState,
        learning_rate: Tensor,
        step: int,
        moves: OptimizerState,
        curved: Tensor,
    ) -> OptimizerState:
        """Return the derivative of `update` along `moves` of weights and state; `curved` is that of the gradient."""
        ...


class Descent:
    """Gradient descent, with heavy-ball momentum if it is over 0: `b <- momentum b + g; w <- w - lr b`.

    Weight decay makes `g` the gradient plus `weight_decay w`.
    """

    def __init__(self, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self._momentum = momentum
        self._weight_decay = weight_decay
        self.state_names: tuple[str, ...] = ("momentum",) if momentum else ()

    def update(
        self, weights: Tensor, gradient: Tensor, state: OptimizerState, learning_rate: Tensor, step: int
    ) -> tuple[Tensor, OptimizerState]:
        """See `Optimizer.update`."""
        del step
        if self._weight_decay:
            gradient = gradient + self._weight_decay * weights
        if not self._momentum:
            return weights - learning_rate * gradient, ()
        buffer = self._momentum * state[0] + gradient
        return weights - learning_rate * buffer, (buffer,)

    def tangent(
        self,
        gradient: Tensor,
        state: OptimizerState,
        learning_rate: Tensor,
        step: int,
        moves: OptimizerState,
        curved: Tensor,
    ) -> OptimizerState:
        """See `Optimizer.tangent`; the map is linear, so it is its own derivative."""
        del gradient, state
        weights, buffers = self.update(moves[0], curved, moves[1:], learning_rate, step)
        return weights, *buffers


class Adam:
    """Adam with bias correction (Kingma and Ba, arXiv 1412.6980, algorithm 1), with its default constants.

    Weight decay first multiplies the weights by `1 - lr weight_decay`.
    """

    state_names: tuple[str, ...] = ("first_moment", "second_moment")
    first_decay, second_decay, floor = 0.9, 0.999, 1e-8

    def __init__(self, weight_decay: float = 0.0) -> None:
        self._weight_decay = weight_decay

    def update(
        self, weights: Tensor, gradient: Tensor, state: OptimizerState, learning_rate: Tensor, step: int
    ) -> tuple[Tensor, OptimizerState]:
        """See `Optimizer.update`."""
        first = self.first_decay * state[0] + (1 - self.first_decay) * gradient
        second = self.second_decay * state[1] + (1 - self.second_decay) * gradient * gradient
        root = torch.sqrt(second / (1 - self.second_decay**step))
        moved = first / (1 - self.first_decay**step) / (root + self.floor)
        return self._decayed(weights, learning_rate) - learning_rate * moved, (first, second)

    def _decayed(self, weights: Tensor, learning_rate: Tensor) -> Tensor:
        return weights * (1 - learning_rate * self._weight_decay) if self._weight_decay else weights

    def tangent(
        self,
        gradient: Tensor,
        state: OptimizerState,
        learning_rate: Tensor,
        step: int,
        moves: OptimizerState,
        curved: Tensor,
    ) -> OptimizerState:
        """See `Optimizer.tangent`."""
        _, (first, second) = self.update(gradient, gradient, state, learning_rate, step)
        first_move = self.first_decay * moves[1] + (1 - self.first_decay) * curved
        second_move = self.second_decay * moves[2] + 2 * (1 - self.second_decay) * gradient * curved
        first_bias, second_bias = 1 - self.first_decay**step, 1 - self.second_decay**step
        root = torch.sqrt(second / second_bias)
        # The root of a weight that never had a gradient stays 0, although its derivative is infinite.
        root_move = torch.where(root > 0, second_move / second_bias / (2 * root), 0.0)
        size = root + self.floor
        moved = first_move / first_bias / size - first / first_bias * root_move / size**2
        return self._decayed(moves[0], learning_rate) - learning_rate * moved, first_move, second_move


def build_optimizer(training: TrainingSection) -> Optimizer:
    """Return the optimizer of a config."""
    if training.optimizer == "adam":
        return Adam(training.weight_decay)
    return Descent(training.momentum, training.weight_decay)
