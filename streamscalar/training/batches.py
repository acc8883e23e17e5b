"""Mini-batches: the samples of an update follow from the seed of the run and the number of the update alone."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.config.models import TrainingSection
from streamscalar.errors import BadCall, Kind
from streamscalar.seeds import SeedStream, generator


class Batches:
    """Mini-batches of a pack of runs.

    Each epoch is a permutation of the training samples, drawn from the seed of the run and the number of the epoch, and
    cut into batches of equal size; the remaining samples are not used in that epoch. So a run uses the same samples at
    any learning rate, resumed at any step, alone or in a pack, and there is no state to store.

    Parameters
    ----------
    seeds
        Seed of each run of the pack.
    n_replicas
        Replicas of each run.
    n_train
        Number of training samples.
    size
        Number of samples of a batch, at most `n_train`.
    device
        Device of the indices.

    Examples
    --------
    >>> batches = Batches([3], 6, n_train=10, size=4, device=torch.device("cpu"))
    >>> [len(batches.at(n_steps)) for n_steps in range(3)]
    [4, 4, 4]
    """

    def __init__(self, seeds: Sequence[int], n_replicas: int, n_train: int, size: int, device: torch.device) -> None:
        self._seeds = list(dict.fromkeys(seeds))
        self._run_of = torch.tensor(np.repeat([self._seeds.index(seed) for seed in seeds], n_replicas), device=device)
        self._n_train = n_train
        self._size = size
        self._device = device
        self._epoch = -1
        self._orders = torch.empty(0, dtype=torch.int64)

    def at(self, n_steps: int) -> Tensor:
        """Return the samples of the update after `n_steps` updates.

        Returns
        -------
        Tensor
            Indices (B,), or (R, B) if the runs of the pack have several seeds.
        """
        epoch, index = divmod(n_steps, self._n_train // self._size)
        if epoch != self._epoch:
            orders = np.stack([_order(seed, epoch, self._n_train) for seed in self._seeds])
            self._orders = torch.tensor(orders, device=self._device)
            self._epoch = epoch
        chosen = self._orders[:, index * self._size : (index + 1) * self._size]
        return chosen[0] if len(self._seeds) == 1 else chosen[self._run_of]


def _order(seed: int, epoch: int, n_train: int) -> NDArray[np.int64]:
    return generator(seed, SeedStream.BATCHES, epoch).permutation(n_train)


def build_batches(
    training: TrainingSection, n_train: int, seeds: Sequence[int], n_replicas: int, device: torch.device
) -> Batches | None:
    """Return the batches of a pack, `None` for the full batch.

    Raises
    ------
    BadCall
        A batch has more samples than there are.
    """
    size = training.batch_size
    if size == "full":
        return None
    if size > n_train:
        must = f"must be full, or at most the number of training samples, {n_train}"
        raise BadCall("training.batch_size", must, str(size), kind=Kind.CONFIG)
    return Batches(seeds, n_replicas, n_train, size, device)
