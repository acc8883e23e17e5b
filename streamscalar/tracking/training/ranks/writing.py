"""Writes what a rank records from a thread, so that the training does not wait for a file system."""

import queue
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.ranks.meeting import Place

FIND_S = 60.0
"""Time after the first item within which the folder to write to must be there."""

CLOSE_S = 10.0
"""Time that `close` waits for the thread."""

_POLL_S = 0.05

Item = TypeVar("Item")


class Writer(ABC, Generic[Item]):
    """Writes the items of one rank to a folder; called from the thread alone."""

    @abstractmethod
    def open(self, place: Place) -> None:
        """Begin to write to a folder."""

    @abstractmethod
    def write(self, item: Item) -> None:
        """Write one item."""

    @abstractmethod
    def close(self) -> None:
        """Close what `open` opened."""


class WriterThread(Generic[Item]):
    """Hands items to a writer once the folder is known; drops them while the file system does not keep up.

    Parameters
    ----------
    find
        Returns where to write, and `None` as long as that is not known.
    writer
        Writes the items.
    n_waiting
        Maximum number of items that wait.
    about
        What is written, as the subject of a sentence.
    notices
        Receives problems.

    Attributes
    ----------
    has_failed : bool
        Whether nothing is written any more.
    """

    def __init__(
        self, find: Callable[[], Place | None], writer: Writer[Item], n_waiting: int, about: str, notices: Notices
    ) -> None:
        self._find = find
        self._writer = writer
        self._about = about
        self._notices = notices
        self._waiting: queue.Queue[Item | None] = queue.Queue(n_waiting)
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.has_failed = False

    def put(self, item: Item) -> None:
        """Queue an item."""
        if self.has_failed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="streamscalar ranks", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._notices.warn("ranks", f"{self._about} misses steps: the file system is too slow")

    def close(self) -> None:
        """Write what waits, for a limited time."""
        self._is_closing.set()
        if self._thread is not None:
            try:
                self._waiting.put(None, timeout=CLOSE_S)
            except queue.Full:
                return
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            place = self._place()
            if place is None:
                self.has_failed = True
                return
            self._writer.open(place)
            try:
                while (item := self._waiting.get()) is not None:
                    self._writer.write(item)
            finally:
                self._writer.close()
        except Exception as error:  # noqa: BLE001  (no error may leave a thread of the training process)
            self.has_failed = True
            self._notices.failed(f"{self._about} has stopped", error)

    def _place(self) -> Place | None:
        """Wait for the folder; warn and return `None` if it does not come."""
        until_s, is_closing = time.monotonic() + FIND_S, False
        place = None
        while time.monotonic() < until_s:
            place = place or self._find()
            if place is not None and place.folder.is_dir():
                return place
            if self._is_closing.is_set() and not is_closing:
                until_s, is_closing = min(until_s, time.monotonic() + CLOSE_S / 2), True
            time.sleep(_POLL_S)
        where = "the folder of the run, which rank 0 did not announce" if place is None else str(place.folder)
        fix = "use a store on a file system that all hosts share"
        text = f"{self._about} is not written: {socket.gethostname()} does not see {where}; {fix}"
        self._notices.warn("ranks", text)
        return None
