"""Requests to the executor of an experiment: one small file each, never changed, in order of time.

In the store they reach a coordinator on any machine, outlive it, and apply when the experiment is resumed.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from streamscalar.store.media.files import json_bytes, plain, storage_errors
from streamscalar.store.media.medium import Medium
from streamscalar.store.media.objects import Place

_SUFFIX = ".json"


def write_request(store: Place, medium: Medium[Any], document: Mapping[str, Any]) -> str:
    """Write a request durably; return its name."""
    folder = store / "requests"
    name = f"{time.time_ns():020d}-{os.urandom(4).hex()}"
    with storage_errors(folder):
        medium.create(folder / f"{name}{_SUFFIX}", json_bytes(plain(document)))
    return name


def read_requests(store: Place, medium: Medium[Any], known: set[str]) -> list[dict[str, Any]]:
    """Return the requests whose names are not yet `known`, oldest first, and add their names to it."""
    folder = store / "requests"
    new = [name for name in medium.names(folder) if name.endswith(_SUFFIX) and name not in known]
    known.update(new)
    return [json.loads(data) for data in medium.read_all(folder / name for name in new)]
