"""Read the embedding stream: live coordinates through the chain of bases, or the exact solution."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.store.format.arrays import StoredArray
from streamscalar.store.format.packing import unpack
from streamscalar.store.media.files import read_group
from streamscalar.store.media.objects import Place
from streamscalar.store.schema import RunFiles
from streamscalar.types import DISTANCES

BASIS_ARRAYS = ("version", "first_row", "rotation", "shift", "singular_values", "total_variance")
"""Arrays of `embedding/bases`, one entry per basis version."""

EXACT_ARRAYS = ("scores", "separation", "mean", "components", "singular_values")
"""Arrays of `embedding/exact`."""

_ATTEMPTS = 100


@dataclass(frozen=True)
class Scores:
    """Coordinates in one basis.

    Attributes
    ----------
    values
        Shape (n, R, K), float64.
    versions
        Basis version that each row was first published in, shape (n,), int64; the exact solution counts as the
        version after the newest live one.
    exact
        Whether this is the exact solution.
    """

    values: NDArray[np.float64]
    versions: NDArray[np.int64]
    exact: bool


class EmbeddingReader:
    """Reads the embedding stream of one run; every call returns the newest state.

    Parameters
    ----------
    files
        Parts of the run.
    prefix
        Reads the first rows of a small array, given its path in the run and their number.
    """

    def __init__(self, files: RunFiles[Place], prefix: Callable[[str, int], NDArray[Any]]) -> None:
        self._files = files
        self._prefix = prefix

    @property
    def n_rows(self) -> int:
        """Rows with live scores and distances."""
        return int(self._attributes()["length"])

    @property
    def n_bases(self) -> int:
        """Published versions of the basis."""
        return int(self._attributes()["n_bases"])

    @property
    def has_exact(self) -> bool:
        """Whether the exact solution is there."""
        return bool(self._attributes()["exact"])

    @property
    def retained_from(self) -> int:
        """First row whose weights are kept; 0 unless retention dropped some."""
        return int(self._attributes()["retained_from"])

    def scores(self) -> Scores:
        """Return the exact coordinates if they are there, else the live ones in the newest basis."""
        attributes = self._attributes()
        bases = self._bases(attributes)
        if attributes["exact"]:
            values = self._exact("scores")
            version = int(bases["version"][-1]) + 1 if len(bases["version"]) else 0
            return Scores(values, np.full(len(values), version, np.int64), exact=True)
        values = self._live(attributes, bases, len(bases["version"]) - 1)
        return Scores(values, _versions(bases, len(values)), exact=False)

    def live_scores(self, basis: str | int = "newest") -> NDArray[np.float64]:
        """Return live coordinates of all embedded rows in one basis version, shape (n, R, K).

        Rows of older versions are mapped forwards by `z' = rotation z + shift`, rows of newer ones backwards by
        `z = rotation^T (z' - shift)`, which loses the part outside the older basis.
        """
        attributes = self._attributes()
        bases = self._bases(attributes)
        if basis == "newest":
            return self._live(attributes, bases, len(bases["version"]) - 1)
        found = np.flatnonzero(bases["version"] == basis)
        if not len(found):
            known = f"{bases['version'][0]} to {bases['version'][-1]}" if len(bases["version"]) else "none yet"
            raise BadCall("basis", f"must be `newest` or a version: {known}", got=str(basis), kind=Kind.DATA)
        return self._live(attributes, bases, int(found[0]))

    def published_scores(self) -> NDArray[np.float64]:
        """Return live coordinates, each row in the basis that it was first published in, shape (n, R, K)."""
        return self._prefix("embedding/scores", self.n_rows)

    def divergence(self, name: str, *, live: bool = False) -> NDArray[np.float64]:
        """Return a separation from the reference, shape (n, R): `l1`, `rms`, or with a sign `random` or `embedded`.

        `embedded` is that of the exact solution once it is there, and the live one until then or with `live`.
        """
        if name not in DISTANCES:
            raise BadCall("distance", f"must be one of {', '.join(DISTANCES)}", got=name, kind=Kind.DATA)
        attributes = self._attributes()
        if name == "embedded" and attributes["exact"] and not live:
            return self._exact("separation")
        return self._prefix(f"divergence/{name}", attributes["length"])

    def pairs(self) -> NDArray[np.float64]:
        """Return the L1 distances of all pairs of reference and perturbed replicas, shape (n, M (M + 1) / 2)."""
        return self._prefix("divergence/pairs", self.n_rows)

    def increments(self) -> NDArray[np.float64]:
        """Return the products of the moves since the row before, over P, shape (n, 1 + M, 1 + M); 0 at row 0."""
        return self._prefix("embedding/increments", self.n_rows)

    def bases(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of every basis version, stacked: see `EmbeddingWriter.publish`."""
        return self._bases(self._attributes())

    def live_state(self) -> dict[str, NDArray[Any]] | None:
        """Return the restart state of the live embedding; `None` before its first block and once it is exact."""
        for _ in range(_ATTEMPTS):
            name = self._attributes()["checkpoint"]
            if not name:
                return None
            try:
                return dict(unpack((self._files.embedding_log / name).read_bytes()))
            except FileNotFoundError:
                # The next block replaced it.
                continue
        raise WorkFailed("embedding", "is published faster than it can be read", context=str(self._files.path))

    def exact_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the exact solution: scores, separation, mean, components, singular values; empty if not there."""
        return {name: self._exact(name) for name in EXACT_ARRAYS} if self.has_exact else {}

    def exact_info(self) -> dict[str, Any]:
        """Return residual, passes and other facts of the exact solution; empty where it is not there."""
        return dict(self._attributes()["exact_info"])

    def spectrum(self, n_rows: int | None = None) -> tuple[NDArray[np.float64], float] | None:
        """Return the leading singular values (K,) and the total variance; `None` before the first basis.

        With `n_rows`, as the live embedding had them when that many rows were embedded.
        """
        attributes = self._attributes()
        if attributes["exact"] and n_rows is None:
            return self._exact("singular_values"), float(attributes["exact_info"]["total_variance"])
        bases = self._bases(attributes)
        entry = self._basis_at(bases, self.n_rows if n_rows is None else n_rows)
        return None if entry < 0 else (bases["singular_values"][entry], float(bases["total_variance"][entry]))

    def explained_variance(self, n_rows: int | None = None) -> float | None:
        """Return the share of the variance along the first component; `None` while nothing varies.

        `n_rows` as in `spectrum`.
        """
        found = self.spectrum(n_rows)
        if found is None:
            return None
        leading, total = found
        # Not `total <= 0`, which NaN passes. A squared singular value may overflow where its share does not.
        return (float(leading[0]) / math.sqrt(total)) ** 2 if 0 < total < math.inf else None

    def live_scores_at(self, n_rows: int) -> NDArray[np.float64]:
        """Return live coordinates of the first `n_rows` embedded rows, in the basis of that time: (n_rows, R, K)."""
        attributes = self._attributes()
        bases = self._bases(attributes)
        return self._live(attributes, bases, self._basis_at(bases, n_rows), n_rows)

    @staticmethod
    def _basis_at(bases: dict[str, NDArray[Any]], n_rows: int) -> int:
        return int(np.searchsorted(bases["first_row"], n_rows, side="left")) - 1

    def _attributes(self) -> dict[str, Any]:
        return read_group(self._files.embedding)

    def _bases(self, attributes: dict[str, Any]) -> dict[str, NDArray[Any]]:
        return {name: self._prefix(f"embedding/bases/{name}", attributes["n_bases"]) for name in BASIS_ARRAYS}

    def _exact(self, name: str) -> NDArray[Any]:
        array = StoredArray.load(self._files.embedding / "exact" / name, self._files.medium)
        return array.read(0, array.document["shape"][0])

    def _live(
        self, attributes: dict[str, Any], bases: dict[str, NDArray[Any]], target: int, n_rows: int | None = None
    ) -> NDArray[np.float64]:
        values = self._prefix("embedding/scores", attributes["length"])[:n_rows].astype(np.float64)
        starts = [*bases["first_row"], attributes["length"]]
        rotation, shift = bases["rotation"], bases["shift"]
        k = values.shape[-1]

        def move(entry: int, matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
            rows = slice(starts[entry], starts[entry + 1])
            values[rows] = values[rows] @ matrix.T + offset

        matrix, offset = np.eye(k), np.zeros(k)
        with np.errstate(all="ignore"):
            for entry in range(target - 1, -1, -1):
                offset = matrix @ shift[entry + 1] + offset
                matrix = matrix @ rotation[entry + 1]
                move(entry, matrix, offset)
            matrix, offset = np.eye(k), np.zeros(k)
            for entry in range(target + 1, len(rotation)):
                matrix = matrix @ rotation[entry].T
                offset = offset - matrix @ shift[entry]
                move(entry, matrix, offset)
        return values


def _versions(bases: dict[str, NDArray[Any]], n_rows: int) -> NDArray[np.int64]:
    entries = np.searchsorted(bases["first_row"], np.arange(n_rows), side="right") - 1
    return bases["version"][entries].astype(np.int64) if n_rows else np.empty(0, np.int64)
