"""One writer per stream in a bucket: what `streamscalar.store.media.folder_fence` is for a folder, without a lock.

The attributes of a stream's group (its commit point) hold the newest attempt and a mark that only its writer has.
A claim and every commit replace that object under the condition that it still is the version that this writer wrote
last. The chain of versions therefore belongs to one writer, and a claim breaks it for every older one.

Chunks come before the commit, and nothing binds them to it. So a writer (1) creates a chunk where there is none;
(2) replaces one that is there only after it has read its version and then verified that it still owns the stream; and
(3) writes bytes that no other attempt can write, by its mark in a gap of each chunk's file. A chunk of a newer
attempt is therefore safe: an older writer could have read its version only after the claim, when (2) stops it. Without
the marks this would not hold, as a version in S3 is a checksum of the content, and a content may come back.

Rejected: commits of Icechunk. A store is a log of many streams, two per run, each with one writer and its own
publication point. An Icechunk commit covers one snapshot of a whole repository, so every stream of every run would
contend for one branch head. Measured on a local disk, it was no faster.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from streamscalar.errors import WorkFailed
from streamscalar.store.media.files import group_bytes
from streamscalar.store.media.folder_fence import fenced
from streamscalar.store.media.objects import Changed, ObjectPath

_ATTEMPTS = 20


class BucketFence:
    """An attempt number, claimed as the newest, and the right to write while it is.

    Parameters
    ----------
    group
        Zarr group whose attributes hold the stream's length.
    context
        Run and stream, for messages.

    Attributes
    ----------
    attempt, before : int
        This attempt, and the newest one before it.
    mark : bytes
        Twelve bytes that only this writer puts into its files.
    attributes : dict
        The attributes as this writer last read or wrote them.

    Raises
    ------
    WorkFailed
        Other writers keep claiming the stream.
    """

    def __init__(self, group: ObjectPath, context: str) -> None:
        self._path = group / "zarr.json"
        self._context = context
        self.mark = secrets.token_bytes(12)
        for _ in range(_ATTEMPTS):
            data, version = self._path.read()
            self.attributes: dict[str, Any] = json.loads(data)["attributes"]
            self.before = int(self.attributes["attempt"])
            self.attempt = self.before + 1
            self.attributes |= {"attempt": self.attempt, "writer": self.mark.hex()}
            try:
                self._version = self._path.replace(group_bytes(self.attributes), version)
            except Changed:
                continue
            return
        raise WorkFailed("stream", "is claimed by other writers all the time", context=context)

    def check(self) -> None:
        """Raise `Fenced` where a newer attempt exists; one request."""
        attributes = json.loads(self._path.read_bytes())["attributes"]
        if attributes.get("writer") != self.mark.hex():
            raise fenced(self._context, self.attempt, attributes["attempt"])

    def put(self, path: ObjectPath, data: bytes) -> None:
        """Write a file of the stream; one request, or three where an older attempt left one there.

        Raises
        ------
        Fenced
            A file is there and a newer attempt owns the stream; nothing was changed.
        """
        try:
            path.create(data)
        except FileExistsError:
            self._take_over(path, data)

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Make the stream's new attributes visible; one request.

        Raises
        ------
        Fenced
            A newer attempt owns the stream; nothing was changed.
        """
        wanted = {**attributes, "attempt": self.attempt, "writer": self.mark.hex()}
        data = group_bytes(wanted)
        for _ in range(_ATTEMPTS):
            try:
                self._version = self._path.replace(data, self._version)
            except Changed:
                self.check()
                # An earlier commit of this writer, whose response was lost.
                self._version = self._path.read()[1]
                continue
            self.attributes = json.loads(data)["attributes"]
            return
        raise WorkFailed("stream", "cannot be committed", "a new version each time", context=self._context)

    def _take_over(self, path: ObjectPath, data: bytes) -> None:
        for _ in range(_ATTEMPTS):
            version = path.version()
            # After the version was read, never before it: see the module's docstring.
            self.check()
            try:
                if version is None:
                    path.create(data)
                else:
                    path.replace(data, version)
            except (FileExistsError, Changed):
                continue
            return
        raise WorkFailed(str(path), "keeps changing while it is written", context=self._context)
