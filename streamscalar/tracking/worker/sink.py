"""Sinks of rows: the interface, and the store on the local disk. Imports no torch, so that a worker starts quickly."""

import contextlib
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import Config
from streamscalar.errors import BadCall, Kind, StreamscalarError, WorkFailed
from streamscalar.missing import MISSING
from streamscalar.store import Store, WeightsWriter
from streamscalar.store.logged.log import Entries, Series
from streamscalar.tracking.channel.messages import Facts, Open, Opened
from streamscalar.tracking.worker.embedding_thread import EmbeddingThread, Report
from streamscalar.tracking.worker.name_lock import NameLock
from streamscalar.tracking.worker.rank_check import RankCheck
from streamscalar.workers.embedder import Embedder

RESUME_WAIT_S = 30.0
"""Timeout for a run to resume: the worker of a killed training process may still be closing it."""

RETRY_S = 5.0
"""Pause after a row could not be stored; the rows in between are lost."""


class RowSink(Protocol):
    """Takes the rows of one tracker; its errors are sent to the training process as warnings."""

    def open(self, request: Open) -> Opened:
        """Choose a run and lock its name."""
        ...

    def begin(self, metrics: tuple[str, ...], fork_step: int | None) -> str:
        """Start the run, or a child of it with the steps up to `fork_step` in common; return its name."""
        ...

    def put(self, step: int, weights: NDArray[Any], metrics: NDArray[np.float64], facts: Facts) -> None:
        """Store a row: weights (R, P), metrics (names or more, R), which are not kept. A stored step is skipped."""
        ...

    def log(self, first: int, series: tuple[Series, ...], values: NDArray[Any]) -> None:
        """Store values apart from rows, from index `first` of the run on; those that are stored are skipped.

        `values` has the fields `step`, `which` (index in `series`) and `value`.
        """
        ...

    def finish(self, facts: Facts) -> None:
        """Complete the run, with its exact solution."""
        ...

    def pause(self) -> list[str]:
        """Release the run, so that another process can `resume` it; return the runs that were started."""
        ...

    def resume(self, runs: list[str]) -> None:
        """Take over the runs of a process that paused, after `open` with the last of them attached."""
        ...

    def close(self, reason: str) -> None:
        """Close the run of a training that failed, so that it can be resumed."""
        ...


