"""Series of a run: values by step and replica."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamscalar.missing import is_missing

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Series:
    """Values per recorded step and replica.

    Attributes
    ----------
    name
        Name of the quantity, such as `embedding`, `l1` or `loss`.
    steps
        Training steps, shape (N,), int64, ascending.
    values
        Values, shape (N, R), float32 or float64; replica 0 is the reference.
    n_moved
        Number of logged values that came after one of the same or a later step, so that earlier points changed.
    """

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.floating]
    n_moved: int = 0

    def __getitem__(self, part: slice) -> "Series":
        return Series(self.name, self.steps[part], self.values[part], self.n_moved)

    def __add__(self, later: "Series") -> "Series":
        """Return the values of both, of which the other has later steps."""
        steps = np.concatenate([self.steps, later.steps])
        values = np.concatenate([self.values, later.values])
        return Series(later.name, steps, values, self.n_moved + later.n_moved)

    def reported(self) -> "Series":
        """Return the steps for which any replica has a value."""
        there = ~is_missing(self.values.astype(np.float64, copy=False)).all(axis=1)
        return Series(self.name, self.steps[there], self.values[there])

    def to_pandas(self) -> "pd.DataFrame":
        """Return a data frame with one row per step and one column per replica."""
        import pandas as pd

        columns = [f"replica {index}" for index in range(self.values.shape[1])]
        return pd.DataFrame(self.values, index=pd.Index(self.steps, name="step"), columns=columns)
