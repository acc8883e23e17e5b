"""A reader that polls a store while it is written."""

import threading
import time
from pathlib import Path
from typing import Self

from streamscalar import Experiment
from streamscalar.errors import StreamscalarError
from streamscalar.store import Store

SHARE = 0.05
"""Share of a core that a polling reader takes at most: it must not slow down what it watches."""


class PollingReader(threading.Thread):
    """Polls a store; every row it reads must be the bits of the finished, uninterrupted one."""

    def __init__(self, store: Path, truth: Experiment) -> None:
        super().__init__(daemon=True)
        self._store, self._truth = store, truth
        readers = {name: truth.store.reader(name) for name in truth.runs}
        self._expected = {name: reader.weights(0, reader.n_rows) for name, reader in readers.items()}
        self._over = threading.Event()
        self.n_polls = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        seen: dict[str, int] = {}
        rest_s = 0.05
        while not self._over.wait(rest_s):
            began = time.thread_time()
            try:
                store = Store.open(self._store)
            except StreamscalarError:
                continue
            for name in store.run_ids():
                reader = store.reader(name)
                n = reader.n_rows
                first = max(0, n - 20)
                rows = reader.weights(first, n)
                if n < seen.get(name, 0):
                    self.wrong.append(f"{name}: {seen[name]} rows were acknowledged, {n} are left")
                seen[name] = n
                if self._expected[name][first:n].tobytes() != rows.tobytes():
                    self.wrong.append(f"{name}: torn or phantom rows among {first} to {n - 1}")
                self.n_polls += 1
            rest_s = max(0.05, (time.thread_time() - began) * (1 / SHARE - 1))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self.join()
        if kind is None:
            self.finish()

    def finish(self) -> None:
        self._over.set()
        self.join()
        assert self.n_polls > 0
        assert self.wrong == []
