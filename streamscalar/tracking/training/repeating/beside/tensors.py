"""Tensors that a function of the user changes in place: averages of weights, statistics, other models."""

from collections.abc import Sequence

import torch
from torch import Tensor

LARGE = 1_000_000
"""Number of elements above which a tensor is taken to be data until its version says that the training changes it."""

MANY = 500
"""Number of tensors above which all of them are."""


class Tensors:
    """Holds tensors: a copy is kept while its tensor stays the same.

    Parameters
    ----------
    always
        Those that are compared by value, however large: parameters and buffers of other models.
    loose
        Others.
    """

    def __init__(self, always: Sequence[Tensor], loose: Sequence[Tensor]) -> None:
        self._tensors = [*always, *loose]
        self._by_version = [
            index >= len(always) and (len(loose) > MANY or tensor.numel() > LARGE)
            for index, tensor in enumerate(self._tensors)
        ]
        self._copies: list[Tensor | None] = [None] * len(self._tensors)
        self._versions = [tensor._version for tensor in self._tensors]

    def values(self) -> list[Tensor | None]:
        """Return copies of the tensors now; `None` for data, which nothing has changed so far."""
        for index, tensor in enumerate(self._tensors):
            is_old = self._by_version[index] and tensor._version == self._versions[index]
            kept = self._copies[index]
            if not is_old and (kept is None or not same_bits(kept, tensor)):
                self._copies[index] = tensor.detach().clone()
            self._versions[index] = tensor._version
        return list(self._copies)

    def restore(self, values: Sequence[Tensor | None]) -> None:
        """Give the tensors these values."""
        with torch.no_grad():
            for index, (tensor, kept) in enumerate(zip(self._tensors, values, strict=True)):
                if kept is not None and not same_bits(kept, tensor):
                    tensor.copy_(kept)
                self._versions[index] = tensor._version


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, where NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return False
    if one.layout != torch.strided:
        return same_bits(one._indices(), other._indices()) and same_bits(one._values(), other._values())
    if torch.equal(one, other):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
