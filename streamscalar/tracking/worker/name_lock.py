"""Locks of run names: several processes may record into one store at the same time."""

import fcntl
import os
from pathlib import Path
from typing import Self


class NameLock:
    """Lock of the name of a run, held by one process of this machine until it releases it or ends."""

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    def take(cls, store: Path, run_id: str) -> Self | None:
        """Lock a name; returns `None` where another process holds it."""
        folder = store / "tracking"
        folder.mkdir(exist_ok=True)
        file = os.open(folder / f"{run_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return cls(file)

    def release(self) -> None:
        """Release the name."""
        os.close(self._file)
