"""The tracker of a run: the part of `ss.track` in the training process."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from streamscalar.missing import is_missing
from streamscalar.tracking.channel.link import Link
from streamscalar.tracking.channel.messages import Facts, FinishRun, Opened
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.summary import Summary
from streamscalar.tracking.training.at_exit import end_at_exit
from streamscalar.tracking.training.budget import Budget
from streamscalar.tracking.training.capture import Flight, Selection
from streamscalar.tracking.training.companions import Companions, NoCompanions
from streamscalar.tracking.training.identity import Identity
from streamscalar.tracking.training.metrics import Metrics, gather, learning_rates
from streamscalar.tracking.training.ranks.recording import RankHashes

_LOG = logging.getLogger(__name__)

WORKER_WEIGHT = 0.25
"""Seconds by which one CPU second of the worker slows the training.

Measured on two processors with one training thread, while the worker was stopped and continued in turns: 0.22
(convolutional network, P = 16,000), 0.14 (perceptron, P = 1e5), 0.09 (transformer, P = 1e6, worker busy half of the
time). If no processor is free, the lowest priority gives the worker under 2 % of one."""

CALLS_TIMED = 16
"""One call of `step` in this many is timed, for all of them: the clock costs as much as the rest of a call."""

MAX_PENDING = 2
"""Maximum number of rows in transit from a device: one being copied, one waiting."""


class Tracker:
    """Records a training step by step; made by `track`.

    `step` and `finish` never raise: problems are reported as a `TrackingWarning`, once per kind. `step` does not wait
    for the disk; `finish` waits until everything is stored. A script that ends without it finishes the run by itself;
    one that ends with an exception, or is killed, leaves a failed run, which can be resumed.

    Parameters
    ----------
    identity
        The recorded parameters, compared with those of the model at every row.
    optimizer
        Its learning rates are recorded; `None` for none.
    ring, link
        Shared memory of the rows, and connection to the worker.
    opened
        First answer of the worker; `None` if it did not start.
    budget
        Decides which steps are recorded.
    metrics
        Newest values of the metrics.
    companions
        Shadows and tangent vector.
    n_replicas
        Number of replicas: the model and its shadows.
    notices
        Receives problems.
    ranks
        Hashes of this rank of a distributed training; `None` where ranks are not compared.
    """

    def __init__(
        self,
        identity: Identity,
        optimizer: Optimizer | None,
        ring: Ring,
        link: Link,
        opened: Opened | None,
        budget: Budget,
        metrics: Metrics,
        companions: Companions | NoCompanions,
        n_replicas: int,
        notices: Notices,
        ranks: RankHashes | None = None,
    ) -> None:
        selection = identity.selection
        self._identity = identity
        self._optimizer = optimizer
        self._stopped = ""
        self._is_open = False
        self._lock = threading.Lock()
        self._ring = ring
        self._link = link
        self._budget = budget
        self._metrics = metrics
        self._companions = companions
        self._notices = notices
        self._ranks = ranks
        self._capture = selection.capture(n_replicas)
        self._is_on_device = selection.device.type == "cuda"
        self._flat = _device_buffer(selection, n_replicas) if self._is_on_device else None
        self._slots = [torch.from_numpy(row) for row in ring.rows]
        for row in [self._flat] if self._flat is not None else self._slots:
            # The first copy to a row takes ten times as long, so it is done before the training.
            self._capture.copy(row, self._replicas())
        self._pending: list[_PendingRow] = []
        self._pid = os.getpid()
        self._has_warned = False
        self._is_over = opened is None
        self._at_exit = end_at_exit(self._end)
        self._has_begun = False
        # -1 means no row yet. Steps that the caller does not number count from 1, because each follows an update.
        self._newest, self._last = -1, 0
        self._n_calls = 0
        self._n_dropped = 0
        self._companions_s = 0.0
        self._ended: tuple[float, float] | None = None
        if opened is not None and opened.newest is not None:
            self._newest = self._last = opened.newest
            self._has_begun = not opened.must_fork
            metrics.fix(opened.metrics)

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self._link.run_id

    @property
    def worker_pid(self) -> int:
        """Process id of the worker."""
        return self._link.pid

    def step(self, *, step: int | None = None, batch: object = None, **metrics: object) -> None:
        """Record a step of the training if it is due; call it after every update of the optimizer.

        Parameters
        ----------
        step
            Number of the step; by default one more than at the last call, from 1. Going back to a recorded step
            starts a child run. Repeating a number has no effect.
        batch
            Batch for `loss_fn`; required by shadows and tangent vectors.
        **metrics
            Numbers, or tensors of one element, by name. The names are fixed at the first recorded step.
        """
        if self._is_over:
            return
        if os.getpid() != self._pid:
            self._warn_child()
            return
        with self._lock:
            self._take_step(step, batch, metrics)

    def _take_step(self, step: int | None, batch: object, metrics: dict[str, object]) -> None:
        try:
            number = self._last + 1 if step is None else int(step)
            if self._ranks is not None and number != self._last:
                self._budget.took_none(self._ranks.step(number, is_counted=False))
            if isinstance(self._companions, Companions):
                before_s = time.perf_counter()
                self._metrics.update_others("loss", self._companions.step(batch, number))
                self._companions_s += time.perf_counter() - before_s
            if metrics and number == self._newest == self._last:
                # Metrics of a step may come in several calls; the row was recorded at the first.
                self._metrics.update_late(metrics)
                return
            self._settle()
            self._n_calls += 1
            if self._n_calls % CALLS_TIMED:
                self._metrics.update(metrics)
                self._step(number)
                return
            # CPU time of this thread: waiting for a processor that others use is no cost of the recording.
            started_s = time.thread_time()
            self._metrics.update(metrics)
            if not self._step(number):
                self._budget.took_none(CALLS_TIMED * (time.thread_time() - started_s))
        except Exception as error:  # noqa: BLE001  (no error of the recording may end the training)
            self._notices.failed("step", error)

    def finish(self) -> Summary:
        """Wait until everything is stored and embedded, with the exact solution; return a summary.

        Waits for the worker for at most 10 minutes.
        """
        return self._end("")

    def summary(self) -> Summary:
        """Return a summary of the recording so far."""
        budget = self._budget
        now_s, worker_s = self._ended or (time.perf_counter(), sum(self._ring.worker_s.tolist()))
        elapsed_s = budget.elapsed_s(now_s)
        return Summary(
            self.run_id,
            budget.n_steps,
            budget.n_recorded,
            self._n_dropped,
            int(self._ring.counts[Ring.LOST]),
            budget.stride,
            budget.overhead(now_s, worker_s),
            self._companions_s / elapsed_s if elapsed_s > 0 else 0.0,
            dict(self._notices.counts),
        )

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a tracker belongs to the process that made it.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError("a Tracker cannot be pickled or sent to another process; call ss.track() in that process")

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the tracker itself, so that an object that holds it can be copied."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end("" if kind is None else f"The training ended with {kind.__name__}: {error}")

    def _step(self, number: int) -> bool:
        """Record a step if it is due; return whether it was."""
        if number < 0:
            raise ValueError(f"a step must be at least 0; got {number}")
        if self._pending:
            self._send_complete(wait=False)
        if number == self._last and self._budget.n_steps:
            return False
        self._last = number
        goes_back = number <= self._newest
        now_s = time.perf_counter()
        is_due = self._budget.is_on_grid(now_s)
        if is_due and not goes_back:
            row_worker_s, other_worker_s = self._ring.worker_s.tolist()
            is_due = self._budget.is_due(now_s, row_worker_s, int(self._ring.counts[Ring.STORED]), other_worker_s)
        if not (is_due or goes_back):
            return False
        started_s = time.thread_time()
        if self._is_stopped(number):
            self._n_dropped += 1
            return False
        self._link.receive()
        slot = self._free_slot()
        if slot is None:
            self._n_dropped += 1
            if self._ring.counts[Ring.STORED]:
                # Before the first row is stored, the worker is only busy with creating the run.
                self._budget.found_no_slot()
            return False
        if goes_back or not self._has_begun:
            self._begin(number, goes_back=goes_back)
        self._ring.calls[slot] = self._budget.n_steps
        self._record(slot, number)
        self._newest = number
        self._is_open = True
        self._budget.took_row(time.thread_time() - started_s)
        return True

    def _warn_child(self) -> None:
        """Warn once in a process that was forked from the one that records."""
        if not self._has_warned:
            self._has_warned = True
            text = "this process was forked from the one that is recorded, and its steps are not; call ss.track() here"
            self._notices.warn("forked", f"run {self.run_id}: {text}")

    def _settle(self) -> None:
        """Send what came for the newest row after it, and that nothing more will."""
        if not self._is_open:
            return
        self._is_open = False
        late = self._metrics.take_late()
        waiting = [row for row in self._pending if row.step == self._newest]
        if waiting:
            known = ~is_missing(late)
            waiting[0].values[known] = late[known]
            return
        self._link.settle(self._newest, late)

    def _is_stopped(self, number: int) -> bool:
        """Return whether the model has other parameters than the run; warn at the first time."""
        changes = self._identity.changes()
        if changes and not self._stopped:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            self._stopped = f"at step {number} the parameters of the model changed: {', '.join(changes[:3])}{more}"
            fix = "no row is recorded from then on; call finish(), and ss.track() again to record the changed model"
            self._notices.warn("parameters", f"run {self.run_id}: {self._stopped}; {fix}")
        return bool(changes)

    def _free_slot(self) -> int | None:
        if len(self._pending) >= MAX_PENDING:
            return None
        free = self._link.free_slots() - {row.slot for row in self._pending}
        return min(free, default=None)

    def _begin(self, number: int, *, goes_back: bool) -> None:
        """Start the run at its first row, or a child of it."""
        self._send_complete(wait=True)
        if goes_back:
            self._companions.begin_again()
        fork_step = number - 1 if goes_back else self._newest
        self._link.begin(self._metrics.fix(), None if self._newest < 0 else fork_step)
        self._has_begun = True

    def _record(self, slot: int, number: int) -> None:
        """Copy the current weights to a slot, and send it to the worker once the copy is complete."""
        self._metrics.update(self._companions.growth())
        if self._optimizer is not None:
            self._metrics.offer(learning_rates(self._optimizer))
        values, places, tensors = self._metrics.take()
        replicas = self._replicas()
        on_device = [gather(tensors)] if tensors else []
        if self._flat is None:
            self._capture.copy(self._slots[slot], replicas)
        else:
            # One buffer is enough: on a stream, the next row is gathered after the copy of this one.
            self._capture.copy(self._flat, replicas)
            on_device.append(self._flat)
        flight = Flight.start(on_device) if on_device else None
        self._pending.append(_PendingRow(slot, number, values, places, flight))
        self._send_complete(wait=False)

    def _replicas(self) -> list[Sequence[Tensor]]:
        return [self._identity.selection.parameters, *self._companions.parameters]

    def _send_complete(self, *, wait: bool) -> None:
        """Send the rows whose copies are complete to the worker, in order."""
        while self._pending:
            row = self._pending[0]
            if row.flight is not None:
                if wait:
                    row.flight.event.synchronize()
                elif not row.flight.is_complete:
                    return
                numbers = list(row.flight.numbers)
                if self._flat is not None:
                    self._slots[row.slot].copy_(numbers.pop())
                for (name, replica), value in zip(row.places, numbers[0].tolist() if numbers else [], strict=True):
                    row.values[name, replica] = value
            del self._pending[0]
            self._link.put(row.slot, row.step, row.values, self._facts())

    def _facts(self) -> Facts:
        budget = self._budget
        n_skipped = budget.n_steps - budget.n_recorded - self._n_dropped
        overhead = budget.overhead(time.perf_counter(), sum(self._ring.worker_s.tolist()))
        return Facts(n_skipped, self._n_dropped, overhead, self._companions.refused, self._stopped)

    def _end(self, failure: str) -> Summary:
        if self._is_over or os.getpid() != self._pid:
            return self.summary()
        self._is_over = True
        atexit.unregister(self._at_exit)
        self._ended = time.perf_counter(), sum(self._ring.worker_s.tolist())
        try:
            self._companions.remove()
            self._send_complete(wait=True)
            self._settle()
            if self._ranks is not None:
                self._ranks.close()
            trouble = self._link.finish(FinishRun(self._facts(), failure))
            if trouble:
                self._notices.warn("finish", f"run {self.run_id} is not complete: {trouble}")
        except Exception as error:  # noqa: BLE001  (no error of the recording may end the training)
            self._notices.failed("finish", error)
        finally:
            self._link.close()
        summary = self.summary()
        _LOG.info("%s", summary)
        return summary


@dataclass(frozen=True)
class _PendingRow:
    """A row whose copy may not be complete; `places` are those of the metrics in the copy."""

    slot: int
    step: int
    values: NDArray[np.float64]
    places: list[tuple[int, int]]
    flight: Flight | None


def _device_buffer(selection: Selection, n_replicas: int) -> Tensor:
    dtype = torch.float64 if selection.dtype == "float64" else torch.float32
    n_parameters = sum(layer.size for layer in selection.layers)
    return torch.empty((n_replicas, n_parameters), dtype=dtype, device=selection.device)
