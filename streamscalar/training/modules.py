"""Any `torch.nn.Module` as replicas: one functional call, mapped over the weights.

References
----------
.. [1] PyTorch, `torch.func`: `functional_call` and `vmap`, with the ordinary backward pass, which was faster than a
   mapped `grad` (measured: 1.6 times for a small perceptron on batches of 32, and never slower). Hessian products use
   two backward passes: with torch 2.13, forward differentiation calls the deprecated `torch.jit.script`, and `jacrev`
   of `jacrev` gave a Hessian of LayerNorm that is wrong and not symmetric.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamscalar.errors import BadCall, Kind
from streamscalar.training.networks import Build
from streamscalar.training.probing import N_PROBED, build_checked, check_outputs, seeded
from streamscalar.training.problem import Evaluation, Product
from streamscalar.training.tasks import LoadedTask, OfOutputs, Samples
from streamscalar.training.user_functions import reason
from streamscalar.types import Layer

N_MAPPED = 128
"""Number of samples of an update up to which mapping over the replicas is tried first on a CPU."""

N_CURVATURES = 3
DIFFERENCE = 1e-6
CURVATURE_TOLERANCE = 0.01
"""Points, step of the differences, and maximum relative error in the check of Hessian products; correct ones had 1e-9
and below."""

N_MEASURED = 512
"""Samples per pass without a gradient: bounds the memory for a large data set."""

OfWeights = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes the flat weights (P,) of one replica, inputs and targets."""


