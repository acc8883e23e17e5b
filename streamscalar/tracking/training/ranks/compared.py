"""Which tensors of a model have to be equal on all ranks, and which ranks are copies of each other."""

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from streamscalar.store.rank_streams import Role
from streamscalar.tracking.training.capture import WRAPPERS, named_parameters


@dataclass(frozen=True)
class Compared:
    """The compared tensors of a model.

    `DistributedDataParallel` broadcasts parameters and buffers once, when it is made, and then averages gradients, so
    that parameters stay equal bit for bit after every update. With `broadcast_buffers=True` it copies the buffers of
    rank 0 to the others at the start of a forward pass, in which each rank may change them again: what a pass writes
    differs after it, and rightly so. Running statistics of normalisation layers come from the batches of each rank and
    are never compared.

    Attributes
    ----------
    model
        The model, with its wrappers.
    parallel
        The wrapper that keeps ranks equal; `None` where the training does that itself.
    """

    model: nn.Module
    parallel: DistributedDataParallel | None

    @classmethod
    def of(cls, model: nn.Module) -> "Compared":
        """Find the wrapper of a model, which may be inside of it or around it."""
        return cls(model, next(_wrappers(model.modules()), None) or _wrapper_around(model))

    def are_copies(self, *, is_asked: bool) -> bool:
        """Return whether ranks have to be equal; without a wrapper, only the user knows, who has asked or not."""
        if self.parallel is None:
            return is_asked
        # These average parameters now and then in place of the gradients, and differ in between.
        hooks = getattr(self.parallel, "_comm_hooks", None) or ()
        is_local_sgd = any("localSGD" in getattr(hook[0], "__qualname__", "") for hook in hooks)
        return not is_local_sgd and len(self.group) > 1

    @property
    def group(self) -> list[int]:
        """Ranks that have to be equal, ascending."""
        distributed = torch.distributed
        if self.parallel is None:
            return list(range(distributed.get_world_size()))
        return sorted(distributed.get_process_group_ranks(self.parallel.process_group))

    def tensors(self) -> dict[str, tuple[Role, Tensor]]:
        """Return the tensors that the model has now, by name."""
        inner = self.model if self.parallel is None else self.parallel.module
        names = {WRAPPERS.sub("", name) for name in getattr(self.parallel, "parameters_to_ignore", ())}
        all_named = (*inner.named_parameters(), *inner.named_buffers())
        ignored = {id(tensor) for name, tensor in all_named if names and WRAPPERS.sub("", name) in names}
        role: Role = "overwritten" if getattr(self.parallel, "broadcast_buffers", False) else "buffer"
        found: dict[str, tuple[Role, Tensor]] = {
            name: ("parameter", p)
            for name, p in named_parameters(self.model).items()
            if not isinstance(p, nn.parameter.UninitializedParameter)
        }
        for prefix, module in inner.named_modules():
            if isinstance(module, _NormBase):
                continue
            for name, buffer in module.named_buffers(prefix, recurse=False):
                found.setdefault(WRAPPERS.sub("", name), (role, buffer))
        dense = {name: one for name, one in found.items() if one[1].layout == torch.strided}
        return {name: one for name, one in dense.items() if id(one[1]) not in ignored}


def _wrappers(found: Iterable[object]) -> Iterator[DistributedDataParallel]:
    # Not `isinstance`: proxies among all objects may run code of theirs when they are asked for their class.
    for one in found:
        if issubclass(type(one), DistributedDataParallel):
            yield cast(DistributedDataParallel, one)


def _wrapper_around(model: nn.Module) -> DistributedDataParallel | None:
    """Return the wrapper of a model that does not know it, as a trainer of a framework gives it; about 0.1 s."""
    wrappers = _wrappers(gc.get_objects())
    return next((one for one in wrappers if any(module is model for module in one.modules())), None)
