"""Which tensors of a model have to be equal on all ranks, and which ranks are copies of each other."""

from dataclasses import dataclass

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
        """Find the wrapper of a model."""
        wrappers = (module for module in model.modules() if isinstance(module, DistributedDataParallel))
        return cls(model, next(wrappers, None))

    @property
    def averages_weights(self) -> bool:
        """Whether parameters are averaged now and then in place of the gradients, and differ in between."""
        hooks = getattr(self.parallel, "_comm_hooks", None) or ()
        return any("localSGD" in getattr(hook[0], "__qualname__", "") for hook in hooks)

    @property
    def group(self) -> list[int]:
        """Ranks that have to be equal, ascending."""
        distributed = torch.distributed
        if self.parallel is None:
            return list(range(distributed.get_world_size()))
        return sorted(distributed.get_process_group_ranks(self.parallel.process_group))

    def tensors(self) -> dict[str, tuple[Role, Tensor]]:
        """Return the tensors that the model has now, by name."""
        ignored = {WRAPPERS.sub("", name) for name in getattr(self.parallel, "parameters_to_ignore", ())}
        role: Role = "overwritten" if getattr(self.parallel, "broadcast_buffers", False) else "buffer"
        found: dict[str, tuple[Role, Tensor]] = {
            name: ("parameter", p)
            for name, p in named_parameters(self.model).items()
            if not isinstance(p, nn.parameter.UninitializedParameter)
        }
        inner = self.model if self.parallel is None else self.parallel.module
        for prefix, module in inner.named_modules():
            if isinstance(module, _NormBase):
                continue
            for name, buffer in module.named_buffers(prefix, recurse=False):
                found.setdefault(WRAPPERS.sub("", name), (role, buffer))
        return {name: one for name, one in found.items() if name not in ignored and one[1].layout == torch.strided}
