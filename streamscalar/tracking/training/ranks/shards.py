"""The part of a sharded model that this rank holds: its coordinates in a row, and their values.

Parameters of `fully_shard` (FSDP2) and of tensor parallelism are `DTensor`: each rank has a local tensor, and
placements on a mesh of ranks say which part of the whole it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from streamscalar.errors import BadCall, Kind
from streamscalar.tracking.training.capture import Capture, Selection


@dataclass(frozen=True, kw_only=True)
class ShardedSelection(Selection):
    """The recorded parameters of a sharded model; layers and indices are those of the whole.

    Attributes
    ----------
    chosen
        Flat indices in the local tensor of each parameter that are recorded by this rank.
    positions
        Their positions in a row.
    """

    chosen: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]

    @classmethod
    def part_of(cls, whole: Selection) -> "ShardedSelection":
        """Return the part of this rank.

        A coordinate that several ranks hold is recorded by the first of them.

        Raises
        ------
        BadCall
            It is not known which part of a parameter this rank holds.
        """
        chosen, positions = [], []
        for at, (layer, p) in enumerate(zip(whole.layers, whole.parameters, strict=True)):
            dims = _held(layer.name, p)
            index = None if whole.indices is None else whole.indices[at].cpu()
            if dims is None:
                local = place = torch.arange(0)
            else:
                local, place = _all(dims, p.shape) if index is None else _of_probe(dims, p.shape, index)
            chosen.append(local.to(p.device))
            positions.append(layer.offset + place.to(p.device))
        same = {field.name: getattr(whole, field.name) for field in fields(Selection)}
        return cls(**same, chosen=tuple(chosen), positions=tuple(positions))

    def capture(self, n_replicas: int) -> Capture:
        """Return what copies the part of this rank to a row."""
        return _ShardCapture(self, n_replicas)

    def values(self) -> Tensor:
        """Return the values of this rank as a new vector, in the order of `positions`, on the device."""
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        parts = zip(self.parameters, self.chosen, strict=True)
        return torch.cat([_local(p).index_select(0, chosen).to(dtype) for p, chosen in parts])


class _ShardCapture(Capture):
    """Copies the part of this rank; the rest of the row stays as it is."""

    def __init__(self, selection: ShardedSelection, n_replicas: int) -> None:
        super().__init__(selection, n_replicas)
        self._shards = selection

    def copy(self, row: Tensor, replicas: Sequence[Sequence[Tensor]]) -> None:
        """Fill the positions of this rank in `row`, shape (1, P)."""
        shards = self._shards
        with torch.no_grad():
            for p, chosen, positions in zip(replicas[0], shards.chosen, shards.positions, strict=True):
                row[0].index_copy_(0, positions.to(row.device), _local(p).index_select(0, chosen).to(row.dtype))


def _local(p: Tensor) -> Tensor:
    """Return the local tensor of a parameter as a vector."""
    return (p.to_local() if isinstance(p, DTensor) else p).detach().reshape(-1)


def _held(name: str, p: Tensor) -> list[Tensor] | None:
    """Return the indices of the whole in each dimension that this rank is to record; `None` if it records none."""
    dims = [torch.arange(size) for size in p.shape]
    if not isinstance(p, DTensor):
        return dims if torch.distributed.get_rank() == 0 else None
    coordinate = p.device_mesh.get_coordinate()
    # Ranks of another mesh hold a copy, or another stage of a pipeline: rank 0 has what it needs from its own mesh.
    if coordinate is None or not bool((p.device_mesh.mesh == 0).any()):
        return None
    axes = list(zip(p.placements, p.device_mesh.shape, coordinate, strict=True))
    is_first = all(at == 0 for placement, _, at in axes if isinstance(placement, Replicate))
    # FSDP cuts what tensor parallelism on a later axis of the mesh has cut before; torch calls that strided.
    plain: list[Any] = [axis for axis in axes if type(axis[0]) is Shard]
    strided: list[Any] = [axis for axis in axes if hasattr(axis[0], "split_factor")][::-1]
    for placement, n, at in (*plain, *strided):
        dims[placement.dim] = _chunk(dims[placement.dim], n, at)
    n_known = len(plain) + len(strided) + sum(isinstance(placement, Replicate) for placement, _, _ in axes)
    local = tuple(p.to_local().shape)
    if n_known != len(axes) or tuple(map(len, dims)) != local:
        must = "must have parameters that are sharded or replicated by fully_shard or tensor parallelism"
        raise BadCall("model", must, f"{name} with {p.placements}, {local} on this rank", kind=Kind.DATA)
    return dims if is_first else None


def _chunk(indices: Tensor, n: int, at: int) -> Tensor:
    """Return a chunk, as `torch.chunk` makes them; empty where there are fewer."""
    width = -(-len(indices) // n)
    return indices[at * width : (at + 1) * width]


def _all(dims: Sequence[Tensor], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the local flat indices of all that is held, and those in the whole."""
    flat = torch.zeros((), dtype=torch.int64)
    for dim, size in zip(dims, shape, strict=True):
        flat = flat.unsqueeze(-1) * size + dim
    flat = flat.reshape(-1)
    return torch.arange(len(flat)), flat


def _of_probe(dims: Sequence[Tensor], shape: Sequence[int], index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the local flat indices of the coordinates of a probe that are held, and their numbers in the probe."""
    local = torch.zeros_like(index)
    is_held = torch.ones(len(index), dtype=torch.bool)
    rest = index
    stride = 1
    for dim, size in list(zip(dims, shape, strict=True))[::-1]:
        where = torch.full((size,), -1)
        where[dim] = torch.arange(len(dim))
        here = where[rest % size]
        is_held &= here >= 0
        local += here * stride
        stride *= len(dim)
        rest = rest // size
    return local[is_held], is_held.nonzero().reshape(-1)
