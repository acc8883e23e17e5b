"""Write the embedding stream: live coordinates by blocks, the exact solution at the end, and retention."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import WorkFailed
from streamscalar.store.embedding_reader import BASIS_ARRAYS, EXACT_ARRAYS
from streamscalar.store.format.arrays import StoredArray, series_document, stored_document
from streamscalar.store.format.packing import pack, unpack
from streamscalar.store.media.files import read_group, waiting
from streamscalar.store.media.objects import Place
from streamscalar.store.media.publication import Publication
from streamscalar.store.schema import BLOCK_ARRAYS, RunFiles
from streamscalar.store.wal import Fsync


class EmbeddingWriter:
    """Appends blocks of coordinates and separations; from one thread.

    There is no write-ahead log: every block is published as a whole, and after a crash the embedder continues from the
    restart state that was published with the newest block.

    Parameters
    ----------
    path
        Folder of the run, or its prefix in a bucket.
    fsync
        As for the weights: with `none`, nothing waits for the disk.

    Attributes
    ----------
    attempt : int
        Number of this writer; older attempts are locked out from now on.
    """

    def __init__(self, path: Place, fsync: Fsync = "row") -> None:
        self._is_durable = fsync != "none"
        self._files: RunFiles[Place] = RunFiles(path)
        self._spec = self._files.spec()
        self._context = f"run {self._spec.run_id}"
        self._medium = self._files.medium
        log = self._files.embedding_log
        self._stream = self._medium.open_stream(self._files.embedding, log, None, self._context)
        self.attempt: int = self._stream.attempt
        self._arrays: dict[str, StoredArray] = {}
        self._attributes = self._stream.attributes()
        self._stream.remove_others(log, "checkpoint-", self._attributes["checkpoint"])

    @property
    def n_rows(self) -> int:
        """Published rows."""
        return int(self._attributes["length"])

    def checkpoint(self) -> dict[str, NDArray[Any]] | None:
        """Return the restart state of the newest block, `None` before the first and after the exact solution."""
        name = self._attributes["checkpoint"]
        return unpack((self._files.embedding_log / name).read_bytes()) if name else None

    def publish(
        self,
        first_row: int,
        rows: Mapping[str, NDArray[np.float64]],
        basis: Mapping[str, NDArray[Any]],
        checkpoint: Mapping[str, NDArray[Any]],
    ) -> None:
        """Make one block visible, with its basis version and the state to restart from.

        Parameters
        ----------
        first_row
            First row of the block: the next one, at the start of a segment. A published block is ignored.
        rows
            Each of `BLOCK_ARRAYS`, S rows, one segment: scores (S, R, K), distances (S, R), pairs (S, M (M + 1) / 2),
            increments (S, 1 + M, 1 + M).
        basis
            `version`, `rotation` (K, K), `shift` (K,), `singular_values` (K,), `total_variance`; every version stays.
        checkpoint
            Arrays to continue from; only the newest are kept.

        Raises
        ------
        WorkFailed
            A gap before the block, or a full disk.
        Fenced
            A newer attempt owns the stream.
        """
        length = first_row + len(rows["embedding/scores"])
        if length <= self.n_rows:
            return
        if first_row != self.n_rows or first_row % self._spec.segment_rows:
            raise WorkFailed("embedding", f"needs row {self.n_rows} next", f"row {first_row}", context=self._context)
        n_bases = self._attributes["n_bases"]
        log = self._files.embedding_log
        name = self._stream.own_name(f"checkpoint-{length}")
        with self._publication() as publication:
            for key in BLOCK_ARRAYS:
                publication.put(self._array(key), first_row, rows[key])
            for key in BASIS_ARRAYS:
                value = np.int64(first_row) if key == "first_row" else basis[key]
                publication.put(self._array(f"embedding/bases/{key}"), n_bases, np.asarray(value)[None])
            publication.put_file(log / name, pack(checkpoint))
            self._commit(publication, length=length, n_bases=n_bases + 1, checkpoint=name)

    def publish_exact(
        self,
        scores: NDArray[np.float64],
        separation: NDArray[np.float64],
        mean: NDArray[np.float64],
        components: NDArray[np.float64],
        singular_values: NDArray[np.float64],
        info: Mapping[str, Any],
    ) -> None:
        """Make the exact solution visible: scores (N, R, K), separation (N, R), mean (P,), components (K, P)."""
        arrays = dict(zip(EXACT_ARRAYS, (scores, separation, mean, components, singular_values), strict=True))
        folder = self._files.embedding / "exact"
        self._stream.make_group(folder, arrays)
        with self._publication() as publication:
            for name, values in arrays.items():
                document = series_document(values.shape[1:], "float64", max(1, len(values)))
                array = StoredArray(folder / name, stored_document(document, self._medium), self._medium)
                publication.put(array, 0, values)
                publication.end(array, len(values))
            for key in (*BLOCK_ARRAYS, *(f"embedding/bases/{key}" for key in BASIS_ARRAYS)):
                publication.end(self._array(key), self._attributes["n_bases" if "bases" in key else "length"])
            self._commit(publication, exact=True, exact_info=dict(info), checkpoint="")

    def drop_weights(self, keep_segments: int) -> None:
        """Delete the weights except those of the last segments, rounded up to whole spans between key frames.

        Steps, metrics, hashes and the embedding stay.
        """
        weights = read_group(self._files.weights)
        if not (self._attributes["exact"] and weights["complete"]):
            raise WorkFailed("weights", "can be dropped only after the exact solution", context=self._context)
        length, span = weights["length"], self._spec.keyframe_every
        n_segments = -(-length // self._spec.segment_rows)
        first_kept = max(0, n_segments - keep_segments) * self._spec.segment_rows
        kept_from = length if keep_segments == 0 else first_kept // span * span
        with self._publication() as publication:
            self._commit(publication, retained_from=max(kept_from, self._attributes["retained_from"]))
        deltas, keyframes = self._array("weights/deltas"), self._array("weights/keyframes")
        n_spans = -(-length // span) if keep_segments == 0 else kept_from // span
        for array, n_rows in ((deltas, kept_from), (keyframes, n_spans)):
            self._medium.remove(array.path / name for name in array.files(0, n_rows))

    @contextmanager
    def _publication(self) -> Iterator[Publication]:
        with waiting(self._is_durable), self._stream.publication() as publication:
            yield publication

    def _commit(self, publication: Publication, **changes: Any) -> None:
        attributes = {**self._attributes, **changes, "attempt": self.attempt}
        publication.commit(attributes)
        before, self._attributes = self._attributes["checkpoint"], attributes
        if before and before != attributes["checkpoint"]:
            (self._files.embedding_log / before).unlink(missing_ok=True)

    def _array(self, name: str) -> StoredArray:
        if name not in self._arrays:
            self._arrays[name] = StoredArray.load(self._files.path / name, self._medium)
        return self._arrays[name]
