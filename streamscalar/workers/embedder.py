"""The embedder updates the scalar embedding of each run, block by block, and computes the exact solution at its end."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamscalar.config.models import EmbeddingSection
from streamscalar.errors import Fenced
from streamscalar.numerics.embedding.online import OnlineCMDS
from streamscalar.numerics.embedding.separations import (
    increment_products,
    pair_distances,
    random_direction,
    separations,
)
from streamscalar.numerics.exponents.curves import mean_log
from streamscalar.protocol.progress import RunProgress
from streamscalar.seeds import SeedStream, generator
from streamscalar.store import EmbeddingWriter, Fsync, RunReader, Store
from streamscalar.types import REFERENCE
from streamscalar.workers.exact_embedding import embed_exactly

_log = logging.getLogger(__name__)

HELD_BYTES = 2**30
"""Largest run, in raw bytes, that the exact solution keeps in memory; a larger one is decoded again in every pass."""


@dataclass(slots=True)
class _Open:
    """State of a run in the embedder; its size does not grow with the run."""

    reader: RunReader
    writer: EmbeddingWriter
    online: OnlineCMDS
    direction: NDArray[np.float64]
    fit: list[int]
    previous: NDArray[np.floating] | None
    last: RunProgress


class StoredSnapshots:
    """The stored rows of a run as a source of snapshots; a run of up to `HELD_BYTES` is decoded only once."""

    def __init__(self, reader: RunReader) -> None:
        self._reader = reader
        self._held: list[tuple[int, NDArray[np.floating]]] = []
        self.n_rows = reader.n_rows
        self.n_replicas = reader.layout.n_replicas
        self.n_parameters = reader.layout.n_parameters

    def by_rows(self) -> Iterator[NDArray[np.floating]]:
        """Yield blocks (S, R, P) in order."""
        for _, block in self._reader.blocks(0, self.n_rows):
            yield block

    def by_parameters(self) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yield (offset, block (N, R, p)) over all parameters."""
        if self._held:
            yield from self._held
            return
        itemsize = np.dtype(self._reader.layout.dtype).itemsize
        is_small = self.n_rows * self.n_replicas * self.n_parameters * itemsize <= HELD_BYTES
        held = []
        for item in self._reader.parameter_blocks():
            if is_small:
                held.append(item)
            yield item
        self._held = held


