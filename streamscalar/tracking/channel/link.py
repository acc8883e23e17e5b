"""The training's end of the line to its worker process, which is started again where it dies."""

import contextlib
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

import numpy as np
from numpy.typing import NDArray

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
    Trouble,
)
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.notices import Notices

MAX_RESTARTS = 3
"""Times that a worker is started again; whatever kills it so often would kill the next one too."""

START_S = 120.0
"""How long a worker may take to answer for the first time: imports on a busy machine, and a store on a slow disk."""

FINISH_S = 600.0
"""How long `finish` waits for the exact solution; the worker goes on by itself after that."""

_ROOT = str(Path(streamscalar.__file__).parents[1])
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Link:
    """Sends orders to the worker without ever waiting for it.

    Orders are kept until they are carried out, so a new worker takes up what its predecessor left. A slot is free when
    no order is kept for it; there are no more orders under way than slots, so the line never fills.

    Parameters
    ----------
    ring
        Where rows lie.
    request
        What every worker is told first.
    notices
        Hears of trouble.

    Attributes
    ----------
    run_id : str
        Name of the run, once started.
    n_restarts : int
        Times that a worker was started again.
    """

    def __init__(self, ring: Ring, request: Open, notices: Notices) -> None:
        self._ring = ring
        self._request = request
        self._notices = notices
        self._lock = threading.Lock()
        self._kept: deque[Begin | Row] = deque()
        self._is_up = False
        self._restarter: threading.Thread | None = None
        self._n_heard = 0
        self._n_orders = 0
        self.is_down = False
        self.run_id = ""
        self.n_restarts = 0

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def start(self) -> Opened:
        """Start the first worker and wait until it is ready.

        Raises
        ------
        BadCall
            What was asked for cannot be opened.
        WorkFailed, OSError
            The worker does not start.
        """
        opened = self._spawn(self._request)
        self.run_id = opened.run_id
        self._is_up = True
        return opened

    def free_slots(self) -> set[int]:
        """Return the slots that may be filled; where there is none, see whether the worker still lives."""
        with self._lock:
            self._forget_done()
            free = set(range(self._request.n_slots)) - {x.slot for x in self._kept if isinstance(x, Row)}
            if not free and self._is_up and self._process.poll() is not None:
                self._begin_restart()
        return free

    def begin(self, metrics: tuple[str, ...], fork_step: int | None) -> None:
        """Have the run begun, or a child of it."""
        self._send(Begin(self._n_orders, metrics, fork_step))

    def put(self, slot: int, step: int, metrics: NDArray[np.float64], facts: Facts) -> None:
        """Have the row in `slot` stored."""
        self._send(Row(self._n_orders, slot, step, metrics.tobytes(), facts))

    def _send(self, order: Begin | Row) -> None:
        self._n_orders += 1
        with self._lock:
            self._kept.append(order)
            if self._is_up:
                self._write(order)

    def hear(self) -> None:
        """Take what the worker has said, if anything."""
        said = int(self._ring.counts[Ring.SAID])
        if said == self._n_heard or not self._is_up:
            return
        self._n_heard = said
        self._read_all(self._line)

    def finish(self, order: FinishRun) -> str:
        """Have everything stored and wait for it; return what went wrong, empty where nothing did."""
        until = time.monotonic() + FINISH_S
        while time.monotonic() < until:
            if self._restarter is not None:
                self._restarter.join(until - time.monotonic())
            if self.is_down:
                return "its worker died too often; the run can be resumed"
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
        return "its worker is still at it, and ends by itself"

    def close(self) -> None:
        """Close the line; a worker that still lives ends by itself."""
        if self.is_down:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(AttributeError, OSError):
            self._line.close()
        self._ring.close()

    def _spawn(self, request: Open) -> Opened:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        arguments = [str(theirs.fileno()), str(self._ring.file), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                # Without the current folder on its path: a file there may be named like a module that it imports.
                [sys.executable, "-P", "-m", "streamscalar.tracking.worker.main", *arguments],
                pass_fds=(theirs.fileno(), self._ring.file),
                stdin=subprocess.DEVNULL,
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
            # `Connection.send` makes a pickler of Python's own for every message, three times as slow.
            self._line.send_bytes(pickle.dumps(order, pickle.HIGHEST_PROTOCOL))
        except OSError:
            self._begin_restart()

    def _begin_restart(self) -> None:
        """Start a new worker off the training's thread; the lock is held."""
        if self.is_down or (self._restarter is not None and self._restarter.is_alive()):
            return
        self._is_up = False
        if self.n_restarts == MAX_RESTARTS:
            self.is_down = True
            self._notices.say("worker down", f"run {self.run_id}: the worker died too often; nothing more is recorded")
            return
        self.n_restarts += 1
        self._notices.say("worker", f"run {self.run_id}: the worker process died and is started again")
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
            except Exception as error:  # noqa: BLE001  (no error may come out of a thread of the training's process)
                if self.n_restarts == MAX_RESTARTS:
                    self.is_down = True
                    self._notices.say("worker down", f"run {self.run_id}: nothing more is recorded: {error}")
                    return
                self.n_restarts += 1
        with self._lock:
            self._forget_done()
            self._is_up = True
            for order in self._kept:
                with contextlib.suppress(OSError):
                    self._line.send(order)

    def _forget_done(self) -> None:
        """Drop the orders that were carried out; the lock is held."""
        n_done = int(self._ring.counts[Ring.DONE])
        while self._kept and self._kept[0].number < n_done:
            self._kept.popleft()

    def _read_all(self, line: "Connection[Order | Open, Reply]") -> None:
        with contextlib.suppress(EOFError, OSError):
            while line.poll(0):
                self._take(line.recv())

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, Named):
            self._notices.say("fork", f"training went back: from here on run {self.run_id} has a child, {reply.run_id}")
            self.run_id = reply.run_id
        elif isinstance(reply, Trouble):
            self._notices.say(reply.kind, f"run {self.run_id}: {reply.text}")
