"""Where the worker puts rows: a store on the local disk. No torch here, so that a worker starts quickly."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import Config
from streamscalar.errors import BadCall, Kind, StreamscalarError, WorkFailed
from streamscalar.store import Store, WeightsWriter
from streamscalar.tracking.channel.messages import Facts, Open, Opened
from streamscalar.tracking.worker.name_lock import NameLock
from streamscalar.workers.embedder import Embedder

Say = Callable[[str, str], None]
"""Hears the kind of a trouble, and a sentence."""

RESUME_WAIT_S = 30.0
"""How long a resumed run is waited for: the worker of a training that was killed may still be sealing it."""

RETRY_S = 5.0
"""Pause after a row could not be stored; rows until then are lost."""


class RowSink(Protocol):
    """Takes the rows of one tracker; what it raises is told to the training, which goes on."""

    def open(self, request: Open) -> Opened:
        """Choose and claim a run."""
        ...

    def begin(self, metrics: tuple[str, ...], fork_step: int | None) -> str:
        """Begin the run, or a child of it that has the steps up to `fork_step` in common; return its name."""
        ...

    def put(self, step: int, weights: NDArray[Any], metrics: NDArray[np.float64], facts: Facts) -> None:
        """Store a row: weights (R, P), metrics (names, R); nothing of it is kept. A row that is there is skipped."""
        ...

    def finish(self, facts: Facts) -> None:
        """Complete the run, with its exact solution."""
        ...

    def pause(self) -> list[str]:
        """Let go of the run, so that another process can `resume` it; return the runs that were begun."""
        ...

    def resume(self, runs: list[str]) -> None:
        """Take up the runs of a process that paused, after `open` with the last of them attached."""
        ...

    def close(self, reason: str) -> None:
        """Seal what is there of a training that broke off, so that it can be resumed."""
        ...


class StoreSink:
    """Writes rows into a store, and embeds each segment once it is published, in a thread of its own."""

    def __init__(self, say: Say) -> None:
        self._say = say
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
        self._embedding = _Embedding(Embedder(request.store, section, "segment"), self._say)
        if request.attach is not None:
            return self._attach(request.attach)
        if request.resume == "never":
            self._run_id = self._claim_new()
            notes: tuple[str, ...] = ()
            if self._run_id != request.name and request.is_named:
                notes = (f"run {request.name} is there already; this one is {self._run_id}",)
            return Opened(self._run_id, None, (), must_fork=False, notes=notes)
        return self._resume()

    def begin(self, metrics: tuple[str, ...], fork_step: int | None) -> str:
        """See `RowSink.begin`."""
        self._metrics = metrics
        if fork_step is not None:
            self._leave()
            self._parent = (self._run_id, fork_step)
            # Without a name of its own, no row of the child may go to the parent.
            self._run_id = ""
            self._run_id = self._claim_new()
        self._is_made = False
        self._open_writer()
        return self._run_id

    def put(self, step: int, weights: NDArray[Any], metrics: NDArray[np.float64], facts: Facts) -> None:
        """See `RowSink.put`.

        Raises
        ------
        StreamscalarError, OSError
            It could not be stored.
        """
        self._facts = facts
        if self._writer is None:
            if time.monotonic() < self._retry_at_s:
                raise WorkFailed("row", "is lost: the store could not be written a moment ago")
            self._open_writer()
        if step <= self._newest:
            return
        try:
            self._append(step, weights, metrics)
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
            self._embedding.embedder.finalise(run_id, "all")
        if self._written:
            self._tell("done", "")

    def pause(self) -> list[str]:
        """See `RowSink.pause`."""
        self._close_writer()
        self._embedding.drain()
        self._claim.release()
        return self._written

    def resume(self, runs: list[str]) -> None:
        """See `RowSink.resume`."""
        self._written = runs

    def close(self, reason: str) -> None:
        """See `RowSink.close`."""
        self._close_writer()
        self._embedding.drain()
        if self._written:
            self._tell("failed", reason)

    def _append(self, step: int, weights: NDArray[Any], metrics: NDArray[np.float64]) -> None:
        writer = self._writer
        if writer is None:
            raise WorkFailed("row", "has no run to go to")
        row = writer.n_durable
        writer.append(row, step, weights, dict(zip(self._metrics, metrics, strict=True)))
        self._newest = step
        self._hand_on(writer)

    def _hand_on(self, writer: WeightsWriter) -> None:
        """Embed the blocks published since the last call."""
        published = writer.take_published()
        for first, block in published:
            self._embedding.push(self._run_id, first, block)
        if published:
            self._tell("training", "")

    def _open_writer(self) -> None:
        """Open the run at its end, and make it first where it is new."""
        if not self._is_made:
            self._make()
        self._writer = self._store.weights_writer(self._run_id, "segment")
        self._attempt = self._writer.attempt
        steps = self._store.reader(self._run_id).steps()
        self._newest = int(steps[-1]) if len(steps) else -1
        if self._run_id not in self._written:
            self._written.append(self._run_id)
            self._tell("training", "")

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
        """Give a writer up that failed; a later row tries again from what the store holds."""
        writer, self._writer = self._writer, None
        self._retry_at_s = time.monotonic() + RETRY_S
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.close()

    def _leave(self) -> None:
        """End the writing of a run whose child begins; its exact solution comes with the last of them."""
        if self._writer is not None:
            self._writer.finish()
            self._hand_on(self._writer)
            self._close_writer()
            self._tell("done", "")

    def _tell(self, phase: str, reason: str) -> None:
        facts = self._facts
        self._store.set_status(
            self._run_id,
            phase=phase,
            attempts=self._attempt,
            reason=reason,
            recorded=self._store.reader(self._run_id, hash_weights=False).n_rows,
            skipped=facts.n_skipped,
            dropped=facts.n_dropped,
            overhead=facts.overhead,
        )

    def _claim_new(self) -> str:
        """Return a name that no run has and no other process has claimed, and claim it."""
        return next(name for name in _candidates(self._request.name) if self._claims(name))

    def _claims(self, name: str) -> bool:
        claim = NameLock.take(self._store.path, name)
        if claim is None:
            return False
        # The claim first: whoever held it before may just have made the run.
        if name in self._store.run_ids():
            claim.release()
            return False
        self._claim = claim
        return True

    def _claim_old(self, name: str) -> None:
        until = time.monotonic() + RESUME_WAIT_S
        while (claim := NameLock.take(self._store.path, name)) is None:
            if time.monotonic() > until:
                fix = "End that process first, or track under another name"
                raise BadCall("resume", "needs a run that nobody writes", f"{name}, which is being written", fix)
            time.sleep(0.1)
        self._claim = claim

    def _attach(self, name: str) -> Opened:
        """Go on for a worker that died."""
        self._claim_old(name)
        self._run_id = name
        newest = None
        if name in self._store.run_ids():
            reader = self._store.reader(name)
            self._metrics = reader.metric_names
            if reader.is_complete:
                self._written.append(name)
                self._attempt = 0
            else:
                self._open_writer()
                newest = self._newest
        return Opened(name, newest, self._metrics, must_fork=False, notes=())

    def _resume(self) -> Opened:
        request = self._request
        name = request.name
        self._claim_old(name)
        self._run_id = name
        if name not in self._store.run_ids():
            if request.resume == "must":
                runs = ", ".join(self._store.run_ids()[-5:]) or "none"
                fix = "Use resume='allow' to begin it"
                raise BadCall("name", f"must be a run of {request.store} to resume (there: {runs})", repr(name), fix)
            return Opened(name, None, (), must_fork=False, notes=())
        reader = self._store.reader(name)
        if reader.layout != request.layout:
            must = f"must have the parameters that run {name} was begun with ({reader.layout.n_parameters:,} of them)"
            fix = "Give the run another name"
            raise BadCall("model", must, f"{request.layout.n_parameters:,}, or others", fix, Kind.DATA)
        steps = reader.steps()
        newest = int(steps[-1]) if len(steps) else -1
        self._metrics = reader.metric_names
        must_fork = reader.is_complete or request.keeps_pace
        notes: tuple[str, ...] = ()
        if must_fork:
            why = "is finished" if reader.is_complete else "carries a shadow or tangent that starts anew"
            notes = (f"run {name} {why}: it goes on as its child",)
        return Opened(name, newest, reader.metric_names, must_fork, notes)


class _Embedding:
    """Embeds blocks in a thread of its own, so that rows never wait for it."""

    def __init__(self, embedder: Embedder, say: Say) -> None:
        self.embedder = embedder
        self._say = say
        # One block waits at most: the embedder takes up from the store what it was not given.
        self._blocks: queue.Queue[tuple[str, int, NDArray[Any]]] = queue.Queue(1)
        threading.Thread(target=self._embed, name="embed", daemon=True).start()

    def push(self, run_id: str, first: int, block: NDArray[Any]) -> None:
        """Let a block be embedded, now or with a later one."""
        with contextlib.suppress(queue.Full):
            self._blocks.put_nowait((run_id, first, block))

    def drain(self) -> None:
        """Wait until nothing is waiting."""
        self._blocks.join()

    def _embed(self) -> None:
        while True:
            run_id, first, block = self._blocks.get()
            try:
                self.embedder.embed(run_id, first, block)
            except Exception as error:  # noqa: BLE001  (the embedding can be made up for; the rows come first)
                self.embedder.forget(run_id)
                self._say("embedding", f"run {run_id} is not embedded for now: {error}")
            finally:
                self._blocks.task_done()


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
