"""`ss.track`: the training's side of a tracked run."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.tracking.channel.link import Link
from streamscalar.tracking.channel.messages import Facts, FinishRun, Opened
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.summary import Summary
from streamscalar.tracking.training.budget import Budget
from streamscalar.tracking.training.capture import Capture, Flight, Selection
from streamscalar.tracking.training.companions import Companions
from streamscalar.tracking.training.metrics import Metrics, gather

_LOG = logging.getLogger(__name__)

WORKER_WEIGHT = 0.25
"""Seconds by which one CPU second of the worker slows the training.

Measured on two processors, one training thread, the worker stopped and let go in turns: 0.22 (convolutional network,
P = 16,000), 0.14 (perceptron, P = 1e5), 0.09 (transformer, P = 1e6, the worker busy half of the time). Where no
processor is free, the lowest priority leaves the worker under 2 % of one."""

CALLS_TIMED = 16
"""One call of `step` in so many is timed and stands for the others: the clock costs as much as the rest of a call."""

MAX_AIRBORNE = 2
"""Rows on their way from a device at once: one that is copied, one that waits."""


class Tracker:
    """Records a training step by step; made by `track`.

    `step` and `finish` never wait for the disk (but `finish` for the end of the work), and never raise: trouble is a
    `TrackingWarning`, once per kind. Use it as a context manager, or call `finish`: a training that ends without
    either counts as broken off and can be resumed.

    Parameters
    ----------
    selection
        What is recorded of the model.
    ring, link
        The way to the worker.
    opened
        What the worker answered.
    budget
        Decides which steps are recorded.
    metrics
        Holds the newest values.
    companions
        Shadows and tangent vector.
    n_replicas
        The model and its shadows.
    notices
        Where trouble is told.
    """

    def __init__(
        self,
        selection: Selection,
        ring: Ring,
        link: Link,
        opened: Opened | None,
        budget: Budget,
        metrics: Metrics,
        companions: Companions,
        n_replicas: int,
        notices: Notices,
    ) -> None:
        self._selection = selection
        self._ring = ring
        self._link = link
        self._budget = budget
        self._metrics = metrics
        self._companions = companions
        self._notices = notices
        self._capture = Capture(selection, n_replicas)
        self._is_on_device = selection.device.type == "cuda"
        self._flat = _device_buffer(selection, n_replicas) if self._is_on_device else None
        self._slots = [torch.from_numpy(row) for row in ring.rows]
        for row in [self._flat] if self._flat is not None else self._slots:
            # The first copy into a row takes ten times as long; none of them falls into the training.
            self._capture.copy(row, self._replicas())
        self._airborne: list[_PendingRow] = []
        self._pid = os.getpid()
        self._is_over = opened is None
        self._has_begun = False
        # -1: no row yet. Steps that are not numbered by the caller count from 1, as each follows an update.
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
        """Say that the training has made a step; call it after the optimiser's update.

        Parameters
        ----------
        step
            Number of the step; by default one more than at the last call, from 1. Going back to a recorded step
            begins a child run. The same number twice is one step.
        batch
            What `loss_fn` takes; shadows and tangent vectors need it.
        **metrics
            Numbers, or tensors of one element, by name. Their names are fixed at the first call.
        """
        if self._is_over or os.getpid() != self._pid:
            return
        try:
            if self._companions.are_there:
                before_s = time.perf_counter()
                self._metrics.see_others("loss", self._companions.step(batch))
                self._companions_s += time.perf_counter() - before_s
            self._n_calls += 1
            if self._n_calls % CALLS_TIMED:
                self._metrics.see(metrics)
                self._step(self._last + 1 if step is None else int(step))
                return
            # Time of this thread alone: what other processes take of the processor is not the recording's cost.
            started_s = time.thread_time()
            self._metrics.see(metrics)
            if not self._step(self._last + 1 if step is None else int(step)):
                self._budget.took_none(CALLS_TIMED * (time.thread_time() - started_s))
        except Exception as error:  # noqa: BLE001  (nothing of the recording may end the training)
            self._notices.failed("step", error)

    def finish(self) -> Summary:
        """Have everything stored and embedded, with the exact solution; return what was recorded.

        Waits for the worker, up to 10 minutes.
        """
        return self._end("")

    def summary(self) -> Summary:
        """Return how the training has been recorded so far."""
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end("" if kind is None else f"The training ended with {kind.__name__}: {error}")

    def _step(self, number: int) -> bool:
        """Record a step where it is due; return whether it was."""
        if number < 0:
            raise ValueError(f"a step must be at least 0; got {number}")
        if self._airborne:
            self._land(wait=False)
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
        self._link.hear()
        slot = self._free_slot()
        if slot is None:
            self._n_dropped += 1
            if self._ring.counts[Ring.STORED]:
                # Before the first row is stored, the worker is busy with beginning the run, which passes.
                self._budget.found_no_slot()
            return False
        if goes_back or not self._has_begun:
            self._begin(number, goes_back=goes_back)
        self._record(slot, number)
        self._newest = number
        self._budget.took_row(time.thread_time() - started_s)
        return True

    def _free_slot(self) -> int | None:
        if len(self._airborne) >= MAX_AIRBORNE:
            return None
        free = self._link.free_slots() - {row.slot for row in self._airborne}
        return min(free, default=None)

    def _begin(self, number: int, *, goes_back: bool) -> None:
        """Begin the run at its first row, or a child of it."""
        self._land(wait=True)
        if goes_back:
            self._companions.begin_again()
        fork_step = number - 1 if goes_back else self._newest
        self._link.begin(self._metrics.fix(), None if self._newest < 0 else fork_step)
        self._has_begun = True

    def _record(self, slot: int, number: int) -> None:
        """Copy the weights as they are now into a slot, and hand it over once all of it is there."""
        self._metrics.see(self._companions.growth())
        values, places, tensors = self._metrics.take()
        replicas = self._replicas()
        on_device = [gather(tensors)] if tensors else []
        if self._flat is None:
            self._capture.copy(self._slots[slot], replicas)
        else:
            # One buffer is enough: on a stream, the next row is gathered after this one has left.
            self._capture.copy(self._flat, replicas)
            on_device.append(self._flat)
        flight = Flight.start(on_device) if on_device else None
        self._airborne.append(_PendingRow(slot, number, values, places, flight))
        self._land(wait=False)

    def _replicas(self) -> list[Sequence[Tensor]]:
        return [self._selection.parameters, *self._companions.parameters]

    def _land(self, *, wait: bool) -> None:
        """Hand over the rows whose numbers have all arrived, in order."""
        while self._airborne:
            row = self._airborne[0]
            if row.flight is not None:
                if wait:
                    row.flight.event.synchronize()
                elif not row.flight.has_landed:
                    return
                numbers = list(row.flight.numbers)
                if self._flat is not None:
                    self._slots[row.slot].copy_(numbers.pop())
                for (name, replica), value in zip(row.places, numbers[0].tolist() if numbers else [], strict=True):
                    row.values[name, replica] = value
            del self._airborne[0]
            self._link.put(row.slot, row.step, row.values, self._facts())

    def _facts(self) -> Facts:
        budget = self._budget
        n_skipped = budget.n_steps - budget.n_recorded - self._n_dropped
        overhead = budget.overhead(time.perf_counter(), sum(self._ring.worker_s.tolist()))
        return Facts(n_skipped, self._n_dropped, overhead)

    def _end(self, failure: str) -> Summary:
        if self._is_over or os.getpid() != self._pid:
            return self.summary()
        self._is_over = True
        self._ended = time.perf_counter(), sum(self._ring.worker_s.tolist())
        try:
            self._companions.remove()
            self._land(wait=True)
            trouble = self._link.finish(FinishRun(self._facts(), failure))
            if trouble:
                self._notices.say("finish", f"run {self.run_id} is not complete: {trouble}")
        except Exception as error:  # noqa: BLE001  (nothing of the recording may end the training)
            self._notices.failed("finish", error)
        finally:
            self._link.close()
        summary = self.summary()
        _LOG.info("%s", summary)
        return summary


@dataclass(frozen=True)
class _PendingRow:
    """A row whose numbers may still be on their way; `places` are those of the metrics among them."""

    slot: int
    step: int
    values: NDArray[np.float64]
    places: list[tuple[int, int]]
    flight: Flight | None


def _device_buffer(selection: Selection, n_replicas: int) -> Tensor:
    dtype = torch.float64 if selection.dtype == "float64" else torch.float32
    n_parameters = sum(layer.size for layer in selection.layers)
    return torch.empty((n_replicas, n_parameters), dtype=dtype, device=selection.device)
