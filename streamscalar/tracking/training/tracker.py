"""The tracker of a run: the part of `ss.track` in the training process."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from torch import Tensor
from torch.optim import Optimizer

from streamscalar.tracking.channel.link import Link
from streamscalar.tracking.channel.messages import Facts, FinishRun, Opened
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.channel.values import ValueRing
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.summary import Summary
from streamscalar.tracking.training.at_exit import end_at_exit
from streamscalar.tracking.training.budget import Budget
from streamscalar.tracking.training.identity import Identity
from streamscalar.tracking.training.metrics import Metrics, checked_step, learning_rates
from streamscalar.tracking.training.of_one_process import OfOneProcess
from streamscalar.tracking.training.pending_rows import PendingRows
from streamscalar.tracking.training.ranks.recording import RankHashes
from streamscalar.tracking.training.repeating.companions import Companions, NoCompanions

_LOG = logging.getLogger(__name__)

WORKER_WEIGHT = 0.25
"""Seconds by which one CPU second of the worker slows the training.

Assumed until it is measured in the training itself. With one training thread on two processors, while the worker was
stopped and continued in turns: 0.22 (convolutional network, P = 16,000), 0.14 (perceptron, P = 1e5), 0.09 (transformer,
P = 1e6). If no processor is free, the lowest priority gives the worker under 2 % of one."""

DEVICE_CALLS = 128
"""Calls of `step` after which values on a device are copied at the latest; a multiple of `CALLS_TIMED`."""

CALLS_TIMED = 16
"""One call of `step` in this many is timed, for all of them: the clock costs as much as the rest of a call."""


class Tracker(OfOneProcess):
    """Records a training step by step; made by `track`.

    `step` and `finish` never raise: problems are reported as a `TrackingWarning`, once per kind. `step` does not wait
    for the disk, but for the first rows of `every_n_steps`, at most 10 s; `finish` waits until everything is stored. A
    script that ends without it finishes the run by itself; one that ends with an exception, or is killed, leaves a
    failed run, which can be resumed.

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
        self._identity = identity
        self._optimizer = optimizer
        self._stopped, self._is_open = "", False
        # A function of the user that reports values is called again in a step, to repeat it.
        self._lock = threading.RLock()
        self._ring = ring
        self._link = link
        self._budget, self._metrics = budget, metrics
        self._companions = companions
        self._notices = notices
        self._ranks = ranks
        self._rows = PendingRows(identity.selection, n_replicas, ring, link.put, self._facts)
        self._rows.warm_up(self._replicas())
        self._pid = os.getpid()
        self._has_warned = self._has_begun = False
        self._is_over = opened is None
        self._at_exit = end_at_exit(self._end)
        # -1 means no row yet. Steps that the caller does not number count from 1, because each follows an update.
        self._newest, self._last = -1, 0
        # Last step in common with a child run that begins with the next row; `None` while there is none.
        self._fork_step: int | None = None
        self._n_calls = self._n_dropped = 0
        self._companions_s = 0.0
        # Thread that repeats the training in companions: what `train_step` reports there is not of the training.
        self._repeats_in: int | None = None
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
            Numbers, or tensors of one element, by name. Each is stored with the number of the step, whether or not
            the weights are.
        """
        if self._is_over or self._is_elsewhere():
            return
        with self._lock:
            if not self._companions.is_repeating:
                self._take_step(step, batch, metrics)

    def log(self, values: Mapping[str, object] | None = None, /, *, step: int | None = None, **metrics: object) -> None:
        """Store values of metrics apart from a step of the training, from any thread and in any order.

        Parameters
        ----------
        values
            Numbers, or tensors of one element, by name.
        step
            Number of the step that they belong to, which may be an earlier one; by default that of the last call of
            `step`. Of several values of a metric for one step, readers get the last.
        **metrics
            Further values.
        """
        if self._is_over or self._is_elsewhere():
            return
        with self._lock:
            if not self._companions.is_repeating:
                self._take_values(step, {**(values or {}), **metrics})

    def _take_step(self, step: int | None, batch: object, metrics: dict[str, object]) -> None:
        try:
            number = self._last + 1 if step is None else checked_step(step)
            is_repeated = number == self._last and self._budget.n_steps > 0
            if self._ranks is not None and not is_repeated:
                self._budget.took_none(self._ranks.step(number, is_counted=False))
            if number <= self._newest and not is_repeated:
                self._go_back(number)
            if isinstance(self._companions, Companions):
                self._metrics.update_others(number, "loss", self._repeat(batch, number))
            if is_repeated and number == self._newest:
                # Metrics of a step may come in several calls; the row was recorded at the first.
                self._metrics.update_late(number, metrics)
                self._hand_over()
                return
            self._settle()
            self._n_calls += 1
            if self._n_calls % CALLS_TIMED:
                if metrics:
                    self._metrics.update(number, metrics)
                    self._hand_over()
                self._step(number)
                return
            self._budget.watch(time.perf_counter(), self._link.worker_cpu_s())
            # CPU time of this thread: waiting for a processor that others use is no cost of the recording.
            started_s = time.thread_time()
            self._metrics.update(number, metrics)
            if self._n_calls % DEVICE_CALLS == 0:
                self._metrics.send()
            if not self._step(number):
                self._budget.took_none(CALLS_TIMED * (time.thread_time() - started_s))
            self._hand_over()
        except Exception as error:  # noqa: BLE001  (no error of the recording may end the training)
            self._notices.failed("step", error)

    def _repeat(self, batch: object, number: int) -> list[Tensor]:
        before_s, self._repeats_in = time.perf_counter(), threading.get_ident()
        try:
            return self._companions.step(batch, number)
        finally:
            self._repeats_in = None
            self._companions_s += time.perf_counter() - before_s

    def _take_values(self, step: int | None, values: dict[str, object]) -> None:
        try:
            number = self._last if step is None else checked_step(step)
            if number == self._newest == self._last and self._is_open:
                self._metrics.update_late(number, values)
            elif self._newest < number <= self._last:
                self._metrics.update(number, values)
            else:
                self._metrics.log(number, values)
            self._hand_over()
        except Exception as error:  # noqa: BLE001  (no error of the recording may end the training)
            self._notices.failed("log", error)

    def _hand_over(self) -> None:
        """Let the worker take the values where many wait; begin their run if it has no row yet."""
        if self._ring.values.needs_wake():
            if self._fork_step is not None or not self._has_begun:
                self._begin()
            self._link.wake()

    def _go_back(self, number: int) -> None:
        """Let what follows belong to a child run, which begins with its first row."""
        if self._fork_step is None:
            # What was reported before belongs to the parent.
            self._metrics.send(wait=True)
            self._ring.values.next_run()
            self._fork_step = number - 1
        self._fork_step = min(self._fork_step, number - 1)

    def finish(self) -> Summary:
        """Wait until all is stored and embedded, with the exact solution, for at most 10 minutes; return a summary."""
        return self._end("")

    def summary(self) -> Summary:
        """Return a summary of the recording so far."""
        budget = self._budget
        now_s, worker_s = self._ended or (time.perf_counter(), sum(self._ring.worker_s.tolist()))
        elapsed_s, values = budget.elapsed_s(now_s), self._ring.values
        return Summary(
            self.run_id,
            budget.n_steps,
            budget.n_recorded,
            self._n_dropped,
            self._link.n_lost,
            budget.stride,
            budget.overhead(now_s, worker_s),
            self._companions_s / elapsed_s if elapsed_s > 0 else 0.0,
            dict(self._notices.counts),
            values.n_sent,
            values.n_dropped + values.counts[ValueRing.LOST] + (values.n_waiting if self._link.is_down else 0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end("" if kind is None else f"The training ended with {kind.__name__}: {error}")

    def _step(self, number: int) -> bool:
        """Record a step if it is due; return whether it was."""
        if self._rows.pending:
            self._rows.send_complete()
        if number == self._last and self._budget.n_steps:
            return False
        self._last = number
        goes_back = self._fork_step is not None
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
            self._begin()
        self._ring.calls[slot] = self._budget.n_steps
        self._record(slot, number)
        self._newest, self._is_open = number, True
        self._budget.took_row(time.thread_time() - started_s)
        return True

    def _is_elsewhere(self) -> bool:
        """Return whether a call is none of the training: in a companion, or in a forked process, which warns once."""
        if os.getpid() == self._pid:
            return self._repeats_in is not None and self._repeats_in == threading.get_ident()
        if not self._has_warned:
            self._has_warned = True
            text = "this process was forked from the one that is recorded, and its steps are not; call ss.track() here"
            self._notices.warn("forked", f"run {self.run_id}: {text}")
        return True

    def _settle(self) -> None:
        """Send what came for the newest row after it, and that nothing more will."""
        if not self._is_open:
            return
        self._is_open = False
        late = self._metrics.take_late()
        if self._rows.settle(self._newest, late):
            self._link.settle(self._newest)

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
        used = self._rows.slots
        return None if used is None else min(self._link.free_slots() - used, default=None)

    def _begin(self) -> None:
        """Start the run, or a child of it."""
        self._rows.send_complete(wait=True)
        if self._fork_step is not None:
            self._companions.begin_again()
            self._newest = self._fork_step
        # A finished run goes on in a child, too.
        is_child = self._fork_step is not None or self._newest >= 0
        self._link.begin(self._ring.values.run, self._metrics.fix(), self._newest if is_child else None)
        self._has_begun, self._fork_step = True, None

    def _record(self, slot: int, number: int) -> None:
        """Copy the current weights to a slot, and send it to the worker once the copy is complete."""
        self._metrics.update(number, self._companions.growth())
        if self._optimizer is not None:
            self._metrics.offer(number, learning_rates(self._optimizer))
        self._metrics.send()
        self._rows.add(slot, number, self._replicas(), *self._metrics.take())

    def _replicas(self) -> list[Sequence[Tensor]]:
        return [self._identity.selection.parameters, *self._companions.parameters]

    def _facts(self) -> Facts:
        budget = self._budget
        n_skipped = budget.n_steps - budget.n_recorded - self._n_dropped
        overhead = budget.overhead(time.perf_counter(), sum(self._ring.worker_s.tolist()))
        refused, n_values = self._companions.refused, self._ring.values.n_dropped
        return Facts(n_skipped, self._n_dropped, overhead, refused, self._stopped, n_values)

    def _end(self, failure: str) -> Summary:
        if self._is_over or os.getpid() != self._pid:
            return self.summary()
        with self._lock:  # A call of another thread ends first.
            self._is_over = True
        atexit.unregister(self._at_exit)
        self._ended = time.perf_counter(), sum(self._ring.worker_s.tolist())
        try:
            self._companions.remove()
            self._rows.send_complete(wait=True)
            self._settle()
            if self._ranks is not None:
                self._ranks.close()
            self._metrics.send(wait=True)
            if self._ring.values.has_values_of_run and (self._fork_step is not None or not self._has_begun):
                self._begin()
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
