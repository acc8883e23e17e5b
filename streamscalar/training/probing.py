"""Checks that a module can be trained as replicas: its outputs must depend on weights and inputs alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from streamscalar.errors import BadCall, Kind
from streamscalar.training.networks import Build
from streamscalar.training.tasks import LoadedTask, Samples
from streamscalar.training.user_functions import reason

N_PROBED = 4
"""Number of samples that a module is tried on."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and restore them at the end."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def build_checked(build: Build, name: str) -> nn.Module:
    """Return a module built under seed 0, after a check of its parts.

    Raises
    ------
    BadCall
        It cannot be trained as replicas, or differs when it is built again under the same seed.
    """
    with seeded(0):
        module = build()
    _check_parts(module, name)
    with seeded(0):
        again = build()
    ours, theirs = ([*built.parameters(), *built.buffers()] for built in (module, again))
    if len(ours) != len(theirs) or not all(_same(a, b) for a, b in zip(ours, theirs, strict=True)):
        must = "must have the same weights when built again under the same seed of torch, or a run could not be resumed"
        raise _bad(name, must, "other weights", "Draw them from torch's global generator only")
    return module


def _check_parts(module: nn.Module, name: str) -> None:
    for path, part in module.named_modules():
        where = f"{type(part).__name__} {path}".strip()
        if isinstance(part, _NormBase) and part.training and part.track_running_stats:
            raise _bad(
                name,
                "must not change its buffers during training: all replicas would share them",
                where,
                "Use GroupNorm or LayerNorm, set track_running_stats=False, or call .eval() on it",
            )
        if isinstance(part, _DropoutNd) and part.training and part.p > 0:
            raise _bad(
                name,
                "must return the same outputs at every call: replicas may differ only in their weights",
                where,
                "Set p=0, or call .eval() on it",
            )
    for path, parameter in module.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            fix = "Set its sizes from the keywords n_inputs, n_outputs and input_shape"
            raise _bad(name, "must have parameters of known shape", f"lazy {path}", fix)
        if parameter.is_complex():
            raise _bad(name, "must have real parameters", f"complex {path}")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise _bad(name, "must have a parameter that requires a gradient", "none")


def check_outputs(module: nn.Module, task: LoadedTask, name: str) -> None:
    """Try `module` on a few training samples.

    Raises
    ------
    BadCall
        It fails, changes its buffers, is random or not differentiable, or its outputs do not fit the loss.
    """
    probe = task.train.take(slice(N_PROBED))
    before = {path: buffer.clone() for path, buffer in module.named_buffers()}
    with seeded(0):
        outputs = _outputs(module, probe, name)
        again = _outputs(module, probe, name)
    for path, buffer in module.named_buffers():
        if path not in before or not _same(before[path], buffer):
            must = "must not change its buffers in forward: all replicas would share them"
            raise _bad(name, must, f"a new value of {path}", "Keep changing state out of the module")
    if not _same(outputs, again):
        must = "must return the same outputs at every call: replicas may differ only in their weights"
        raise _bad(name, must, "other outputs for the same inputs", "Turn off its dropout or noise")
    _check_loss(outputs, probe, task, name)


def _outputs(module: nn.Module, probe: Samples, name: str) -> Tensor:
    shape = tuple(probe.x.shape)
    try:
        outputs = module(probe.x)
    except Exception as error:
        got = f"{reason(error)}, for {probe.x.dtype} of shape {shape}"
        raise _bad(name, "must compute outputs for the task's inputs, (samples, ...)", got) from error
    if not isinstance(outputs, Tensor):
        raise _bad(name, "must return one tensor from forward", type(outputs).__name__)
    if outputs.dim() == 0 or len(outputs) != len(probe):
        raise _bad(name, f"must return {len(probe)} outputs for {len(probe)} samples", f"shape {tuple(outputs.shape)}")
    return outputs


def _check_loss(outputs: Tensor, probe: Samples, task: LoadedTask, name: str) -> None:
    needed, shape = task.output_shape, tuple(outputs.shape[1:])
    # One value per sample may have an extra axis of length 1.
    if needed is not None and shape != needed and not (needed == () and shape == (1,)):
        must = f"must return outputs of shape {needed} per sample for the targets of this task"
        raise _bad(name, must, str(shape), "Declare the keyword n_outputs, which receives their number")
    functions: dict[str, Any] = {"loss": task.loss, "accuracy": task.accuracy}
    for part, function in functions.items():
        if function is None:
            continue
        try:
            value = function(outputs, probe.y)
        except Exception as error:
            raise _bad_task(part, "must take outputs and targets", reason(error)) from error
        if not isinstance(value, Tensor) or value.dim() != 0 or not value.is_floating_point():
            got = f"shape {tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise _bad_task(part, "must return a floating-point scalar tensor, the mean over the samples", got)
        if part == "loss" and not value.requires_grad:
            if outputs.requires_grad:
                raise _bad_task(part, "must be differentiable in the outputs", "a loss without a gradient")
            must = "must be differentiable in its parameters"
            raise _bad(name, must, "outputs without a gradient", "Remove detach, argmax, round or no_grad from forward")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))


def _bad(name: str, must: str, got: str, fix: str = "") -> BadCall:
    return BadCall(f"model.name {name}", must, got, fix, Kind.CONFIG)


def _bad_task(part: str, must: str, got: str) -> BadCall:
    return BadCall(f"task.name: {part} of the task", must, got, kind=Kind.CONFIG)
