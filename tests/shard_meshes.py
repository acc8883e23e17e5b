"""Parts of models that four processes hold on meshes of two dimensions, put together and compared with the whole.

`python -m tests.shard_meshes RANK MEETING FOLDER KIND...`; rank 0 prints one line for each case.
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from streamscalar.tracking.training.capture import Selection, select
from streamscalar.tracking.training.ranks.shards import ShardedSelection

N_RANKS = 4
SIZES = ((8, 12, 4), (5, 7, 3), (17, 9, 5))
"""Widths of the layers; most are not divided by the meshes."""


def network(kind: str, mesh: Any, sizes: tuple[int, int, int]) -> nn.Module:
    """Return a network that is sharded over a mesh with the dimensions `dp` and `tp`."""
    torch.manual_seed(0)
    layers = [nn.Linear(sizes[0], sizes[1]), nn.Tanh(), nn.Linear(sizes[1], sizes[2]), nn.LayerNorm(sizes[2])]
    model: nn.Module = nn.Sequential(*layers)
    if kind != "hybrid":
        model = parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if kind != "replicated":
        fully_shard(model, mesh=mesh if kind == "hybrid" else mesh["dp"])
    return model


def whole_row(selection: Selection) -> np.ndarray[Any, Any]:
    """Return the row of the gathered model; every rank has to call it."""
    parts = []
    for at, p in enumerate(selection.parameters):
        flat = (p.full_tensor() if isinstance(p, DTensor) else p).detach().reshape(-1)
        parts.append(flat if selection.indices is None else flat[selection.indices[at]])
    return torch.cat(parts).numpy()


def is_whole(model: nn.Module, probe: int | None) -> bool:
    """Return whether the parts of the ranks make the row, with every position once."""
    selection = select(model, probe, 0)
    part = ShardedSelection.part_of(selection)
    expected = whole_row(selection)
    parts: list[Any] = [None] * N_RANKS
    distributed.all_gather_object(parts, (torch.cat(part.positions).numpy(), part.values().numpy()))
    row = np.full_like(expected, np.nan)
    counts = np.zeros(len(row), int)
    for positions, values in parts:
        row[positions] = values
        counts[positions] += 1
    return bool((counts == 1).all()) and np.array_equal(row, expected)


def main() -> None:
    """Compare all cases on one rank."""
    rank, meeting, _, *kinds = int(sys.argv[1]), *sys.argv[2:]
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=N_RANKS)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    for kind in kinds:
        for sizes in SIZES:
            for probe in (None, 20):
                found = is_whole(network(kind, mesh, sizes), probe)
                if rank == 0:
                    sys.stdout.write(f"{kind} {sizes} {probe} {found}\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
