"""Embeds the blocks of a tracked run beside the storing of its rows."""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from streamscalar.workers.embedder import Embedder

Report = Callable[[str, str], None]
"""Takes the kind of a problem, and a sentence."""


class EmbeddingThread:
    """Embeds blocks in a thread, so that rows do not wait for it.

    Parameters
    ----------
    embedder
        Embeds the blocks.
    report
        Receives problems.
    """

    def __init__(self, embedder: Embedder, report: Report) -> None:
        self.embedder = embedder
        self._report = report
        # At most one block waits: the embedder reads blocks that it did not receive from the store.
        self._blocks: queue.Queue[tuple[str, int, NDArray[Any]]] = queue.Queue(1)
        threading.Thread(target=self._embed, name="embed", daemon=True).start()

    def push(self, run_id: str, first: int, block: NDArray[Any]) -> None:
        """Queue a block; if the queue is full, it is embedded with a later one."""
        with contextlib.suppress(queue.Full):
            self._blocks.put_nowait((run_id, first, block))

    def drain(self) -> None:
        """Wait until all queued blocks are embedded."""
        self._blocks.join()

    def _embed(self) -> None:
        while True:
            run_id, first, block = self._blocks.get()
            try:
                self.embedder.embed(run_id, first, block)
            except Exception as error:  # noqa: BLE001  (the embedding can be repeated; storing rows comes first)
                self.embedder.forget(run_id)
                self._report("embedding", f"run {run_id} is not embedded yet; a later block retries: {error}")
            finally:
                self._blocks.task_done()
