"""How the ranks of one job find the folder of their streams: through the store that their process group already has.

It is a table of keys that all ranks of a job, and no other job, can read; writing and asking are no collectives, and
wait for no one. A restarted or resumed job has another one.
"""

import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_n_calls: Counter[str] = Counter()
"""Number of calls of `track` for each run, so that the second of a job meets the second of another rank."""


@dataclass(frozen=True)
class Place:
    """Where the ranks of a job write.

    Attributes
    ----------
    folder
        Folder of the streams, with a name that no other job has.
    newest
        Step after which rank 0 counts on.
    """

    folder: Path
    newest: int


class Meeting:
    """Announces the folder on rank 0, and finds it on the others.

    Parameters
    ----------
    purpose
        What is written there.
    group, name
        As passed to `track`.
    """

    def __init__(self, purpose: str, group: str, name: str | None) -> None:
        about = f"{purpose}/{group}/{name or ''}"
        _n_calls[about] += 1
        self._key = f"streamscalar/{about}/{_n_calls[about]}"
        self._store: Any = _store()

    def announce(self, place: Place) -> None:
        """Publish where the other ranks write."""
        # The store is not kept: its port stays taken as long as it is.
        store, self._store = self._store, None
        if store is not None:
            store.set(self._key, json.dumps([str(place.folder), place.newest]))

    def find(self) -> Place | None:
        """Return what rank 0 announced; `None` if it has not yet."""
        if self._store is None or not self._store.check([self._key]):
            return None
        folder, newest = json.loads(self._store.get(self._key))
        self._store = None
        return Place(Path(folder), newest)


def session_name() -> str:
    """Return a name that no other job has, and that sorts by time."""
    return f"{time.time_ns():020d}-{os.urandom(4).hex()}"


def _store() -> Any:
    """Return the store of the process group; `None` where there is none."""
    try:
        return torch.distributed.distributed_c10d._get_default_store()
    except (AttributeError, KeyError, ValueError, RuntimeError):
        return None