class StoreSink:
    """Writes rows to a store, and embeds each segment once it is published, in a separate thread."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._run_id = ""
        self._writer: WeightsWriter | None = None
        self._parent: tuple[str, int] | None = None
        self._is_made = True
        self._metrics: tuple[str, ...] = ()
        self._newest = -1
        self._retry_at_s = 0.0
        self._facts = Facts(0, 0, 0.0)
        self._written: list[str] = []

    def open(self, request: Open) -> Opened:
        """See `RowSink.open`.

        Raises
        ------
        BadCall
            The store holds another experiment, or the run cannot be resumed.
        """
        self._request = request
        self._store = _open_store(request)
        config = Config.from_identity(self._store.config, request.store)
        section = config.embedding
        self._n_components, self._codec = section.n_components, config.store.codec
        self._embedding = EmbeddingThread(Embedder(request.store, section, "segment"), self._report)
        self._ranks = RankCheck(self._store, self._report, is_new=request.attach is None)
        if request.attach is not None:
            return self._attach(request.attach)
        if request.resume == "never":
            self._run_id = self._lock_new_name()
            notes: tuple[str, ...] = ()
            if self._run_id != request.name and request.is_named:
                notes = (f"run {request.name} exists; this one is {self._run_id}",)
            return Opened(self._run_id, None, (), 0, must_fork=False, notes=notes)
        return self._resume()

    def begin(self, metrics: tuple[str, ...], fork_step: int | None) -> str:
        """See `RowSink.begin`."""
        self._metrics = metrics
        if fork_step is not None:
            self._leave()
            self._parent = (self._run_id, fork_step)
            # No row of the child may go to the parent, even if no name can be locked.
            self._run_id = ""
            self._run_id = self._lock_new_name()
        self._is_made = False
        self._open_writer()
        return self._run_id

    def put(self, step: int, weights: NDArray[Any], metrics: NDArray[np.float64], facts: Facts) -> None:
        """See `RowSink.put`.

        Raises
        ------
        StreamscalarError, OSError
            The row could not be stored.
        """
        self._facts = facts
        self._require_writer()
        if step <= self._newest:
            return
        try:
            self._append(step, weights, metrics)
        except Exception:
            self._drop_writer()
            raise
        if self._ranks.check(self._run_id):
            self._set_status("training", "")

    def log(self, first: int, series: tuple[Series, ...], values: NDArray[Any]) -> None:
        """See `RowSink.log`.

        Raises
        ------
        StreamscalarError, OSError
            The values could not be stored.
        """
        writer = self._require_writer()
        try:
            which = values["which"].astype(np.int32)
            writer.log(first, Entries(series, values["step"].copy(), which, values["value"].copy()))
        except Exception:
            self._drop_writer()
            raise

    def finish(self, facts: Facts) -> None:
        """See `RowSink.finish`."""
        self._facts = facts
        if self._written and self._writer is None:
            self._open_writer()
        if self._writer is not None:
            self._writer.finish()
            self._hand_on(self._writer)
            self._close_writer()
        self._embedding.drain()
        for run_id in self._written:
            if self._store.reader(run_id).n_published:  # A run may have values of metrics alone.
                self._embedding.embedder.finalise(run_id, "all")
        if self._written:
            self._ranks.check(self._run_id, is_over=True)
            self._set_status("done", "")

    def pause(self) -> list[str]:
        """See `RowSink.pause`."""
        self._close_writer()
        self._embedding.drain()
        self._name_lock.release()
        return self._written

    def resume(self, runs: list[str]) -> None:
        """See `RowSink.resume`."""
        self._written = runs

    def close(self, reason: str) -> None:
        """See `RowSink.close`."""
        self._close_writer()
        self._embedding.drain()
        if self._written:
            self._ranks.check(self._run_id, is_over=True)
            self._set_status("failed", reason)

    def _append(self, step: int, weights: NDArray[Any], metrics: NDArray[np.float64]) -> None:
        writer = self._require_writer()
        row = writer.n_durable
        # A run of an earlier version may have more.
        named = dict.fromkeys(self._metrics, np.full(metrics.shape[1], MISSING))
        writer.append(row, step, weights, named | dict(zip(self._metrics, metrics, strict=False)))
        self._newest = step
        self._hand_on(writer)

    def _require_writer(self) -> WeightsWriter:
        if self._writer is None:
            if time.monotonic() < self._retry_at_s:
                raise WorkFailed("store", f"failed less than {RETRY_S:g} s ago")
            self._open_writer()
        if self._writer is None:
            raise WorkFailed("row", "has no open run")
        return self._writer

    def _hand_on(self, writer: WeightsWriter) -> None:
        """Embed the blocks published since the last call."""
        published = writer.take_published()
        for first, block in published:
            self._embedding.push(self._run_id, first, block)
        if published:
            self._set_status("training", "")

    def _open_writer(self) -> None:
        """Open the run at its end; create it first if it is new."""
        if not self._is_made:
            self._make()
        self._writer = self._store.weights_writer(self._run_id, "segment")
        self._attempt = self._writer.attempt
        steps = self._store.reader(self._run_id).steps()
        self._newest = int(steps[-1]) if len(steps) else -1
        if self._run_id not in self._written:
            self._written.append(self._run_id)
            self._set_status("training", "")

    def _make(self) -> None:
        self._store.add_run(
            self._run_id,
            setting=self._request.setting,
            seed=self._request.seed,
            layout=self._request.layout,
            n_rows=None,
            metrics=self._metrics,
            n_components=self._n_components,
            segment_rows=None,
            codec=self._codec,
            parent=self._parent,
        )
        self._is_made = True

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._hand_on(writer)

    def _drop_writer(self) -> None:
        """Close a writer that failed; a later row opens a new one at the end of the stored rows."""
        writer, self._writer = self._writer, None
        self._retry_at_s = time.monotonic() + RETRY_S
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.close()

    def _leave(self) -> None:
        """Finish a run whose child starts; its exact solution is computed at the end of the last child."""
        if self._writer is not None:
            self._writer.finish()
            self._hand_on(self._writer)
            self._close_writer()
            self._set_status("done", "")

    def _set_status(self, phase: str, reason: str) -> None:
        facts = self._facts
        self._store.set_status(
            self._run_id,
            phase=phase,
            attempts=self._attempt,
            reason=reason or facts.stopped,
            recorded=self._store.reader(self._run_id, hash_weights=False).n_rows,
            skipped=facts.n_skipped,
            dropped=facts.n_dropped,
            values_dropped=facts.n_values_dropped,
            overhead=facts.overhead,
            not_reproduced=facts.not_reproduced,
            ranks_drifted=self._ranks.drifted,
        )

    def _lock_new_name(self) -> str:
        """Lock and return a name that no run has and no other process holds."""
        return next(name for name in _candidates(self._request.name) if self._locks(name))

    def _locks(self, name: str) -> bool:
        lock = NameLock.take(self._store.path, name)
        if lock is None:
            return False
        # Lock first: the previous holder may have created the run in the meantime.
        if name in self._store.run_ids():
            lock.release()
            return False
        self._name_lock = lock
        return True

    def _lock_name(self, name: str) -> None:
        until = time.monotonic() + RESUME_WAIT_S
        while (lock := NameLock.take(self._store.path, name)) is None:
            if time.monotonic() > until:
                fix = "End that process first, or choose another name"
                raise BadCall(
                    "resume", "must name a run that no process writes", f"{name}, which is being written", fix
                )
            time.sleep(0.1)
        self._name_lock = lock

    def _attach(self, name: str) -> Opened:
        """Take over the run of a worker that died."""
        self._lock_name(name)
        self._run_id = name
        newest = None
        if name in self._store.run_ids():
            reader = self._store.reader(name)
            self._metrics = reader.spec.metrics
            if reader.is_complete:
                self._written.append(name)
                self._attempt = 0
            else:
                self._open_writer()
                newest = self._newest
        return Opened(name, newest, self._metrics, 0, must_fork=False, notes=())

    def _resume(self) -> Opened:
        request = self._request
        name = request.name
        self._lock_name(name)
        self._run_id = name
        if name not in self._store.run_ids():
            if request.resume == "must":
                runs = ", ".join(self._store.run_ids()[-5:]) or "none"
                fix = "Use resume='allow' to start it"
                raise BadCall("name", f"must be a run of {request.store} to resume (there: {runs})", repr(name), fix)
            return Opened(name, None, (), 0, must_fork=False, notes=())
        self._ranks.open(name)
        reader = self._store.reader(name)
        if reader.layout != request.layout:
            must = f"must have the parameters of run {name} ({reader.layout.n_parameters:,} of them)"
            fix = "Give the run another name"
            raise BadCall("model", must, f"{request.layout.n_parameters:,}, or others", fix, Kind.DATA)
        steps = reader.steps()
        newest = int(steps[-1]) if len(steps) else -1
        self._metrics = reader.spec.metrics
        must_fork = reader.is_complete or request.keeps_pace
        notes: tuple[str, ...] = ()
        if must_fork:
            why = "is finished" if reader.is_complete else "has shadows or a tangent vector, which start again"
            notes = (f"run {name} {why}: recording continues in a child run",)
        return Opened(name, newest, self._metrics, len(reader.logged.entries()), must_fork, notes)


def _candidates(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def _open_store(request: Open) -> Store:
    try:
        return Store.create(request.store, request.config, request.provenance)
    except BadCall as error:
        if error.kind is not Kind.STORE_OTHER_CONFIG:
            raise
        fix = "Choose another group, or another store"
        raise BadCall(error.where, error.must, error.got, fix, error.kind) from None


def describe(error: Exception) -> str:
    """Return an error as one sentence."""
    return str(error) if isinstance(error, StreamscalarError) else f"{type(error).__name__}: {error}"
