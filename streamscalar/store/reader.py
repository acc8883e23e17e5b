"""Read a run while it is written, after it died, or years later: never a row that was not acknowledged.

Rows are the published ones followed by the valid frames of the write-ahead log. A sealed segment moves from the log
to the arrays: first the length grows, then the frames are deleted. What is read between two equal lengths is therefore
consistent; where the length has grown meanwhile, the reader reads again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import RunSetting
from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.missing import MISSING, is_missing
from streamscalar.store.embedding_reader import EmbeddingReader
from streamscalar.store.format.arrays import StoredArray
from streamscalar.store.format.codec import Integers, decode, encode, from_ordered, ordered
from streamscalar.store.logged.reader import LoggedReader, aligned, by_step, unknown_metric
from streamscalar.store.media.files import read_group
from streamscalar.store.media.objects import Place
from streamscalar.store.rank_comparison import RankWatch
from streamscalar.store.rows import RowView
from streamscalar.store.schema import RunFiles, RunSpec, metric_path
from streamscalar.store.wal import LogReader
from streamscalar.types import Layout

_ALL = slice(None)
_ATTEMPTS = 100


@dataclass(frozen=True)
class KeyFrame:
    """Everything needed to continue from one row.

    Attributes
    ----------
    row, step
        Row in the run, and optimiser step.
    weights
        Shape (R, P).
    state
        The trainer's own arrays: optimiser, batch position, generators.
    """

    row: int
    step: int
    weights: NDArray[Any]
    state: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest row that can be read: how many there are, its step, and its metrics by name, shape (R,) each."""

    n_rows: int
    step: int
    metrics: dict[str, NDArray[np.float64]]