class ModuleProblem:
    """A module and its loss over the flat axis of its trainable parameters, in the order of `named_parameters`.

    Tied parameters count once. Frozen parameters and buffers are constants, those of a module built under seed 0: a
    part of the problem, the same for all replicas and initial conditions. The modes (train or eval) are not changed.

    With `init` `torch`, an initial condition is a module built again under its own seed, after which torch's generators
    are restored; with `normal`, weights are N(0, 1) and parameters named bias are 0.

    `BATCHED` maps over the replicas, `SEPARATE` loops over them. A module that cannot be mapped, such as one that
    branches on its values, supports only `SEPARATE`. Mapping saves calls, while a single replica stays in the cache;
    so the order of trying depends on the number of samples. Measured on digits, one CPU thread, R = 6,
    speed of `BATCHED` against `SEPARATE` on 16, 128 and 1,437 samples: `cnn` 1.1, 0.9, 0.6 in float64 and 1.8, 1.3, 0.8
    in float32; a 64-32-10 perceptron 1.1, 1.1, 0.9 and 1.3, 1.2, 0.9.

    Parameters
    ----------
    build
        Returns a new module.
    name
        Name in the config, for error messages.
    task
        Samples, loss and accuracy.
    init
        `torch` or `normal`.
    dtype
        Precision of weights and floating-point inputs.
    device
        Device of the weights.

    Raises
    ------
    BadCall
        The module cannot be trained as replicas on this task.
    """

    def __init__(
        self, build: Build, name: str, task: LoadedTask, init: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._build = build
        self._name = name
        self._device = device
        self._init = init
        self._module = build_checked(build, name).to(device, dtype)
        test = None if task.test is None else _placed(task.test, dtype, device)
        self._task = replace(task, train=_placed(task.train, dtype, device), test=test)
        self.n_train = len(task.train)
        self.metrics: tuple[str, ...] = ("loss",) if task.accuracy is None else ("loss", "accuracy")
        layers: list[Layer] = []
        offset = 0
        for path, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                layers.append(Layer(path, offset, tuple(parameter.shape)))
                offset += parameter.numel()
        self.layers: tuple[Layer, ...] = tuple(layers)
        check_outputs(self._module, self._task, name)
        self._is_mapped = self._can_be_mapped()
        self._is_curvature_right = False

    def _can_be_mapped(self) -> bool:
        twins = self._flat(self._module).repeat(2, 1)
        probe = torch.arange(min(N_PROBED, self.n_train), device=twins.device)
        try:
            self.evaluate(twins, Product.BATCHED, with_accuracy=False, batch=probe)
        except Exception:  # noqa: BLE001  (any error means that it cannot be mapped; the loop below decides)
            try:
                self.evaluate(twins, Product.SEPARATE, with_accuracy=False, batch=probe)
            except Exception as error:
                must = "must be a function of its parameters and inputs, with a gradient"
                raise BadCall(f"model.name {self._name}", must, reason(error), kind=Kind.CONFIG) from error
            return False
        return True

    def products(self, n_samples: int) -> tuple[Product, ...]:
        """See `Problem.products`; the order does not depend on timings, which would make last bits vary."""
        if not self._is_mapped:
            return (Product.SEPARATE,)
        if self._device.type == "cpu" and n_samples > N_MAPPED:
            return Product.SEPARATE, Product.BATCHED
        return Product.BATCHED, Product.SEPARATE

    def initial(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return initial parameters after `model.init`."""
        if self._init == "normal":
            sizes = [(layer.size, layer.is_weight) for layer in self.layers]
            return np.concatenate([rng.standard_normal(n) if is_weight else np.zeros(n) for n, is_weight in sizes])
        with seeded(int(rng.integers(2**63))):
            return np.asarray(self._flat(self._build()).to(torch.float64).cpu())

    def _flat(self, module: torch.nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad])

    def evaluate(
        self, weights: Tensor, product: Product, *, with_accuracy: bool, batch: Tensor | None = None
    ) -> Evaluation:
        """See `Problem.evaluate`."""
        leaf = weights.detach().requires_grad_()
        loss = self._over(self._of(self._task.loss), leaf, product, self._chosen(batch), has_own=_has_own(batch))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return Evaluation(loss.detach(), gradient, self._accuracy(weights, product) if with_accuracy else None)

    def measure(self, weights: Tensor, product: Product) -> tuple[Tensor, Tensor | None]:
        """See `Problem.measure`."""
        loss = self._mean(self._task.loss, weights, product, self._task.train)
        return loss, self._accuracy(weights, product)

    def hessian_product(
        self, weights: Tensor, vectors: Tensor, product: Product, batch: Tensor | None = None
    ) -> Tensor:
        """See `Problem.hessian_product`; by two backward passes per vector, checked at the first call."""
        if not self._is_curvature_right:
            self._check_curvature()
            self._is_curvature_right = True
        return self._curved(weights, vectors, product, batch)

    def _curved(self, weights: Tensor, vectors: Tensor, product: Product, batch: Tensor | None) -> Tensor:
        leaf = weights.detach().requires_grad_()
        loss = self._over(self._of(self._task.loss), leaf, product, self._chosen(batch), has_own=_has_own(batch))
        try:
            (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
            if not gradient.requires_grad:
                return torch.zeros_like(vectors)
            columns = [torch.autograd.grad(gradient, leaf, v, retain_graph=True)[0] for v in vectors.unbind(1)]
        except RuntimeError as error:
            must = "must be 0 for this model, whose gradient is not differentiable"
            raise BadCall("training.n_tangents", must, reason(error), kind=Kind.CONFIG) from error
        return torch.stack(columns, 1)

    def _check_curvature(self) -> None:
        """Compare Hessian products on a few samples in float64 with differences of gradients.

        Some second derivatives of torch are wrong: that of `weight_norm` is 10 % off (torch 2.13). One point that
        agrees is enough, because a difference may cross the kink of a rectifier.
        """
        some = replace(self._task, train=self._task.train.take(slice(N_PROBED)), test=None, accuracy=None)
        twin = ModuleProblem(self._build, self._name, some, self._init, torch.float64, self._device)
        product, rng = twin.products(N_PROBED)[0], np.random.default_rng(0)
        errors: list[float] = []
        for _ in range(N_CURVATURES):
            # Away from the initial point, where biases of 0 may be at a kink.
            weights = twin.initial(rng) + 0.01 * rng.standard_normal(twin.layers[-1].offset + twin.layers[-1].size)
            point = torch.tensor(weights, device=self._device)[None]
            move = torch.tensor(rng.standard_normal(point.shape), device=self._device)
            up, down = (
                twin.evaluate(point + step * move, product, with_accuracy=False).gradient
                for step in (DIFFERENCE, -DIFFERENCE)
            )
            expected = (up - down) / (2 * DIFFERENCE)
            apart = twin._curved(point, move[:, None], product, None)[:, 0] - expected
            errors.append(float(apart.norm() / expected.norm().clamp_min(DIFFERENCE)))
        if min(errors) > CURVATURE_TOLERANCE:
            raise BadCall(
                "training.n_tangents",
                "must be 0 for this model: its second derivative in torch is not the change of its gradient",
                f"a relative error of {min(errors):.2g}",
                "Write the layer whose second derivative is wrong with elementary operations",
                Kind.CONFIG,
            )

    def _accuracy(self, weights: Tensor, product: Product) -> Tensor | None:
        if self._task.accuracy is None or self._task.test is None:
            return None
        return self._mean(self._task.accuracy, weights, product, self._task.test)

    def _mean(self, of_outputs: OfOutputs, weights: Tensor, product: Product, samples: Samples) -> Tensor:
        """Return the mean over the samples, computed in pieces, shape (R,)."""
        total = torch.zeros_like(weights[:, 0])
        with torch.no_grad():
            for first in range(0, len(samples), N_MEASURED):
                piece = samples.take(slice(first, first + N_MEASURED))
                total += len(piece) * self._over(self._of(of_outputs), weights, product, piece, has_own=False)
        return total / len(samples)

    def _of(self, of_outputs: OfOutputs) -> OfWeights:
        def value(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
            parts = torch.split_with_sizes(flat, [layer.size for layer in self.layers])
            named = {layer.name: part.view(layer.shape) for layer, part in zip(self.layers, parts, strict=True)}
            return of_outputs(functional_call(self._module, named, (x,)), y)

        return value

    def _chosen(self, batch: Tensor | None) -> Samples:
        return self._task.train if batch is None else self._task.train.take(batch)

    def _over(
        self, function: OfWeights, weights: Tensor, product: Product, samples: Samples, *, has_own: bool
    ) -> Tensor:
        """Return `function` of every replica, on its own samples with `has_own`.

        Attention uses its plain formula: the fused kernels can be neither mapped nor differentiated twice.
        """
        with sdpa_kernel(SDPBackend.MATH):
            return self._each(function, weights, product, samples, has_own=has_own)

    def _each(
        self, function: OfWeights, weights: Tensor, product: Product, samples: Samples, *, has_own: bool
    ) -> Tensor:
        if product is not Product.SEPARATE:
            axis = 0 if has_own else None
            mapped: Callable[..., Tensor] = vmap(function, in_dims=(0, axis, axis))
            return mapped(weights, samples.x, samples.y)
        results: list[Tensor] = []
        for replica, flat in enumerate(weights.unbind()):
            x, y = (samples.x[replica], samples.y[replica]) if has_own else (samples.x, samples.y)
            # A copy is aligned by the allocator; the last bits of a kernel depend on the alignment.
            results.append(function(flat.clone(), x, y))
        return torch.stack(results)


def _has_own(batch: Tensor | None) -> bool:
    return batch is not None and batch.dim() == 2


def _placed(samples: Samples, dtype: torch.dtype, device: torch.device) -> Samples:
    x, y = (t.to(device, dtype if t.is_floating_point() else t.dtype) for t in (samples.x, samples.y))
    return Samples(x, y)
