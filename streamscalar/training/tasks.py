"""Tasks as tensors: the built-in data sets, and user functions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from streamscalar.config.models import TaskSection, is_own
from streamscalar.errors import BadCall, Kind
from streamscalar.training.data import Data, first_samples, load_data
from streamscalar.training.user_functions import call_own, find_own

OfOutputs = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs and targets of n samples, with n along the first axis; returns a scalar, the mean over the samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Return value of your own function for `task.name: package.module:function`.

    Attributes
    ----------
    x_train, x_test
        Inputs, shape (samples, ...): floats are converted to `training.dtype`, integers (such as tokens) to int64.
    y_train, y_test
        Targets with samples along the first axis: integers are classes, floats are values. Without test samples there
        is no accuracy.
    loss
        Loss of outputs and targets, a scalar, the mean over the samples; differentiable in the outputs. By default
        the cross-entropy of classes, classes along the last axis of the outputs, and the mean squared error of values.
    accuracy
        Share of correct test samples, a scalar in [0, 1], the mean over the samples. By default that of classes;
        values have none.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> task = Task(x, np.sin(3 * x))
    """

    x_train: Tensor | NDArray[Any]
    y_train: Tensor | NDArray[Any]
    x_test: Tensor | NDArray[Any] | None = None
    y_test: Tensor | NDArray[Any] | None = None
    loss: OfOutputs | None = None
    accuracy: OfOutputs | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs and targets, both with the samples along the first axis."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def take(self, chosen: slice | Tensor) -> Self:
        """Return some of the samples; indices of shape (R, B) give tensors (R, B, ...)."""
        return type(self)(self.x[chosen], self.y[chosen])

    def as_floats(self) -> Self:
        """Return the same samples, integer inputs as float64."""
        return self if self.x.is_floating_point() else type(self)(self.x.double(), self.y)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTask:
    """A task ready for training.

    Attributes
    ----------
    train
        Training samples.
    test
        Test samples; `None` if there are none.
    n_outputs
        Number of classes, or of target values per sample.
    loss, accuracy
        See `Task`; the accuracy is `None` if there is none.
    """

    train: Samples
    test: Samples | None
    n_outputs: int
    loss: OfOutputs
    accuracy: OfOutputs | None

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """Shape of the outputs of one sample that the default loss needs; `None` for a user's loss."""
        shape = tuple(self.train.y.shape[1:])
        if self.loss is cross_entropy:
            return (*shape, self.n_outputs)
        return shape if self.loss is squared_error else None

    def with_float_inputs(self) -> Self:
        """Return the same task with integer inputs as floats, for networks that take no integers."""
        return replace(self, train=self.train.as_floats(), test=None if self.test is None else self.test.as_floats())

    def as_classes(self) -> Data | None:
        """Return the samples for the built-in perceptron; `None` unless this is a classification with test samples."""
        y = self.train.y
        if self.test is None or (self.loss, self.accuracy) != (cross_entropy, share_right) or y.dim() != 1:
            return None
        x_train, x_test = (
            samples.x.reshape(len(samples), -1).to(torch.float64).numpy() for samples in (self.train, self.test)
        )
        return Data(x_train, y.numpy(), x_test, self.test.y.numpy(), self.n_outputs, {})


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes (n, ...) under outputs (n, ..., classes)."""
    return functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1))


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error; outputs (n, 1) are accepted for targets (n,)."""
    return (outputs.reshape(targets.shape) - targets).square().mean()


def share_right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of targets (n, ...) whose class has the largest output of (n, ..., classes)."""
    return (outputs.argmax(-1) == targets).to(outputs.dtype).mean()


def load_task(section: TaskSection) -> LoadedTask:
    """Return the task of a config on the CPU, cut to `n_train` and `n_test`; floats keep their precision.

    Raises
    ------
    BadCall
        A file, or the return value of a user function, is not a valid task.
    """
    if is_own(section.name):
        return _own(section)
    data = load_data(section)
    train = Samples(torch.from_numpy(data.x_train), torch.from_numpy(data.y_train))
    test = Samples(torch.from_numpy(data.x_test), torch.from_numpy(data.y_test))
    return LoadedTask(train, test, data.n_classes, cross_entropy, share_right)


def _own(section: TaskSection) -> LoadedTask:
    name = section.name
    arguments = () if section.path is None else (section.path,)
    task = call_own(find_own(name, "task.name"), arguments, {}, "task.name", name)
    if not isinstance(task, Task):
        raise _bad(name, "must return a streamscalar.training.tasks.Task", type(task).__name__)
    train = _samples(name, "train", task.x_train, task.y_train)
    test = None
    if task.x_test is not None or task.y_test is not None:
        test = _samples(name, "test", task.x_test, task.y_test)
    parts = (train, test) if test is not None else (train,)
    if len({(part.x.shape[1:], part.y.shape[1:], part.y.dtype) for part in parts}) > 1:
        raise _bad(name, "must return test samples of the shape and type of its training samples", _shapes(*parts))
    train = Samples(first_samples(train.x, section.n_train, "n_train"), train.y[: section.n_train])
    if test is not None:
        test = Samples(first_samples(test.x, section.n_test, "n_test"), test.y[: section.n_test])
    is_classes = not train.y.is_floating_point()
    if is_classes and task.loss is None and min(int(part.y.min()) for part in parts) < 0:
        raise _bad(name, "must return classes counted from 0", "a negative one")
    # Counts all samples, so that n_train does not change the model.
    n_outputs = 1 + max(int(part.y.max()) for part in parts) if is_classes else max(1, train.y[0].numel())
    accuracy = task.accuracy or (share_right if is_classes and task.loss is None else None)
    return LoadedTask(
        train,
        test,
        n_outputs,
        task.loss or (cross_entropy if is_classes else squared_error),
        accuracy if test is not None else None,
    )


def _samples(name: str, split: str, x: Any, y: Any) -> Samples:
    x, y = (_tensor(name, f"{axis}_{split}", values) for axis, values in (("x", x), ("y", y)))
    if len(x) != len(y) or not len(x):
        raise _bad(name, f"must return as many x_{split} as y_{split}, at least one", f"{len(x)} and {len(y)}")
    return Samples(x, y)


def _tensor(name: str, part: str, values: Any) -> Tensor:
    try:
        found = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except TypeError:
        raise _bad(name, f"must return {part} as an array or tensor of numbers", type(values).__name__) from None
    if found.dim() == 0 or found.is_complex():
        raise _bad(name, f"must return {part} as real numbers, shape (samples, ...)", f"{found.dtype}, {found.dim()}-d")
    return found if found.is_floating_point() else found.to(torch.int64)


def _shapes(*parts: Samples) -> str:
    return " and ".join(f"x {tuple(part.x.shape)} y {tuple(part.y.shape)} {part.y.dtype}" for part in parts)


def _bad(name: str, must: str, got: str) -> BadCall:
    return BadCall(f"task.name {name}", must, got, kind=Kind.DATA)
