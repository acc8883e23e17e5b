"""The network of a config as a module: built-in networks, and user functions."""

import inspect
import math
from collections.abc import Callable
from itertools import pairwise

from torch import nn

from streamscalar.config.models import ModelSection
from streamscalar.errors import BadCall, Kind
from streamscalar.training.tasks import LoadedTask
from streamscalar.training.user_functions import call_own, find_own

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}

Build = Callable[[], nn.Module]
"""Returns a new module with weights drawn from torch's global generator."""


def network(model: ModelSection, task: LoadedTask) -> Build:
    """Return a function that builds the network of `model` for the samples of `task`.

    A user function is called with those of these keywords that it declares: `n_inputs`, numbers per sample;
    `n_outputs`, classes or target values; `input_shape`, the shape of one sample (flat for the built-in data sets).
    Raises `BadCall`, now or when building, if it does not return a module.
    """
    shape = tuple(task.train.x.shape[1:])
    if model.name == "mlp":
        return lambda: perceptron(math.prod(shape), model.widths, task.n_outputs, model.activation)
    if model.name == "cnn":
        images = as_images(shape)
        return lambda: convolutional(images, model.channels, task.n_outputs, model.activation)
    function = find_own(model.name, "model.name")
    known = {"n_inputs": math.prod(shape), "n_outputs": task.n_outputs, "input_shape": shape}
    keywords = {name: value for name, value in known.items() if _declares(function, name)}

    def build() -> nn.Module:
        module = call_own(function, (), keywords, "model.name", model.name)
        if not isinstance(module, nn.Module):
            must = "must return a torch.nn.Module"
            raise BadCall(f"model.name {model.name}", must, type(module).__name__, kind=Kind.CONFIG)
        return module

    return build


def _declares(function: Callable[..., object], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def perceptron(n_inputs: int, widths: tuple[int, ...], n_outputs: int, activation: str) -> nn.Module:
    """Return a multilayer perceptron, which flattens its inputs (n, ...)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise((n_inputs, *widths, n_outputs)):
        if len(layers) > 1:
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(n_in, n_out))
    return nn.Sequential(*layers)


def convolutional(
    images: tuple[int, int, int], channels: tuple[int, int], n_outputs: int, activation: str
) -> nn.Module:
    """Return two 3x3 convolutions, each followed by activation and 2x2 average pooling, then a linear layer.

    Average pooling, unlike maximum pooling, keeps the network as smooth as its activation.
    """
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, images)]
    n_channels, *sides = images
    for width in channels:
        layers += [nn.Conv2d(n_channels, width, 3, padding=1), ACTIVATIONS[activation](), nn.AvgPool2d(2)]
        n_channels, sides = width, [side // 2 for side in sides]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_channels * math.prod(sides), n_outputs))


def as_images(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width) of samples that are square images: flat, (side, side) or (channels, side, side).

    Raises
    ------
    BadCall
        The samples are not square images.

    Examples
    --------
    >>> as_images((64,)), as_images((3, 32, 32))
    ((1, 8, 8), (3, 32, 32))
    """
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        images = (1, side, shape[0] // max(side, 1))
        is_square = side * side == shape[0]
    else:
        images = (shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1]) if len(shape) in (2, 3) else (0, 0, 0)
        is_square = images[1] == images[2]
    if not is_square or images[1] < 4:
        raise BadCall(
            "model.name",
            "must be mlp or your own module, because the samples are not square images of at least 4x4 pixels",
            f"cnn for samples of shape {shape}",
            kind=Kind.CONFIG,
        )
    return images
