"""Compares the ranks of a distributed training while the worker of rank 0 stores its rows."""

import time
from collections.abc import Callable

from streamscalar.errors import StreamscalarError
from streamscalar.store import RankWatch, Store

CHECK_EVERY_S = 1.0
"""Seconds between two comparisons."""

LEAST_STEPS = 3
"""Number of steps that a rank has written from which it is said that it was never compared."""


class RankCheck:
    """Reports the first rank that differs from the others.

    Parameters
    ----------
    store
        The store of the run.
    report
        Takes the kind of a problem, and a sentence.
    is_new
        Whether the job starts now, so that the sessions of the run are those of earlier jobs; otherwise the newest one
        is its own.

    Attributes
    ----------
    drifted : str
        What differed first, as one sentence; empty as long as nothing does.
    """

    def __init__(self, store: Store, report: Callable[[str, str], None], *, is_new: bool) -> None:
        self._store = store
        self._report = report
        self._is_new = is_new
        self._known: set[str] = set()
        self._watches: dict[str, RankWatch] = {}
        self._checked_s = -CHECK_EVERY_S
        self.drifted = ""

    def open(self, run_id: str) -> None:
        """Leave out the sessions of earlier jobs that recorded a run."""
        if self._is_new:
            self._known = set(self._store.reader(run_id).rank_watch().sessions())

    def check(self, run_id: str, *, is_over: bool = False) -> bool:
        """Compare the ranks unless that was done a moment ago; return whether one differs for the first time."""
        now_s = time.monotonic()
        if self.drifted or (now_s - self._checked_s < CHECK_EVERY_S and not is_over):
            return False
        self._checked_s = now_s
        try:
            if run_id not in self._watches:
                reader = self._store.reader(run_id)
                known = self._known if self._is_new else reader.rank_watch().sessions()[:-1]
                self._watches = {run_id: reader.rank_watch(known)}
            watch = self._watches[run_id]
            watch.update(is_over=is_over)
        except (OSError, StreamscalarError) as error:
            self._report("ranks", f"ranks are not compared: {error}")
            return False
        lonely = [state.rank for state in watch.states() if state.n_written >= LEAST_STEPS and not state.n_compared]
        if is_over and lonely:
            why = "the others have written nothing, or call step differently"
            self._report("ranks", f"rank {lonely[0]} was compared with no other rank: {why}")
        found = [drift for drifts in watch.drifts() for drift in drifts]
        if not found:
            return False
        self.drifted = str(min(found, key=lambda drift: drift.step))
        self._report("ranks drifted", self.drifted)
        return True
