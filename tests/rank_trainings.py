"""Distributed trainings of two processes, sound and faulty ones, tracked by all ranks with the same line.

`python -m tests.rank_trainings RANK MEETING FOLDER KIND...` runs one rank of one training after the other.
"""

import contextlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import streamscalar as ss

N_STEPS = 6
TIMEOUT_S = 300


class Statistic(nn.Module):
    """Keeps a running mean of the batches of this rank, as a centre or a code book does."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(x.mean(0), 0.1)
        return x - self.mean


class Branches(nn.Module):
    """Uses one of two layers, in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.n_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_passes += 1
        found: Tensor = self.layers[self.n_passes % 2](x)
        return found


def layers(*first: nn.Module) -> nn.Sequential:
    """Return a small network: parameters 1.weight, 1.bias, 3.weight, 3.bias, and a constant buffer."""
    model = nn.Sequential(*(first or (nn.Identity(),)), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    model.register_buffer("scale", torch.ones(2))
    return model


def nothing(model: Any, step: int, rank: int) -> None:
    """Disturb nothing."""


def flip(model: Any, step: int, rank: int) -> None:
    """Flip the lowest bit of one weight of rank 1 after step 4."""
    if rank == 1 and step == 4:
        model[1].weight.data.view(torch.int32)[2, 3] ^= 1


def unfreeze(model: Any, step: int, rank: int) -> None:
    """Train a layer that was frozen when the wrapper was made, which therefore does not know it."""
    del rank
    model[3].bias.requires_grad_(step >= 2)


def shift_buffer(model: Any, step: int, rank: int) -> None:
    """Change a buffer of rank 1 after step 3."""
    if rank == 1 and step == 3:
        model.scale += 1


def shift_always(model: Any, step: int, rank: int) -> None:
    """Change a buffer of rank 1 after every step, after which the next forward pass overwrites it."""
    if rank == 1 and step >= 2:
        model.scale += 1


@dataclass
class Kind:
    """A kind of training.

    Attributes
    ----------
    model
        Makes the model.
    wrapper
        Options of `DistributedDataParallel`.
    disturb
        Called with the inner model, the step and the rank after each update.
    n_passes
        Batches per update.
    evaluates
        Whether a pass without gradients follows each update.
    frozen
        Name of the parameter that is frozen while the model is wrapped.
    every
        As passed to `track`.
    resumes
        Whether to train once more, as a resumed run.
    tracks_inner
        Whether the model is tracked that the wrapper is made around, before it is.
    """

    model: Callable[[], nn.Module] = layers
    wrapper: dict[str, Any] = field(default_factory=dict)
    disturb: Callable[[Any, int, int], None] = nothing
    n_passes: int = 1
    evaluates: bool = False
    frozen: str = ""
    every: int | None = 1
    resumes: bool = False
    tracks_inner: bool = False


def norm() -> nn.Module:
    """Return a network with batch normalisation."""
    return layers(nn.BatchNorm1d(4))


def branching() -> nn.Module:
    """Return a network with a statistic, and layers that not every pass uses."""
    return layers(nn.Sequential(Statistic(), Branches()))


def ignoring() -> nn.Module:
    """Return a network whose wrapper leaves a statistic to each rank."""
    model = layers(Statistic())
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(model, ["0.mean"])
    return model


SOUND = {
    "plain": Kind(every=None),
    "norm": Kind(norm),
    "norm_local": Kind(norm, {"broadcast_buffers": False}),
    "accumulating": Kind(norm, n_passes=3),
    "unused": Kind(branching, {"find_unused_parameters": True}, n_passes=2, tracks_inner=True),
    "static_graph": Kind(norm, {"static_graph": True}),
    "evaluating": Kind(norm, evaluates=True),
    "statistic": Kind(lambda: layers(Statistic())),
    "ignored": Kind(ignoring, {"broadcast_buffers": False}),
    "bucket_view": Kind(norm, {"gradient_as_bucket_view": True, "broadcast_buffers": False}),
    "resumed": Kind(norm, resumes=True),
    "dropout": Kind(lambda: layers(nn.Dropout(0.3)), {"bucket_cap_mb": 0.0001}),
}
"""Trainings whose ranks stay equal."""

FAULTY = {
    "flipped": Kind(norm, disturb=flip),
    "late_parameter": Kind(disturb=unfreeze, frozen="3.bias"),
    "local_statistic": Kind(lambda: layers(Statistic()), {"broadcast_buffers": False}),
    "local_buffer": Kind(norm, {"broadcast_buffers": False}, disturb=shift_buffer),
    "changed_buffer": Kind(norm, disturb=shift_always),
}
"""Trainings whose rank 1 drifts."""

FOUND = {
    "flipped": (4, 3, "1.weight", "parameter"),
    "late_parameter": (4, 3, "3.bias", "parameter"),
    "local_statistic": (1, None, "0.mean", "buffer"),
    "local_buffer": (3, 2, "scale", "buffer"),
    "changed_buffer": (3, 2, "scale", "buffer"),
}
"""Step of the first difference, step before it, tensor, and its role."""


def run_pair(folder: Path, kinds: list[str]) -> list[str]:
    """Train each kind on two processes; return the warnings of both."""
    return run_ranks("tests.rank_trainings", folder, kinds)


def run_ranks(module: str, folder: Path, kinds: list[str], n_ranks: int = 2) -> list[str]:
    """Run a module as each rank; return the lines that they print."""
    words = [str(folder / "meeting"), str(folder / "s"), *kinds]
    commands = [[sys.executable, "-m", module, str(rank), *words] for rank in range(n_ranks)]
    root = Path(__file__).parents[1]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for command in commands]
    try:
        said = [process.communicate(timeout=TIMEOUT_S)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * n_ranks, said
    return [line for text in said for line in text.splitlines()]


def train(name: str, kind: Kind, rank: int, store: str) -> None:
    """Train one kind on this rank."""
    torch.manual_seed(0)
    inner = kind.model()
    for parameter, values in inner.named_parameters():
        values.requires_grad_(parameter != kind.frozen)
    optimizer = torch.optim.Adam(inner.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(rank)
    options: dict[str, Any] = {"name": name, "store": store, "optimizer": optimizer, "compare_ranks_every": kind.every}
    early = ss.track(inner, **options) if kind.tracks_inner else None
    model = DistributedDataParallel(inner, **kind.wrapper)
    for resume in ("never", "must") if kind.resumes else ("never",):
        with early or ss.track(model, resume=resume, **options) as run:
            for step in range(1, N_STEPS + 1):
                update(model, optimizer, kind, generator)
                kind.disturb(inner, step, rank)
                run.step()


def update(model: DistributedDataParallel, optimizer: torch.optim.Optimizer, kind: Kind, data: torch.Generator) -> None:
    """Update the model once."""
    optimizer.zero_grad()
    for batch in range(1, kind.n_passes + 1):
        is_last = batch == kind.n_passes
        with contextlib.nullcontext() if is_last else model.no_sync():
            model(torch.randn(8, 4, generator=data)).square().mean().backward()
    optimizer.step()
    if kind.evaluates:
        with torch.no_grad():
            model(torch.randn(8, 4, generator=data))


def main() -> None:
    """Run the trainings of one rank."""
    rank, meeting, store, *kinds = int(sys.argv[1]), *sys.argv[2:]
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in kinds:
            train(name, {**SOUND, **FAULTY}[name.split("+")[0]], rank, store)
    for warning in caught:
        if issubclass(warning.category, ss.tracking.TrackingWarning):
            sys.stdout.write(f"{rank}: {warning.message}\n")
    distributed.destroy_process_group()


def trainings(names: dict[str, Kind], n: int) -> Iterator[str]:
    """Yield names of `n` trainings, of each kind in turns."""
    kinds = list(names)
    for index in range(n):
        turn = index // len(kinds)
        yield kinds[index % len(kinds)] + (f"+{turn}" if turn else "")


if __name__ == "__main__":
    main()