class RunReader:
    """Reads everything stored about one run; every call returns the newest state.

    Small series are cached, as published rows never change; weights are not.

    Parameters
    ----------
    path
        Folder of the run, or its prefix in a bucket, where only published rows can be read.
    hash_weights
        Whether to verify the hash of the weights of rows that only the log has; see `LogReader`.

    Attributes
    ----------
    run_id : str
        Name of the run.
    layout : Layout
        Order of the parameters (P) and meaning of the replicas (R).
    setting : dict
        What distinguishes the run, such as its learning rate.
    seed : int
        Seed of its initial condition.
    n_planned : int or None
        Planned rows; `None` where the number is unknown.
    segment_rows : int
        Rows per segment, the unit of publication.
    embedding : EmbeddingReader
        Reader of the embedding stream.
    logged : LoggedReader
        Reader of the logged values.
    """

    def __init__(self, path: Place, *, hash_weights: bool = True) -> None:
        self._files: RunFiles[Place] = RunFiles(path)
        self.spec: RunSpec = self._files.spec()
        self.run_id: str = self.spec.run_id
        self.layout: Layout = self.spec.layout
        self.setting: RunSetting = self.spec.setting
        self.seed: int = self.spec.seed
        self.n_planned: int | None = self.spec.n_planned
        self.segment_rows: int = self.spec.segment_rows
        shape = len(self.spec.metrics), self.layout.n_replicas
        log = self._files.medium.readable_log(self._files.weights_log)
        self._log = None if log is None else LogReader(log, *shape, hash_weights=hash_weights)
        self._arrays: dict[str, StoredArray] = {}
        self._known: dict[str, NDArray[Any]] = {}
        self.embedding = EmbeddingReader(self._files, self._prefix)
        self.logged = LoggedReader(self._files, log, self._prefix)

    def status(self) -> dict[str, Any]:
        """Return the small changing facts about the run; empty where there are none."""
        return self._files.status()

    def rank_watch(self, known: Iterable[str] = ()) -> RankWatch:
        """Return a comparison of the ranks of the jobs that recorded the run and its parents, except `known` ones."""
        return RankWatch(self._files, known)

    # Progress of the weights stream.

    @property
    def n_rows(self) -> int:
        """Rows that can be read: published, and acknowledged in the write-ahead log."""
        return self._rows().total

    @property
    def n_published(self) -> int:
        """Rows in sealed segments."""
        return int(read_group(self._files.weights)["length"])

    @property
    def is_complete(self) -> bool:
        """Whether the trainer has finished the run."""
        return bool(read_group(self._files.weights)["complete"])

    @property
    def held_bytes(self) -> int:
        """Bytes of the cached series."""
        return sum(values.nbytes for values in list(self._known.values())) + self.logged.held_bytes

    def newest(self) -> Newest | None:
        """Return the newest row without its weights, in a time independent of the number of rows."""
        rows = self._rows()
        if rows.frames:
            frame = rows.frames[-1]
            return Newest(rows.total, frame.step, dict(zip(self.spec.metrics, frame.metrics, strict=True)))
        if not rows.published:
            return None
        last = rows.published - 1
        step = int(self._array("weights/steps").read(last, last + 1)[0])
        found = {name: self._array(metric_path(name)).read(last, last + 1)[0] for name in self.spec.metrics}
        return Newest(rows.published, step, found)

    # Small series.

    def steps(self) -> NDArray[np.int64]:
        """Return the optimiser step of each row, shape (N,)."""
        rows = self._rows()
        tail = np.array([frame.step for frame in rows.frames], np.int64)
        return np.concatenate([self._prefix("weights/steps", rows.published), tail])

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names that `metrics` takes: those of the rows, then those that were only logged."""
        return tuple(dict.fromkeys((*self.spec.metrics, *self.logged.names())))

    def metrics(self, name: str) -> NDArray[np.float64]:
        """Return a metric of every row, shape (N, R), float64.

        A row has the value that it was recorded with; where it has none, the newest one that was logged for a step
        after the row before and up to its own; else `missing.MISSING`.
        """
        entries = self.logged.entries()
        if name in self.spec.metrics:
            found = self.row_metrics(name)
        elif any(name == other for other, _ in entries.series):
            found = np.full((self.n_rows, self.layout.n_replicas), MISSING)
        else:
            raise unknown_metric(name, self.metric_names)
        if len(entries):
            after = -1 if self.spec.parent is None else self.spec.parent[1]
            steps, values, _ = by_step(entries, name, self.layout.n_replicas)
            found = np.where(is_missing(found), aligned(self.steps()[: len(found)], after, steps, values), found)
        return found

    def row_metrics(self, name: str) -> NDArray[np.float64]:
        """Return a metric as the rows were recorded with it, shape (N, R)."""
        rows = self._rows()
        index = self.spec.metrics.index(name)
        tail = [frame.metrics[index] for frame in rows.frames]
        return np.concatenate([self._prefix(metric_path(name), rows.published), *([np.stack(tail)] if tail else [])])

    def row_sha256(self) -> NDArray[np.uint8]:
        """Return the sha256 of each row's raw little-endian weights, shape (N, 32)."""
        rows = self._rows()
        tail = np.frombuffer(b"".join(frame.sha256 for frame in rows.frames), np.uint8).reshape(-1, 32)
        return np.concatenate([self._prefix("weights/sha256", rows.published), tail])

    # Weights.

    def weights(self, first: int = 0, stop: int | None = None, parameters: slice = _ALL) -> NDArray[Any]:
        """Return rows `first:stop`, shape (S, R, p) in the run's dtype, bit for bit as they were written.

        Reads whole segments from the key frame before `first` on, and of each the inner chunks that `parameters`
        (a slice of step 1) touches.

        Raises
        ------
        BadCall
            Rows outside the run, or no longer retained.
        WorkFailed
            The store is damaged.
        """
        for _ in range(_ATTEMPTS):
            rows = self._rows()
            end = self._checked_range(first, stop, rows.total)
            self._require_retained(first, end)
            try:
                result = self._assemble(rows, first, end, parameters)
            except FileNotFoundError:
                continue
            if result is not None:
                return result
            if self._log is not None:
                self._log.forget()
        raise WorkFailed("weights", "keep changing while they are read", context=self.run_id)

    def integer_deltas(self, first: int = 0, stop: int | None = None) -> Integers:
        """Return the zigzag integer deltas of rows `first:stop` as stored, shape (S, R, P)."""
        rows = self._rows()
        end = self._checked_range(first, stop, rows.total)
        self._require_retained(first, end)
        parts = [self._read_kept("weights/deltas", first, min(end, rows.published), first)]
        begin = max(first, rows.published)
        if begin < end:
            tail = self.weights(max(begin - 1, 0), end)
            parts.append(encode(tail[1:], tail[0]) if begin else encode(tail, None))
        return np.concatenate(parts)

    def deltas(self, first: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return float deltas `w[t] - w[t - 1]`, shape (S, R, P), computed; zeros at the start of the run."""
        end = self._checked_range(first, stop, self.n_rows)
        out = np.zeros((end - first, *self.spec.row_shape), self.layout.dtype)
        before = self.weights(max(first - 1, 0), end)
        begin = 0 if first else 1
        with np.errstate(all="ignore"):
            np.subtract(before[1:], before[:-1], out=out[begin:])
        return out

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, weights (S, R, P)), one segment at a time, each decoded once."""
        rows = self._rows()
        end = self._checked_range(first, stop, rows.total)
        self._require_retained(first, end)
        row = first
        for begin, block in self._decoded(first, min(end, rows.published), rows.n_keyframes, _ALL):
            row = begin + len(block)
            yield begin, block
        while row < end:
            until = min(end, (row // self.segment_rows + 1) * self.segment_rows)
            yield row, self.weights(row, until)
            row = until

    def parameter_blocks(self, max_bytes: int = 64 * 2**20) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (offset, weights (N, R, p)): all rows of a range of parameters, covering each parameter once.

        Ranges are whole inner chunks, each decoded once, unless one chunk over all rows exceeds `max_bytes`: then a
        chunk is decoded for each of its parts, as the bound on memory comes first.
        """
        n_rows = self.n_rows
        n_replicas, n_parameters = self.spec.row_shape
        column = max(1, n_rows * n_replicas * np.dtype(self.layout.dtype).itemsize)
        chunk = self._array("weights/deltas").chunk[2]
        most = max(1, max_bytes // column)
        if most >= n_parameters:
            yield 0, self.weights(0, n_rows)
            return
        width = most // chunk * chunk if most >= chunk else -(-chunk // -(-chunk // most))
        for begin in range(0, n_parameters, width):
            yield begin, self.weights(0, n_rows, slice(begin, min(begin + width, n_parameters)))

    def last_keyframe(self, at_most: int | None = None) -> KeyFrame | None:
        """Return the newest published key frame, `None` where there is none or it is no longer retained.

        With `at_most`, the newest one at or before that row.
        """
        attributes = read_group(self._files.weights)
        k = attributes["n_keyframes"] - 1
        if at_most is not None:
            k = min(k, at_most // self.spec.keyframe_every)
        if k < 0 or k * self.spec.keyframe_every < self.embedding.retained_from:
            return None
        row = int(self._array("weights/keyframe_rows").read(k, k + 1)[0])
        step = int(self._prefix("weights/steps", attributes["length"])[row])
        names = attributes["state"]
        state = {name: self._array(f"weights/state/{name}").read(k, k + 1)[0] for name in names}
        return KeyFrame(row, step, self._array("weights/keyframes").read(k, k + 1)[0], state)

    def _rows(self) -> RowView:
        for _ in range(_ATTEMPTS):
            before = read_group(self._files.weights)
            if self._log is None:
                return RowView(before["length"], before["complete"], before["n_keyframes"], [])
            frames = [] if before["complete"] else self._log.frames(before["length"], self.segment_rows)
            if read_group(self._files.weights) == before:
                return RowView(before["length"], before["complete"], before["n_keyframes"], frames)
        raise WorkFailed("weights", "are published faster than they can be read", context=self.run_id)

    def _assemble(self, rows: RowView, first: int, stop: int, parameters: slice) -> NDArray[Any] | None:
        begin, end, _ = parameters.indices(self.layout.n_parameters)
        chosen = slice(begin, max(begin, end))
        n_replicas = self.layout.n_replicas
        out = np.empty((stop - first, n_replicas, chosen.stop - chosen.start), self.layout.dtype)
        if not out.size:
            return out
        for row, block in self._decoded(first, min(stop, rows.published), rows.n_keyframes, chosen):
            out[row - first : row - first + len(block)] = block
        for row in range(max(first, rows.published), stop):
            weights = rows.frames[row - rows.published].weights(self.layout.dtype, self.spec.row_shape)
            if weights is None:
                return None
            out[row - first] = weights[:, chosen]
        return out

    def _decoded(
        self, first: int, stop: int, n_keyframes: int, parameters: slice
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield published rows by segments, starting from the key frame at or before `first`."""
        if stop <= first:
            return
        k = min(first // self.spec.keyframe_every, n_keyframes - 1)
        row = k * self.spec.keyframe_every
        inner = (_ALL, parameters)
        state = ordered(self._read_kept("weights/keyframes", k, k + 1, row, inner)[0])
        is_keyframe = True
        while row < stop:
            until = min(stop, row + self.segment_rows)
            deltas = self._read_kept("weights/deltas", row, until, row, inner)
            integers = decode(deltas, state, first_is_start=is_keyframe)
            if until > first:
                begin = max(row, first)
                # The last row is kept as integers, so the caller gets floats that it may change.
                yield begin, from_ordered(integers[begin - row :], self.layout.dtype)
            state, is_keyframe, row = integers[-1], False, until

    def _read_kept(self, name: str, first: int, stop: int, row: int, inner: tuple[slice, ...] = ()) -> NDArray[Any]:
        """Read entries that retention may remove meanwhile: it marks `row` as dropped before it deletes."""
        try:
            values = self._array(name).read(first, stop, inner)
        except WorkFailed:
            self._require_retained(row, row + 1)
            raise
        self._require_retained(row, row + 1)
        return values

    def _prefix(self, name: str, n_rows: int) -> NDArray[Any]:
        """Return the first rows of a small array, reading only those that are not cached."""
        known = self._known.get(name)
        have = 0 if known is None else len(known)
        if known is None or have < n_rows:
            new = self._array(name).read(have, n_rows)
            known = new if known is None else np.concatenate([known, new])
            self._known[name] = known
        return known[:n_rows].copy()

    def _array(self, name: str) -> StoredArray:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = StoredArray.load(self._files.path / name, self._files.medium)
        return array

    def _checked_range(self, first: int, stop: int | None, n_rows: int) -> int:
        end = n_rows if stop is None else stop
        if not 0 <= first <= end <= n_rows:
            raise BadCall(
                "rows", f"must lie within the {n_rows} rows of the run", got=f"{first}:{stop}", kind=Kind.DATA,
                context=self.run_id,
            )  # fmt: skip
        return end

    def _require_retained(self, first: int, stop: int) -> None:
        kept = self.embedding.retained_from
        if first < min(kept, stop):
            raise BadCall(
                f"weights of rows {first} to {stop - 1}",
                f"are no longer kept before row {kept}",
                fix="Set recording.retain to `all` to keep them in later experiments",
                kind=Kind.NOT_RETAINED,
                context=self.run_id,
            )
