"""What is minimised: the interface of a problem, its results, and the ways of computing products of replicas."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.types import Layer


class Product(StrEnum):
    """How the matrix products of the replicas are computed, fastest first."""

    FUSED = "fused"
    BATCHED = "batched"
    SEPARATE = "separate"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss (R,), gradient (R, P) and test accuracy (R,) of R replicas; the accuracy is `None` if not computed."""

    loss: Tensor
    gradient: Tensor
    accuracy: Tensor | None


class Problem(Protocol):
    """A loss over a flat parameter axis.

    Attributes
    ----------
    layers
        Names and positions of the parameters.
    metrics
        Names of the metrics: `loss`, the mean over all training samples at the recorded weights, independent of
        batches and without weight decay; and `accuracy`, the share of correct test samples.
    n_train
        Number of training samples; 0 if the loss has none.
    """

    layers: tuple[Layer, ...]
    metrics: tuple[str, ...]
    n_train: int

    def products(self, n_samples: int) -> tuple[Product, ...]:
        """Return the supported products for updates on `n_samples` samples, fastest first."""
        ...

    def initial(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return initial parameters, shape (P,)."""
        ...

    def evaluate(
        self, weights: Tensor, product: Product, *, with_accuracy: bool, batch: Tensor | None = None
    ) -> Evaluation:
        """Return loss, gradient and, if requested, accuracy at `weights` (R, P).

        Loss and gradient are those of all training samples, or of the samples `batch`: indices (B,) for all
        replicas, or (R, B) for each.
        """
        ...

    def measure(self, weights: Tensor, product: Product) -> tuple[Tensor, Tensor | None]:
        """Return loss over all training samples and accuracy, without a gradient, at `weights` (R, P)."""
        ...

    def hessian_product(
        self, weights: Tensor, vectors: Tensor, product: Product, batch: Tensor | None = None
    ) -> Tensor:
        """Return the Hessian at `weights` (R, P) times `vectors`, shape (R, k, P); `batch` as in `evaluate`."""
        ...
