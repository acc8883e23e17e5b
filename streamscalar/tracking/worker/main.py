"""The worker process of a tracked run: takes rows from the ring, stores and embeds them.

Once the run is open, it runs at the lowest priority in its own session, so that its work does not slow the training,
and a Ctrl-C meant for the training does not reach it. It ends when the training finishes or dies.

A process cannot raise its priority again, and after the training the user waits for the end of the work. So a finisher
process, forked before the worker lowers its priority, sleeps until it receives the end of the run. (Measured on two
busy processors: at the lowest priority 17 s for work of 1 s.)
"""

import contextlib
import os
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from streamscalar.errors import StreamscalarError
from streamscalar.tracking.channel.messages import (
    Begin,
    Done,
    Facts,
    FinishRun,
    Named,
    Open,
    Opened,
    Order,
    Refused,
    Reply,
    Row,
    Settle,
    Trouble,
)
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.channel.shards import RowCompletion
from streamscalar.tracking.channel.values import ValueRing
from streamscalar.tracking.worker.embedding_thread import Report
from streamscalar.tracking.worker.mirrors.launch import Mirrors
from streamscalar.tracking.worker.remote import connect
from streamscalar.tracking.worker.sink import RowSink, StoreSink, describe

CHECK_PARENT_S = 0.5
"""Interval of checking that the training process is alive: its children may hold the socket open after its death."""

VALUES_S = 0.5
"""Interval of storing the values of metrics: each time costs about as much as a small row."""

BROKEN_OFF = "The training process ended without finish(); resume the run with resume='allow'."


