"""The worker process of a tracked training: takes rows out of the ring, stores and embeds them.

It runs at the lowest priority in a session of its own, so that neither its work nor a Ctrl-C meant for the training
disturbs the other. It ends when the training does, whether that says so or dies.

Priority cannot be raised again, and once the training is over the user waits. So a finisher, forked before the worker
stepped back, sleeps until it is handed the end of the run. (Measured on two busy processors: 17 s at the lowest
priority for an end that takes 1 s.)
"""

import contextlib
import os
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np

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
    Trouble,
)
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.worker.remote import connect
from streamscalar.tracking.worker.sink import RowSink, Say, StoreSink, describe

LOOK_S = 0.5
"""How often to look whether the training lives: its children may hold the line open after its death."""

BROKEN_OFF = "The training process ended without finish(); go on with resume='allow'."


class Worker:
    """Carries out the orders of one training process.

    Parameters
    ----------
    line
        Where orders come from and replies go to.
    ring_file
        Descriptor of the ring.
    parent
        The training process.
    finisher
        Leads to the process that completes the run.
    """

    def __init__(
        self,
        line: "Connection[Reply, Order | Open]",
        ring_file: int,
        parent: int,
        finisher: "Connection[Ending, None]",
    ) -> None:
        self._finisher = finisher
        self._line = line
        self._ring_file = ring_file
        self._parent = parent
        self._said: set[str] = set()
        self._counted_s = 0.0

    def run(self) -> None:
        """Work until the training is over."""
        request = self._next()
        if not isinstance(request, Open):
            return
        self._request = request
        self._ring = Ring(self._ring_file, request.layout, request.n_slots)
        try:
            sink, opened = open_sink(request, self._say)
        except Exception as error:  # noqa: BLE001  (the training decides what an error of the worker means)
            self._reply(Refused(error if isinstance(error, StreamscalarError) else OSError(describe(error))))
            return
        if request.attach is None:
            # What the first worker spent on its imports fell before the training.
            self._counted_s = time.process_time()
        self._run_id = opened.run_id
        self._reply(opened)
        while (order := self._next()) is not None:
            if isinstance(order, FinishRun):
                self._finish(sink, order)
                return
            if isinstance(order, Begin | Row) and order.number >= self._ring.counts[Ring.DONE]:
                self._carry_out(sink, order)
                self._ring.counts[Ring.DONE] = order.number + 1
            self._count_time(is_row=isinstance(order, Row))
        sink.close(BROKEN_OFF)

    def _next(self) -> "Order | Open | None":
        """Return the next order; `None` where the training is gone and all its orders are carried out."""
        try:
            while not self._line.poll(LOOK_S):
                if os.getppid() != self._parent and not self._line.poll(0):
                    return None
            return self._line.recv()
        except (EOFError, OSError):
            return None

    def _count_time(self, *, is_row: bool) -> None:
        now_s = time.process_time()
        self._ring.worker_s[Ring.ROWS if is_row else Ring.OTHER] += now_s - self._counted_s
        self._counted_s = now_s

    def _carry_out(self, sink: RowSink, order: Begin | Row) -> None:
        counts = self._ring.counts
        try:
            if isinstance(order, Begin):
                self._run_id = sink.begin(order.metrics, order.fork_step)
                if order.fork_step is not None:
                    self._reply(Named(self._run_id))
                return
            counts[Ring.STORED] += 1
            weights = self._ring.rows[order.slot]
            metrics = np.frombuffer(order.metrics).reshape(-1, len(weights))
            sink.put(order.step, weights, metrics, order.facts)
        except Exception as error:  # noqa: BLE001  (rows that cannot be stored are counted; the next may be)
            if isinstance(order, Row):
                counts[Ring.LOST] += 1
            self._say("store", f"rows are lost: {describe(error)}")

    def _finish(self, sink: RowSink, order: FinishRun) -> None:
        try:
            if order.failure:
                sink.close(order.failure)
            elif runs := sink.pause():
                request = replace(self._request, attach=self._run_id)
                self._finisher.send(Ending(request, runs, order.facts))
                return
            trouble = ""
        except Exception as error:  # noqa: BLE001  (told to the training, which warns)
            trouble = describe(error)
        self._reply(Done(trouble))

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._reply(Trouble(kind, text))

    def _reply(self, reply: Reply) -> None:
        with contextlib.suppress(OSError):
            self._line.send(reply)
            self._ring.counts[Ring.SAID] += 1


@dataclass(frozen=True)
class Ending:
    """What a finisher is handed: the request to open the last run again, all runs that were begun, and the facts."""

    request: Open
    runs: list[str]
    facts: Facts


def open_sink(request: Open, say: Say) -> tuple[RowSink, Opened]:
    """Return an open sink: on the cluster that was asked for, or on this machine where that cannot be reached."""
    if request.address is not None:
        try:
            sink = connect(request.address, say)
        except (OSError, StreamscalarError) as error:
            say("address", f"{describe(error)} The run is recorded on this machine alone.")
        else:
            return sink, sink.open(request)
    local = StoreSink(say)
    return local, local.open(request)


def complete(ending: Ending, say: Say) -> str:
    """Complete the runs; return what went wrong, empty where nothing did."""
    try:
        sink, _ = open_sink(ending.request, say)
        sink.resume(ending.runs)
        sink.finish(ending.facts)
    except Exception as error:  # noqa: BLE001  (told to the training, which warns)
        return describe(error)
    return ""


def fork_finisher(line: "Connection[Reply, Order | Open]") -> "Connection[Ending, None]":
    """Fork the finisher, and return the way to it; it ends when the worker does without handing it a run."""
    ours, theirs = Pipe()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    # A session of its own: the kernel's automatic group of the worker's is about to step back as a whole.
    os.setsid()
    with contextlib.suppress(EOFError, OSError):
        ending = theirs.recv()
        line.send(Done(complete(ending, lambda kind, text: line.send(Trouble(kind, text)))))
    os._exit(0)


def yield_to_training() -> None:
    """Take the lowest priority, among all processes and not only within this session."""
    with contextlib.suppress(OSError):
        os.nice(19)
    # With automatic groups the kernel weighs sessions, not processes: without this, ours would get half a processor.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19", "ascii")


def main() -> None:
    """Serve the training process that started this one; see `link`."""
    line_file, ring_file, parent = (int(argument) for argument in sys.argv[1:4])
    line: Connection[Reply, Order | Open] = Connection(line_file)
    finisher = fork_finisher(line)
    yield_to_training()
    Worker(line, ring_file, parent, finisher).run()


if __name__ == "__main__":
    main()
