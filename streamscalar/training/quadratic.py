"""The quadratic problem, whose dynamics are known in closed form."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.training.problem import Evaluation, Product
from streamscalar.types import Layer


class Quadratic:
    """Loss 1/2 sum h_i w_i^2: its gradient descent multiplies w_i by 1 - lr h_i at every step."""

    metrics: tuple[str, ...] = ("loss",)
    n_train = 0

    def __init__(self, curvatures: Tensor) -> None:
        self.curvatures = curvatures
        self.layers: tuple[Layer, ...] = (Layer("weight", 0, (len(curvatures),)),)

    def products(self, n_samples: int) -> tuple[Product, ...]:
        """See `Problem.products`; there are no products, so all are equal."""
        del n_samples
        return tuple(Product)

    def initial(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return N(0, 1) parameters."""
        return rng.standard_normal(len(self.curvatures))

    def evaluate(
        self, weights: Tensor, product: Product, *, with_accuracy: bool, batch: Tensor | None = None
    ) -> Evaluation:
        """See `Problem.evaluate`; there are no products, accuracy or batches."""
        del product, with_accuracy, batch
        gradient = self.curvatures * weights
        return Evaluation(0.5 * (gradient * weights).sum(1), gradient, None)

    def measure(self, weights: Tensor, product: Product) -> tuple[Tensor, Tensor | None]:
        """See `Problem.measure`."""
        return self.evaluate(weights, product, with_accuracy=False).loss, None

    def hessian_product(
        self, weights: Tensor, vectors: Tensor, product: Product, batch: Tensor | None = None
    ) -> Tensor:
        """See `Problem.hessian_product`."""
        del weights, product, batch
        return self.curvatures * vectors