class Worker:
    """Carries out the orders of one training process.

    Parameters
    ----------
    line
        Connection for orders and replies.
    ring_file
        Descriptor of the ring.
    parent
        Process id of the training process.
    finisher
        Connection to the process that completes the run.
    mirrors
        Processes that send results to other back ends.
    """

    def __init__(
        self,
        line: "Connection[Reply, Order | Open]",
        ring_file: int,
        parent: int,
        finisher: "Connection[Ending, None]",
        mirrors: Mirrors,
    ) -> None:
        self._finisher = finisher
        self._mirrors = mirrors
        self._line = line
        self._ring_file = ring_file
        self._parent = parent
        self._said: set[str] = set()
        self._held: Row | None = None
        self._counted_s = 0.0
        self._sink: RowSink | None = None
        self._stored_at_s = 0.0
        self._shards: RowCompletion | None = None

    def run(self) -> None:
        """Carry out orders until the training is over."""
        request = self._next()
        if not isinstance(request, Open):
            return
        self._request = request
        self._ring = Ring(self._ring_file, request.layout, request.n_slots, request.n_values)
        try:
            sink, opened = open_sink(request, self._report)
        except Exception as error:  # noqa: BLE001  (the training process handles errors of the worker)
            self._reply(Refused(error if isinstance(error, StreamscalarError) else OSError(describe(error))))
            return
        if request.attach is None:
            # The imports of the first worker ran before the training, so their time does not count.
            self._counted_s = time.process_time()
            if opened.newest is not None and not opened.must_fork:
                self._ring.values.begin(1, opened.n_logged)
        self._run_id = opened.run_id
        self._sink = sink
        if request.shards is not None:
            self._shards = RowCompletion(request.shards, request.layout.n_parameters)
        self._reply(opened)
        # Until here the training waits: at the lowest priority on a busy machine, 15 s for work of half a second.
        lower_priority()
        while (order := self._next()) is not None:
            if isinstance(order, FinishRun):
                self._store_held(sink)
                self._finish(sink, order)
                self._remove_parts()
                return
            if isinstance(order, Begin | Row | Settle) and order.number >= self._ring.counts[Ring.DONE]:
                self._take(sink, order)
            self._store_values_if_due()
            self._mirrors.take(self._report)
            self._count_time(is_row=isinstance(order, Row | Settle))
        self._store_held(sink)
        self._store_values(sink, is_last=True)
        sink.close(BROKEN_OFF)
        self._remove_parts()

    def _remove_parts(self) -> None:
        if self._shards is not None:
            self._shards.close()

    def _next(self) -> "Order | Open | None":
        """Return the next order; `None` if the training process is gone and all its orders are carried out."""
        try:
            while not self._line.poll(CHECK_PARENT_S):
                if os.getppid() != self._parent and not self._line.poll(0):
                    return None
                self._store_values_if_due()
                self._mirrors.take(self._report)
            return self._line.recv()
        except (EOFError, OSError):
            return None

    def _count_time(self, *, is_row: bool) -> None:
        now_s = time.process_time()
        self._ring.worker_s[Ring.ROWS if is_row else Ring.OTHER] += now_s - self._counted_s
        self._counted_s = now_s

    def _take(self, sink: RowSink, order: Begin | Row | Settle) -> None:
        """Hold a row until it is settled, or the next order comes; carry out other orders."""
        self._store_held(sink)
        if isinstance(order, Row):
            self._held = order
            return
        if isinstance(order, Begin):
            self._carry_out(sink, order)
        self._ring.counts[Ring.DONE] = order.number + 1

    def _store_held(self, sink: RowSink) -> None:
        if self._held is not None:
            row, self._held = self._held, None
            self._carry_out(sink, row)
            self._ring.counts[Ring.DONE] = row.number + 1

    def _store_values_if_due(self) -> None:
        n = self._ring.values.n_waiting if self._sink is not None else 0
        is_due = time.monotonic() - self._stored_at_s >= VALUES_S or n >= self._ring.values.n_values // 8
        if n and is_due and self._sink is not None:
            self._store_values(self._sink)
            self._count_time(is_row=False)

    def _store_values(self, sink: RowSink, *, is_last: bool = False) -> None:
        self._stored_at_s = time.monotonic()
        store_values(sink, self._ring.values, self._report, is_last=is_last)

    def _carry_out(self, sink: RowSink, order: Begin | Row) -> None:
        counts = self._ring.counts
        try:
            if isinstance(order, Begin):
                values = self._ring.values
                if values.counts[ValueRing.RUN] != order.run:
                    self._store_values(sink, is_last=True)
                try:
                    self._run_id = sink.begin(order.metrics, order.fork_step)
                finally:
                    # After the run is there: a worker that dies in between leaves the values to the next one.
                    values.begin(order.run, 0)
                if order.fork_step is not None:
                    self._reply(Named(self._run_id))
                return
            counts[Ring.STORED] += 1
            row = self._ring.rows[order.slot]
            if self._shards is not None:
                self._shards.complete(row, int(self._ring.calls[order.slot]))
            sink.put(order.step, row, self._ring.metrics[order.slot], order.facts)
            self._mirrors.start(self._request, self._run_id, self._report)
            if self._shards is not None:
                self._shards.forget(int(self._ring.calls[order.slot]))
        except Exception as error:  # noqa: BLE001  (rows that cannot be stored are counted; the next may be)
            if isinstance(order, Row):
                counts[Ring.LOST] += 1
            self._report("store", f"rows are lost: {describe(error)}")

    def _finish(self, sink: RowSink, order: FinishRun) -> None:
        try:
            if order.failure:
                self._store_values(sink, is_last=True)
                sink.close(order.failure)
                # Its end is a part of how mirrors detect the end of the run.
                self._finisher.close()
                self._mirrors.wait(self._request, self._run_id, self._report)
            elif runs := sink.pause():
                request = replace(self._request, attach=self._run_id)
                self._finisher.send(Ending(request, runs, order.facts))
                return
            trouble = ""
        except Exception as error:  # noqa: BLE001  (sent to the training process, which warns)
            trouble = describe(error)
        self._reply(Done(trouble))

    def _report(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._reply(Trouble(kind, text))

    def _reply(self, reply: Reply) -> None:
        with contextlib.suppress(OSError):
            self._line.send(reply)
            self._ring.counts[Ring.SAID] += 1


@dataclass(frozen=True)
class Ending:
    """Message to a finisher: the request to open the last run again, all runs that were started, and the facts."""

    request: Open
    runs: list[str]
    facts: Facts


def store_values(sink: RowSink, values: ValueRing, report: Report, *, is_last: bool) -> None:
    """Store the values that wait; on failure keep them for the next call, unless this one is the last of a run."""
    first, entries = values.waiting()
    if not len(entries):
        return
    is_lost = False
    try:
        sink.log(first, values.series(), entries)
    except Exception as error:  # noqa: BLE001  (sent to the training process, which warns)
        report("store", f"values of metrics are not stored: {describe(error)}")
        if not is_last:
            return
        is_lost = True
    values.take(len(entries), is_lost=is_lost)


def open_sink(request: Open, report: Report) -> tuple[RowSink, Opened]:
    """Return an open sink: on the requested cluster, or on this machine if the cluster does not answer."""
    if request.address is not None:
        try:
            sink = connect(request.address, report)
        except (OSError, StreamscalarError) as error:
            report("address", f"{describe(error)} The run is recorded on this machine alone.")
        else:
            return sink, sink.open(request)
    local = StoreSink(report)
    return local, local.open(request)


def complete(ending: Ending, ring_file: int, report: Report, mirrors: Mirrors) -> str:
    """Store the values that wait, and complete the runs; return what went wrong, empty if nothing did."""
    try:
        sink, _ = open_sink(ending.request, report)
        sink.resume(ending.runs)
        ring = Ring(ring_file, ending.request.layout, ending.request.n_slots, ending.request.n_values)
        store_values(sink, ring.values, report, is_last=True)
        sink.finish(ending.facts)
        mirrors.wait(ending.request, str(ending.request.attach), report)
    except Exception as error:  # noqa: BLE001  (sent to the training process, which warns)
        return describe(error)
    return ""


def fork_finisher(
    line: "Connection[Reply, Order | Open]", ring_file: int, mirrors: Mirrors
) -> "Connection[Ending, None]":
    """Fork the finisher and return the connection to it; it ends if the worker ends without sending it a run."""
    ours, theirs = Pipe()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    # Its own session: the worker lowers the priority of its session as a whole (see `lower_priority`).
    os.setsid()
    mirrors.only_wait()
    with contextlib.suppress(EOFError, OSError):
        ending = theirs.recv()
        line.send(Done(complete(ending, ring_file, lambda kind, text: line.send(Trouble(kind, text)), mirrors)))
    os._exit(0)


def lower_priority() -> None:
    """Take the lowest priority among all processes, not only within this session, for all threads."""
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  (names, not paths)
            os.setpriority(os.PRIO_PROCESS, int(thread), 19)
    # With autogroups the kernel weighs sessions, not processes: without this, ours would get half a processor.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19", "ascii")


def main() -> None:
    """Run the worker of the training process that started this one; see `channel.link`."""
    line_file, ring_file, parent = (int(argument) for argument in sys.argv[1:4])
    line: Connection[Reply, Order | Open] = Connection(line_file)
    mirrors = Mirrors()
    finisher = fork_finisher(line, ring_file, mirrors)
    Worker(line, ring_file, parent, finisher, mirrors).run()


if __name__ == "__main__":
    main()
