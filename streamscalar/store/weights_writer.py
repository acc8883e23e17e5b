"""Write the weights stream of a run: rows become durable one by one, and are sealed by segments."""

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import Kind, WorkFailed
from streamscalar.store import wal
from streamscalar.store.format.arrays import StoredArray, block_document, stored_document
from streamscalar.store.format.codec import encode
from streamscalar.store.format.packing import little_endian
from streamscalar.store.logged.log import Entries
from streamscalar.store.logged.writer import LoggedWriter, Part
from streamscalar.store.media.files import fsync_path, read_group, waiting
from streamscalar.store.media.objects import Place
from streamscalar.store.media.publication import Publication
from streamscalar.store.reader import KeyFrame, RunReader
from streamscalar.store.rows import RowRecord, Segment, checked_metrics, form_of, require_alike
from streamscalar.store.schema import RunFiles, metric_path

_N_HELD = 2
"""Published blocks held for `take_published`: no more can be sealed between two calls of `append`."""


class WeightsWriter:
    """The only writer of a run's weights, steps, metrics and logged values; a context manager, used from one thread.

    A row is written to the log and is then acknowledged. Full segments are sealed by one background thread, at most
    one at a time, so a slow disk slows `append`. Memory holds two segments, one encoded copy, and at most two published
    segments until `take_published`. An error while sealing is raised by the next call.

    Parameters
    ----------
    path
        Folder of the run, or its prefix in a bucket.
    fsync
        `row`: rows survive a crash of the machine; `segment`: only sealed ones do; `none`: rows survive a crash of the
        process only, and nothing waits for the disk.
    spool
        Folder on this machine for the write-ahead files of a run in a bucket, from `Medium.spool`.

    Attributes
    ----------
    attempt : int
        Number of this writer; older attempts are locked out from now on.
    segment_rows : int
        Rows per segment.
    """

    def __init__(self, path: Place, fsync: wal.Fsync = "row", spool: Path | None = None) -> None:
        self._files: RunFiles[Place] = RunFiles(path)
        self._reader = RunReader(path)
        self._spec = self._reader.spec
        self._context = f"run {self._spec.run_id}"
        self.segment_rows: int = self._spec.segment_rows
        self._medium = self._files.medium
        log = self._files.weights_log
        self._stream = self._medium.open_stream(self._files.weights, log, spool, self._context)
        self.attempt: int = self._stream.attempt
        self._fsync = fsync
        self._log = wal.Log(self._stream.log, self._stream.fence, fsync)
        self._arrays: dict[str, StoredArray] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: Future[None] | None = None
        self._failure: Exception | None = None
        self._guard = threading.Lock()
        self._published_blocks: deque[tuple[int, NDArray[Any]]] = deque(maxlen=_N_HELD)
        self._rows: dict[int, RowRecord] = {}
        self._stored_segment: tuple[int, list[RowRecord]] = (-1, [])
        self._logged = LoggedWriter(self._files, self._spec, self._stream, fsync)

        attributes = self._stream.attributes()
        self._published = int(attributes["length"])
        self._is_complete = bool(attributes["complete"])
        self._n_durable = self._published
        wal.remove_below(self._stream.log, self._first_logged(self._published, complete=self._is_complete))
        self._previous: NDArray[Any] | None = None
        if self._published and not self._is_complete:
            self._previous = self._reader.weights(self._published - 1, self._published)[0]
        self._segment = self._new_segment(self._published)
        self._state_form: dict[str, str] | None = None
        if attributes["n_keyframes"]:
            stored = {name: self._array(f"weights/state/{name}") for name in attributes["state"]}
            self._state_form = {name: f"{array.dtype} {array.row_shape}" for name, array in stored.items()}
        if not self._is_complete:
            self._recover(sync=fsync != "none")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except Exception:
            # The error that ends the block is the cause of the one in the background.
            if kind is None:
                raise

    @property
    def n_durable(self) -> int:
        """Rows acknowledged so far by any attempt; the next new row."""
        return self._n_durable

    @property
    def n_logged(self) -> int:
        """Logged values acknowledged so far by any attempt; the index of the next one."""
        return self._logged.n_durable

    def last_keyframe(self, at_most: int | None = None) -> KeyFrame | None:
        """Return the newest published key frame, up to row `at_most`; `None` to start from the beginning."""
        self._wait()
        return self._reader.last_keyframe(at_most)

    def needs_state(self, row: int) -> bool:
        """Whether `row` will be a key frame, to be appended with the trainer's state."""
        return row % self._spec.keyframe_every == 0

    def append(
        self,
        row: int,
        step: int,
        weights: NDArray[Any],
        metrics: Mapping[str, NDArray[Any]],
        state: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Store one row; it is acknowledged when this returns.

        A row that is there already is compared bit for bit and then skipped.

        Parameters
        ----------
        row
            At most `n_durable`.
        step
            Optimiser step of the row.
        weights
            Shape (R, P) in the run's dtype; copied.
        metrics
            Every metric of the run, shape (R,) each, stored as float64.
        state
            The trainer's arrays, kept where `needs_state(row)`: always the same names, shapes and types.

        Raises
        ------
        BadCall
            A wrong shape, dtype or name.
        Fenced
            A newer attempt owns the stream.
        WorkFailed
            The disk is full; a row was left out; or a row differs from the stored one (`NOT_REPRODUCIBLE`).
        """
        self._raise_failure()
        record = checked_metrics(self._spec, weights, metrics)
        weights = np.ascontiguousarray(weights, np.dtype(self._spec.layout.dtype).newbyteorder("<"))
        if row < self._n_durable:
            self._compare(row, step, weights, record)
            return
        if row > self._n_durable or self._is_complete:
            problem = "is complete" if self._is_complete else f"needs row {self._n_durable} next"
            raise WorkFailed("run", problem, got=f"row {row}", context=self._context)
        kept = None
        if self.needs_state(row):
            kept = {name: np.array(little_endian(np.asarray(a), name)) for name, a in (state or {}).items()}
            require_alike(self._state_form, kept, self._context)
        number = row // self.segment_rows
        digest = self._log.append(number, row, step, weights, record, kept)
        self._n_durable += 1
        self._take(row, weights, RowRecord(step, digest, record), kept)

    def log(self, first: int, entries: Entries) -> None:
        """Store values apart from rows, from index `first` of the run on; they are acknowledged when this returns.

        Raises
        ------
        Fenced
            A newer attempt owns the stream.
        WorkFailed
            The disk is full, the run is complete, or a value was left out.
        """
        self._raise_failure()
        if self._is_complete:
            raise WorkFailed("run", "is complete", got=f"value {first}", context=self._context)
        self._logged.append(first, entries)
        if self._logged.has_full_chunk:
            self._wait()
            self._sealing = self._pool.submit(self._seal, None, self._logged.take(), complete=False)

    def take_published(self) -> list[tuple[int, NDArray[Any]]]:
        """Return (first row, weights (S, R, P)) of the segments published since the last call, oldest first.

        The weights are those that the writer holds, read-only. A caller that appends several segments between two calls
        gets the newest two; all of them can be read from the store.
        """
        self._raise_failure()
        with self._guard:
            blocks = list(self._published_blocks)
            self._published_blocks.clear()
        return blocks

    def finish(self) -> None:
        """Seal what is left, mark the run complete, and wait for it; a complete run stays as it is."""
        self._wait()
        if self._is_complete:
            return
        self._seal(self._segment, self._logged.take(is_last=True), complete=True)
        self._is_complete = True
        self._segment = self._new_segment(self._n_durable)

    def close(self) -> None:
        """Wait for the background thread; rows not yet sealed stay in the log for the next attempt."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()
            self._log.close()
            self._stream.close(is_complete=self._is_complete)

    def _compare(self, row: int, step: int, weights: NDArray[Any], metrics: NDArray[np.float64]) -> None:
        stored = self._rows.get(row) or self._stored(row)
        digest = wal.sha256(weights)
        same = (stored.step, stored.sha256) == (step, digest) and stored.metrics.tobytes() == metrics.tobytes()
        if not same:
            raise WorkFailed(
                f"row {row}",
                "was computed again and differs from the stored one; the stored rows are kept",
                fix="Resume on the device, library version and thread count that wrote them, or start a new store",
                kind=Kind.NOT_REPRODUCIBLE,
                context=f"{self._context}, step {step}",
            )

    def _stored(self, row: int) -> RowRecord:
        number = row // self.segment_rows
        if self._stored_segment[0] != number:
            first = number * self.segment_rows
            stop = min(first + self.segment_rows, read_group(self._files.weights)["length"])
            steps, digests, *metrics = (
                self._array(name).read(first, stop)
                for name in ("weights/steps", "weights/sha256", *map(metric_path, self._spec.metrics))
            )
            table = np.empty((len(steps), len(metrics), self._spec.layout.n_replicas), "<f8")
            for index, metric in enumerate(metrics):
                table[:, index] = metric
            rows = [RowRecord(int(s), d.tobytes(), m) for s, d, m in zip(steps, digests, table, strict=True)]
            self._stored_segment = (number, rows)
        return self._stored_segment[1][row % self.segment_rows]

    def _recover(self, *, sync: bool) -> None:
        """Recover the rows that older attempts left in the log."""
        log, shape = self._stream.log, (len(self._spec.metrics), self._spec.layout.n_replicas)
        frames = wal.LogReader(log, *shape).frames(self._published, self.segment_rows)
        if sync:
            # A killed writer may have written frames without waiting for the disk; from now on they count as durable.
            for path in {frame.path for frame in frames}:
                fsync_path(path)
            fsync_path(log)
        for frame in frames:
            weights = frame.weights(self._spec.layout.dtype, self._spec.row_shape)
            if weights is None:
                break
            self._n_durable += 1
            state = frame.state() if self.needs_state(frame.row) else None
            self._take(frame.row, weights, RowRecord(frame.step, frame.sha256, frame.metrics), state)

    def _take(self, row: int, weights: NDArray[Any], record: RowRecord, state: dict[str, NDArray[Any]] | None) -> None:
        segment = self._segment
        segment.weights[row - segment.first] = weights
        segment.rows.append(record)
        if state is not None:
            segment.state, self._state_form = state, form_of(state)
        self._rows[row] = record
        if len(segment.rows) == self.segment_rows:
            self._wait()
            self._rows = {k: v for k, v in self._rows.items() if k >= segment.first}
            self._sealing = self._pool.submit(self._seal, segment, None, complete=False)
            self._segment = self._new_segment(segment.first + self.segment_rows)

    def _new_segment(self, first: int) -> Segment:
        shape = (self.segment_rows, *self._spec.row_shape)
        return Segment(first, np.empty(shape, self._spec.layout.dtype), [])

    def _seal(self, segment: Segment | None, logged: Part | None, *, complete: bool) -> None:
        with waiting(self._fsync != "none"):
            self._publish(segment, logged, complete=complete)

    def _publish(self, segment: Segment | None, logged: Part | None, *, complete: bool) -> None:
        attributes = self._stream.attributes() | {"complete": complete, "attempt": self.attempt}
        with self._stream.publication() as publication:
            if segment is not None:
                self._put_segment(publication, attributes, segment)
            if logged is not None:
                attributes |= self._logged.put(publication, logged)
            if complete:
                self._end_arrays(publication, attributes)
            publication.commit(attributes)
        wal.remove_below(self._stream.log, self._first_logged(attributes["length"], complete=complete))
        self._logged.remove_published(attributes)
        if segment is not None and segment.rows:
            block = segment.weights[: len(segment.rows)]
            block.flags.writeable = False
            with self._guard:
                self._published_blocks.append((segment.first, block))

    def _put_segment(self, publication: Publication, attributes: dict[str, Any], segment: Segment) -> None:
        n, first = len(segment.rows), segment.first
        if n:
            rows = segment.weights[:n]
            publication.put(self._array("weights/deltas"), first, encode(rows, self._previous))
            publication.put(self._array("weights/steps"), first, np.array([x.step for x in segment.rows]))
            digests = np.frombuffer(b"".join(x.sha256 for x in segment.rows), np.uint8).reshape(n, 32)
            publication.put(self._array("weights/sha256"), first, digests)
            for index, name in enumerate(self._spec.metrics):
                values = np.stack([x.metrics[index] for x in segment.rows])
                publication.put(self._array(metric_path(name)), first, values)
            if self.needs_state(first):
                self._put_keyframe(publication, attributes, segment)
            self._previous = rows[-1]
        attributes["length"] = first + n

    def _put_keyframe(self, publication: Publication, attributes: dict[str, Any], segment: Segment) -> None:
        k = segment.first // self._spec.keyframe_every
        state = segment.state or {}
        publication.put(self._array("weights/keyframes"), k, segment.weights[:1])
        publication.put(self._array("weights/keyframe_rows"), k, np.array([segment.first]))
        for name, value in state.items():
            publication.put(self._state_array(name, value), k, value[None])
        attributes.update(n_keyframes=k + 1, state=sorted(state))

    def _state_array(self, name: str, value: NDArray[Any]) -> StoredArray:
        key = f"weights/state/{name}"
        path = self._files.path / key
        if key not in self._arrays and not (path / "zarr.json").exists():
            document = block_document(value.shape, value.dtype.name, self._spec.codec)
            self._arrays[key] = StoredArray(path, stored_document(document, self._medium), self._medium)
            self._stream.make_array(self._arrays[key])
        return self._array(key)

    def _end_arrays(self, publication: Publication, attributes: dict[str, Any]) -> None:
        length, n_keyframes = attributes["length"], attributes["n_keyframes"]
        metrics = map(metric_path, self._spec.metrics)
        for name in ("weights/deltas", "weights/steps", "weights/sha256", *metrics):
            publication.end(self._array(name), length)
        states = (f"weights/state/{name}" for name in attributes["state"])
        for name in ("weights/keyframes", "weights/keyframe_rows", *states):
            publication.end(self._array(name), n_keyframes)
        self._logged.end(publication, attributes)

    def _array(self, name: str) -> StoredArray:
        if name not in self._arrays:
            self._arrays[name] = StoredArray.load(self._files.path / name, self._medium)
        return self._arrays[name]

    def _first_logged(self, length: int, *, complete: bool) -> int:
        """Return the first segment whose write-ahead files are still needed."""
        return -(-length // self.segment_rows) if complete else length // self.segment_rows

    def _wait(self) -> None:
        """Wait for the segment being sealed, and raise its error."""
        if self._sealing is not None:
            error = self._sealing.exception()
            self._sealing = None
            if isinstance(error, Exception):
                self._failure = error
            elif error is not None:
                raise error
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._sealing is not None and self._sealing.done():
            self._wait()
        if self._failure is not None:
            raise self._failure