class Embedder:
    """Embeds the runs of one store.

    Every call is idempotent: rows that are embedded are skipped, and missing ones are read from the stored weights.
    Matrix products are pinned to one thread, because their bits depend on the number of threads.

    Parameters
    ----------
    store_path
        Folder of the store.
    section
        Method and size of the embedding.
    fsync
        When rows are forced to the disk.
    """

    def __init__(self, store_path: str, section: EmbeddingSection, fsync: Fsync = "row") -> None:
        self._store = Store.open(store_path, writable=True)
        self._section = section
        self._fsync = fsync
        self._open_runs: dict[str, _Open] = {}

    def embed(self, run_id: str, first_row: int, weights: NDArray[np.floating]) -> RunProgress:
        """Embed a block of published rows, shape (S, R, P), after the rows before it that are missing."""
        with threadpool_limits(1), self._logs_fencing(run_id):
            run = self._open(run_id)
            self._catch_up(run, first_row)
            if run.writer.n_rows == first_row:
                self._publish(run, first_row, weights)
            return run.last

    def finalise(self, run_id: str, retain: str) -> RunProgress:
        """Embed the remaining rows, store the exact solution, and delete the weights that `retain` does not keep."""
        with threadpool_limits(1), self._logs_fencing(run_id):
            run = self._open(run_id)
            self._catch_up(run, run.reader.n_published)
            if not run.reader.embedding.has_exact:
                self._solve(run)
            if retain != "all":
                run.writer.drop_weights(0 if retain == "none" else int(retain.removeprefix("segments:")))
            _log.info("exact solution stored after %d refits", run.online.version, extra=self._about(run_id))
            del self._open_runs[run_id]
            return run.last

    def forget(self, run_id: str) -> None:
        """Drop the state of a run; the next call restores it from the store."""
        self._open_runs.pop(run_id, None)

    def _about(self, run_id: str) -> dict[str, Any]:
        """Return the fields of a log line about a run."""
        about: dict[str, Any] = {"experiment": self._store.config["experiment"]["name"], "run": run_id}
        if run_id in self._open_runs:
            writer = self._open_runs[run_id].writer
            about |= {"attempt": writer.attempt, "row": writer.n_rows}
        return about

    @contextmanager
    def _logs_fencing(self, run_id: str) -> Iterator[None]:
        """Log an error that says that a newer attempt owns the run."""
        try:
            yield
        except Fenced as error:
            _log.warning("embedding fenced", extra={**self._about(run_id), "reason": str(error)})
            raise

    def _open(self, run_id: str) -> _Open:
        if run_id not in self._open_runs:
            reader = self._store.reader(run_id)
            writer = self._store.embedding_writer(run_id, self._fsync)
            checkpoint = writer.checkpoint()
            layout = reader.layout
            online = (
                OnlineCMDS(layout.n_parameters, self._section.n_components)
                if checkpoint is None
                else OnlineCMDS.from_snapshot(checkpoint)
            )
            rng = generator(reader.seed, SeedStream.RANDOM_DIRECTION)
            fit = [r for r in range(layout.n_replicas) if r != layout.control]
            self._open_runs[run_id] = _Open(
                reader,
                writer,
                online,
                random_direction(layout.n_parameters, rng),
                fit,
                None if checkpoint is None else reader.weights(writer.n_rows - 1, writer.n_rows)[0, fit],
                RunProgress(run_id, writer.n_rows, float("nan"), online.version, float("nan")),
            )
            _log.info("embedding opened", extra=self._about(run_id))
        return self._open_runs[run_id]

    def _catch_up(self, run: _Open, stop: int) -> None:
        if run.writer.n_rows < stop:
            for first, block in run.reader.blocks(run.writer.n_rows, stop):
                self._publish(run, first, block)

    def _publish(self, run: _Open, first_row: int, weights: NDArray[np.floating]) -> None:
        layout = run.reader.layout
        online = run.online
        online.update(weights[:, run.fit].reshape(-1, layout.n_parameters))
        scores = online.project(weights)
        differences = weights.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            differences -= differences[:, REFERENCE : REFERENCE + 1].copy()
        distances = separations(weights, direction=run.direction)
        members = weights[:, run.fit]
        rows = {
            "embedding/scores": scores,
            "embedding/increments": increment_products(members, run.previous),
            "divergence/l1": distances.l1,
            "divergence/rms": distances.rms,
            "divergence/random": cast(NDArray[np.float64], distances.random),
            "divergence/embedded": online.project_difference(differences)[..., 0],
            "divergence/pairs": pair_distances(members),
        }
        basis: dict[str, NDArray[Any]] = {
            "version": np.asarray(online.version),
            "rotation": online.rotation,
            "shift": online.shift,
            "singular_values": online.singular_values,
            "total_variance": np.asarray(online.total_variance),
        }
        run.writer.publish(
            first_row,
            rows,
            basis,
            online.snapshot(),
        )
        run.previous = members[-1].copy()
        separation = float("nan")
        if layout.n_perturbed:
            separation = float(mean_log(distances.l1[-1:, layout.perturbed])[0])
        run.last = RunProgress(
            run.reader.run_id,
            first_row + len(weights),
            float(scores[-1, REFERENCE, 0]),
            online.version,
            separation,
        )

    def _solve(self, run: _Open) -> None:
        found = embed_exactly(StoredSnapshots(run.reader), run.reader.layout, self._section, run.online.components)
        run.writer.publish_exact(
            found.scores, found.separation, found.mean, found.components, found.singular_values, found.info
        )
