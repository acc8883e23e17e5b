"""Sharded trainings of two processes, tracked by both ranks with the same line.

`python -m tests.shard_trainings RANK MEETING FOLDER KIND...` runs one rank of one training after the other. Rank 0
writes the gathered model of every step beside the store.
"""

import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import streamscalar as ss

N_STEPS = 7
EVERY = 2
PROBE = 20
BACK_AFTER = 4


def fsdp() -> nn.Module:
    """Return a network whose sizes two ranks do not divide, with a frozen layer, sharded by FSDP2."""
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3), nn.LayerNorm(3))
    model[2].bias.requires_grad_(False)
    for layer in (model[0], model[2], model[3], model):
        fully_shard(layer, mesh=mesh)
    return model


def tensor_parallel() -> nn.Module:
    """Return a network in bfloat16 with tensor parallelism: shards of both dimensions, and whole parameters."""
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.LayerNorm(3)).to(torch.bfloat16)
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def gathered(model: nn.Module) -> np.ndarray[Any, Any]:
    """Return all trainable parameters of the whole model as a vector; every rank has to call it."""
    wholes: list[Tensor] = []
    for p in model.parameters():
        if p.requires_grad:
            whole = p.full_tensor() if isinstance(p, DTensor) else p
            wholes.append(whole.detach().reshape(-1).float())
    return torch.cat(wholes).numpy().copy()


def train(kind: str, rank: int, store: str) -> None:
    """Train one kind on this rank; the FSDP one goes back to step 1 after step `BACK_AFTER`, and so begins a child."""
    is_fsdp = kind == "fsdp"
    model = fsdp() if is_fsdp else tensor_parallel()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    generator = torch.Generator().manual_seed(rank if is_fsdp else 0)
    dtype = next(model.parameters()).dtype
    rows = []
    probe = None if is_fsdp else PROBE
    with ss.track(model, name=kind, store=store, optimizer=optimizer, every_n_steps=EVERY, probe=probe) as run:
        for call in range(1, N_STEPS + 1):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4, generator=generator).to(dtype)).square().sum()
            loss.backward()
            optimizer.step()
            rows.append(gathered(model))
            run.step(step=call - BACK_AFTER if is_fsdp and call > BACK_AFTER else call, loss=loss)
    if rank == 0:
        np.save(f"{store}-{kind}.npy", np.stack(rows))


def main() -> None:
    """Run the trainings of one rank."""
    rank, meeting, store, *kinds = int(sys.argv[1]), *sys.argv[2:]
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    refused: list[bool] = []
    bad: list[tuple[dict[str, Any], str]] = [({}, "every_n_steps"), ({"every_n_steps": 1, "shadow": True}, "shadow")]
    for options, wanted in bad:
        try:
            ss.track(fsdp(), store=store, **options)
        except ss.errors.BadCall as error:
            refused.append(error.where == wanted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in kinds:
            train(kind, rank, store)
    for warning in caught:
        if issubclass(warning.category, ss.tracking.TrackingWarning):
            sys.stdout.write(f"{rank}: {warning.message}\n")
    sys.stdout.write(f"{rank} refused {refused}\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
