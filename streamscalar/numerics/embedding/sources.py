"""What an exact embedding reads, and what each way of computing it hands back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SnapshotSource(Protocol):
    """Recorded snapshots of one run, read again and again in blocks; every read gives the same values.

    Attributes
    ----------
    n_rows, n_replicas, n_parameters
        N, R and P.
    """

    @property
    def n_rows(self) -> int:
        """Number of recorded rows."""
        ...

    @property
    def n_replicas(self) -> int:
        """Number of replicas of each row."""
        ...

    @property
    def n_parameters(self) -> int:
        """Number of parameters of each replica."""
        ...

    def by_rows(self) -> Iterator[NDArray[np.floating]]:
        """Yield blocks `(S, R, P)` in the order of rows."""
        ...

    def by_parameters(self) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yield an offset and a block `(N, R, p)` of all rows, until all parameters were covered."""
        ...


@dataclass(frozen=True, slots=True)
class Leading:
    """Leading directions of the fitted snapshots and everything projected on them, before signs and padding.

    Attributes
    ----------
    mean
        `(P,)`.
    components
        Orthonormal rows `(k, P)`, k at most K: only those with a singular value over 0.
    singular_values
        `(k,)`, or one more where K is 1: the eigengap needs the second.
    scores
        `(N, R, k)`; meaningless where not usable.
    separation
        `(N, R)`, signed difference from the reference along the first component.
    usable
        `(N, R)`, which snapshots are finite.
    spread
        Root of the total variance.
    residuals
        `(k,)`.
    n_passes
        Full reads of the source.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    scores: NDArray[np.float64]
    separation: NDArray[np.float64]
    usable: NDArray[np.bool_]
    spread: float
    residuals: NDArray[np.float64]
    n_passes: int
