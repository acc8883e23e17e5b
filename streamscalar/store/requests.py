"""Wishes left in a store for whoever runs its experiment: one small file each, never changed, in order of time.

So they reach a coordinator on any machine, outlive it, and hold for whoever resumes the experiment.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from streamscalar.store.media.files import json_bytes, plain, storage_errors, write_durable
from streamscalar.store.media.objects import ObjectPath, Place, fetch

_SUFFIX = ".json"


def write_request(store: Place, document: Mapping[str, Any]) -> str:
    """Leave a wish durably; return its name."""
    folder = store / "requests"
    name = f"{time.time_ns():020d}-{os.urandom(4).hex()}"
    data = json_bytes(plain(document))
    if isinstance(folder, ObjectPath):
        (folder / f"{name}{_SUFFIX}").create(data)
        return name
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        write_durable(folder / f"{name}{_SUFFIX}", data)
    return name


def read_requests(store: Place, known: set[str]) -> list[dict[str, Any]]:
    """Return the wishes whose names are not yet `known`, oldest first, and add their names to it."""
    folder = store / "requests"
    if isinstance(folder, ObjectPath):
        names = folder.names()
    else:
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(_SUFFIX))
        except FileNotFoundError:
            return []
    new = [name for name in names if name not in known]
    known.update(new)
    if isinstance(folder, ObjectPath):
        return [json.loads(data) for data in fetch(folder / name for name in new)]
    return [json.loads((folder / name).read_bytes()) for name in new]
