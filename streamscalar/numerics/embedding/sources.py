"""The source that an exact embedding reads, and the result that each of its methods returns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SnapshotSource(Protocol):
    """Recorded snapshots of one run, read repeatedly in blocks; every read gives the same values.

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
        """Yield the offset of a block and the block `(N, R, p)` of all rows, until all parameters were read."""
        ...


@dataclass(frozen=True, slots=True)
class Leading:
    """Leading directions of the fitted snapshots and all snapshots projected on them, before signs and padding.

    Attributes
    ----------
    mean
        Mean of the fitted snapshots, `(P,)`.
    components
        Orthonormal rows `(k, P)`, k at most K: only those with a singular value over 0.
    singular_values
        Singular values over the root of P, `(k,)`, or one more where K is 1: the eigengap needs the second.
    scores
        Coordinates `(N, R, k)`; meaningless where not usable.
    separation
        Signed difference from the reference along the first component, `(N, R)`.
    usable
        Which snapshots are finite, `(N, R)`.
    spread
        Root of the total variance.
    residuals
        Error of each component relative to the first singular value, `(k,)`; see `ExactSolution`.
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
