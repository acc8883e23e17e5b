"""Rows of a sharded model: each rank writes its part to a file, and the worker of rank 0 puts them together.

```
<rank>.positions.npy       positions of its part in a row, int64, written once
<rank>-<call>.npy          its part of the row of one call of `step`, which all ranks count alike
```

Files are renamed into place when they are complete, and deleted once the row is stored. Imports no torch.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import WorkFailed

START_S = 60.0
"""Time that the first row waits for the positions of all ranks."""

ROW_S = 30.0
"""Time that a row waits for the parts of all ranks, which take their steps together."""

_POLL_S = 0.005


@dataclass(frozen=True)
class Shards:
    """Where the ranks write, and how many there are."""

    folder: str
    n_ranks: int


def write_positions(folder: Path, rank: int, positions: NDArray[np.int64]) -> None:
    """Write which positions of a row a rank has."""
    _write(folder / f"{rank:06d}.positions.npy", positions)


def write_part(folder: Path, rank: int, call: int, values: NDArray[Any]) -> None:
    """Write the part of one row."""
    _write(folder / f"{rank:06d}-{call:012d}.npy", values)


class RowCompletion:
    """Completes the rows of rank 0 with the parts of the others.

    Parameters
    ----------
    shards
        Where they are.
    n_parameters
        Length of a row.
    """

    def __init__(self, shards: Shards, n_parameters: int) -> None:
        self._folder = Path(shards.folder)
        self._n_ranks = shards.n_ranks
        self._n_parameters = n_parameters
        self._positions: list[NDArray[np.int64]] | None = None
        self._has_failed = False

    def complete(self, row: NDArray[Any], call: int) -> None:
        """Fill in the parts of the other ranks.

        Parameters
        ----------
        row
            Shape (1, P), with the part of rank 0.
        call
            Call of `step` that the row belongs to.

        Raises
        ------
        WorkFailed
            A part does not come, or the parts are not the whole.
        """
        if self._positions is None:
            self._positions = self._read_positions()
        for rank, positions in enumerate(self._positions):
            if rank and len(positions):
                row[0, positions] = self._read(f"{rank:06d}-{call:012d}.npy", ROW_S)

    def forget(self, call: int) -> None:
        """Delete the parts of a stored row, and of those before it."""
        for path in self._folder.glob("*-*.npy"):
            if int(path.stem.split("-")[1]) <= call:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read_positions(self) -> list[NDArray[np.int64]]:
        found = [self._read(f"{rank:06d}.positions.npy", START_S) for rank in range(self._n_ranks)]
        counts = np.bincount(np.concatenate(found), minlength=self._n_parameters)
        if len(counts) != self._n_parameters or (counts != 1).any():
            n_wrong = int((counts != 1).sum())
            raise WorkFailed("model", f"has {n_wrong} parameters that no rank holds, or more than one")
        return found

    def _read(self, name: str, wait_s: float) -> NDArray[Any]:
        """Return an array as soon as it is there; after one did not come, the others are no longer waited for."""
        until_s = time.monotonic() + (0.0 if self._has_failed else wait_s)
        while True:
            try:
                values: NDArray[Any] = np.load(self._folder / name)
            except FileNotFoundError:
                if time.monotonic() > until_s:
                    self._has_failed = True
                    text = f"rank {int(name[:6])} has not written its part within {wait_s:.0f} s"
                    fix = "Use a store on a file system that all hosts share"
                    raise WorkFailed("row", text, fix=fix) from None
                time.sleep(_POLL_S)
            else:
                self._has_failed = False
                return values


def _write(path: Path, values: NDArray[Any]) -> None:
    aside = path.with_suffix(".partial")
    with aside.open("wb") as file:
        np.save(file, values)
    aside.replace(path)
