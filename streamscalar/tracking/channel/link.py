"""The connection of the training process to its worker, which is restarted if it dies."""

import contextlib
import math
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import streamscalar
from streamscalar.errors import Kind, WorkFailed
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
    Wake,
)
from streamscalar.tracking.channel.ring import Ring, above_standard
from streamscalar.tracking.notices import Notices

MAX_RESTARTS = 3
"""Maximum number of restarts: what kills a worker more often would kill the next one too."""

START_S = 120.0
"""Timeout of the first answer of a worker: imports on a busy machine, and a store on a slow disk."""

FIRST_ROWS_S = 10.0
"""Time that a row of a stride that was asked for waits for the worker to create the run; no later row waits for it."""

FINISH_S = 600.0
"""Time that `finish` waits for the exact solution; the worker continues after it."""

_CPU_CLOCK = 2
"""Lowest bits of the clock of another process on Linux, see clock_getcpuclockid(3)."""

_ROOT = str(Path(streamscalar.__file__).parents[1])
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Link:
    """Sends orders to the worker without waiting for it.

    Orders are kept until they are carried out, so that a new worker continues where the previous one stopped. A slot is
    free when no kept order uses it; at most two orders are in transit for each slot, so the socket never blocks.

    Parameters
    ----------
    ring
        Shared memory of the rows.
    request
        First message to every worker.
    notices
        Receives problems.
    holds_first_rows
        Whether `free_slots` waits for a slot while the ring is filled for the first time.

    Attributes
    ----------
    run_id : str
        Name of the run, once the worker has started.
    n_restarts : int
        Number of restarts of the worker.
    """

    def __init__(self, ring: Ring, request: Open, notices: Notices, *, holds_first_rows: bool = False) -> None:
        self._holds_first_rows = holds_first_rows
        self._ring = ring
        self._request = request
        self._notices = notices
        self._lock = threading.Lock()
        self._kept: deque[Begin | Row | Settle] = deque()
        self._is_up = False
        self._restarter: threading.Thread | None = None
        self._n_received = 0
        self._n_orders = 0
        self.is_down = False
        self.run_id = ""
        self.n_restarts = 0

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def worker_cpu_s(self) -> float:
        """Return the CPU time of the worker so far, in seconds; NaN where the system does not say. Takes 1 us."""
        try:
            return time.clock_gettime((~self._process.pid << 3) | _CPU_CLOCK)
        except OSError:
            return math.nan

    def start(self) -> Opened:
        """Start the first worker and wait until it is ready.

        Raises
        ------
        BadCall
            The requested run cannot be opened.
        WorkFailed, OSError
            The worker does not start.
        """
        opened = self._spawn(self._request)
        self.run_id = opened.run_id
        self._is_up = True
        return opened

    @property
    def n_lost(self) -> int:
        """Number of rows that were not stored: failed ones, and those that wait for a worker that was given up."""
        with self._lock:
            self._forget_done()
            waiting = sum(isinstance(order, Row) for order in self._kept) if self.is_down else 0
        return int(self._ring.counts[Ring.LOST]) + waiting

    def free_slots(self) -> set[int]:
        """Return the free slots; if there is none, check that the worker is alive.

        The worker creates the run with the first row, which takes longer than a row: rows of a stride that was asked
        for wait for it.
        """
        free = self._free_slots()
        until = time.monotonic() + FIRST_ROWS_S
        while not free and self._is_filling and not self.is_down and time.monotonic() < until:
            time.sleep(0.002)
            free = self._free_slots()
        self._holds_first_rows &= bool(free)
        return free

    @property
    def _is_filling(self) -> bool:
        """Whether a row has to wait, because the worker has not stored as many rows yet as the ring holds."""
        return self._holds_first_rows and int(self._ring.counts[Ring.STORED]) <= self._request.n_slots

    def _free_slots(self) -> set[int]:
        with self._lock:
            self._forget_done()
            free = set(range(self._request.n_slots)) - {x.slot for x in self._kept if isinstance(x, Row)}
            if not free and self._is_up and self._process.poll() is not None:
                self._begin_restart()
        return free

    def begin(self, run: int, metrics: tuple[str, ...], fork_step: int | None) -> None:
        """Send the order to start the run, or a child of it."""
        self._send(Begin(self._n_orders, run, metrics, fork_step))

    def wake(self) -> None:
        """Let the worker take the values of the ring now."""
        with self._lock:
            if self._is_up:
                self._write(Wake())

    def put(self, slot: int, step: int, facts: Facts) -> None:
        """Send the order to store the row in `slot`."""
        self._send(Row(self._n_orders, slot, step, facts))

    def settle(self, step: int) -> None:
        """Send the order that marks the slot of a row as complete."""
        self._send(Settle(self._n_orders, step))

    def _send(self, order: Begin | Row | Settle) -> None:
        self._n_orders += 1
        with self._lock:
            self._kept.append(order)
            if self._is_up:
                self._write(order)

    def receive(self) -> None:
        """Process the replies of the worker, if there are any."""
        said = int(self._ring.counts[Ring.SAID])
        if said == self._n_received or not self._is_up:
            return
        self._n_received = said
        self._read_all(self._line)

    def finish(self, order: FinishRun) -> str:
        """Wait until everything is stored; return what went wrong, empty if nothing did."""
        until = time.monotonic() + FINISH_S
        while time.monotonic() < until:
            if self._restarter is not None:
                self._restarter.join(until - time.monotonic())
            if self.is_down:
                return "the worker died too often; resume the run with resume='allow'"
            try:
                self._line.send(order)
                while self._line.poll(max(0.0, until - time.monotonic())):
                    reply = self._line.recv()
                    if isinstance(reply, Done):
                        self._process.wait(max(0.0, until - time.monotonic()))
                        return reply.trouble
                    self._take(reply)
            except (EOFError, OSError, subprocess.TimeoutExpired):
                with self._lock:
                    self._begin_restart()
        return "the worker is still storing it, and will end by itself"

    def close(self) -> None:
        """Close the connection; a worker that is still alive ends by itself."""
        if self.is_down:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(AttributeError, OSError):
            self._line.close()
        self._ring.close()

    def _spawn(self, request: Open) -> Opened:
        ours, theirs = (socket.socket(fileno=above_standard(one.detach())) for one in socket.socketpair())
        # The kernel grants less where its own limit is lower, which still holds two orders for each slot.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        path = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        arguments = [str(theirs.fileno()), str(self._ring.file), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                # -P keeps the current folder off the path: a file there may shadow a module that the worker imports.
                [sys.executable, "-P", "-m", "streamscalar.tracking.worker.main", *arguments],
                pass_fds=(theirs.fileno(), self._ring.file),
                stdin=subprocess.DEVNULL,
                stdout=_stream(1),
                stderr=_stream(2),
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                start_new_session=True,
            )
        finally:
            theirs.close()
        self._line: Connection[Order | Open, Reply] = Connection(ours.detach())
        try:
            self._line.send(request)
            while self._line.poll(START_S):
                reply = self._line.recv()
                if isinstance(reply, Opened):
                    return reply
                if isinstance(reply, Refused):
                    self._process.wait()
                    raise reply.error
                self._take(reply)
        except EOFError:
            self._process.wait()
        self._process.kill()
        self._process.wait()
        raise WorkFailed("worker", "does not start", f"exit status {self._process.returncode}", kind=Kind.RUN_FAILED)

    def _write(self, order: Order) -> None:
        try:
            # `Connection.send` creates a pickler in Python for every message, which is three times as slow.
            self._line.send_bytes(pickle.dumps(order, pickle.HIGHEST_PROTOCOL))
        except OSError:
            self._begin_restart()

    def _begin_restart(self) -> None:
        """Start a new worker in a thread; the caller holds the lock."""
        if self.is_down or (self._restarter is not None and self._restarter.is_alive()):
            return
        self._is_up = False
        if self.n_restarts == MAX_RESTARTS:
            self.is_down = True
            self._notices.warn("worker down", f"run {self.run_id}: the worker died too often; recording has stopped")
            return
        self.n_restarts += 1
        self._notices.warn("worker", f"run {self.run_id}: the worker process died and is restarted")
        self._restarter = threading.Thread(target=self._restart, name="streamscalar restart", daemon=True)
        self._restarter.start()

    def _restart(self) -> None:
        while True:
            try:
                self._process.kill()
                self._process.wait()
                self._read_all(self._line)
                self._line.close()
                self._spawn(replace(self._request, attach=self.run_id))
                break
            except Exception as error:  # noqa: BLE001  (no error may leave a thread of the training process)
                if self.n_restarts == MAX_RESTARTS:
                    self.is_down = True
                    self._notices.warn("worker down", f"run {self.run_id}: recording has stopped: {error}")
                    return
                self.n_restarts += 1
        with self._lock:
            self._forget_done()
            self._is_up = True
            for order in self._kept:
                with contextlib.suppress(OSError):
                    self._line.send(order)

    def _forget_done(self) -> None:
        """Drop the orders that were carried out; the caller holds the lock."""
        n_done = int(self._ring.counts[Ring.DONE])
        while self._kept and self._kept[0].number < n_done:
            self._kept.popleft()

    def _read_all(self, line: "Connection[Order | Open, Reply]") -> None:
        with contextlib.suppress(EOFError, OSError):
            while line.poll(0):
                self._take(line.recv())

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, Named):
            self._notices.warn(
                "fork", f"training went back to a recorded step: run {self.run_id} now has a child, {reply.run_id}"
            )
            self.run_id = reply.run_id
        elif isinstance(reply, Trouble):
            self._notices.warn(reply.kind, f"run {self.run_id}: {reply.text}")


def _stream(file: int) -> int | None:
    """Return what a worker inherits as a standard stream: that of this process, unless it is closed."""
    try:
        os.fstat(file)
    except OSError:
        return subprocess.DEVNULL
    return None
