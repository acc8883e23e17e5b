"""Write the logged values of a run: a part of the weights stream, with its writer and its commit point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from streamscalar.errors import WorkFailed
from streamscalar.store.format.arrays import StoredArray, stored_document
from streamscalar.store.logged.log import Entries, Series, ValuesLog, ValuesLogReader, remove_published
from streamscalar.store.logged.reader import read_series
from streamscalar.store.media.files import fsync_path, group_bytes, json_bytes
from streamscalar.store.media.medium import Stream
from streamscalar.store.media.objects import Place
from streamscalar.store.media.publication import Publication
from streamscalar.store.schema import LOGGED_CHUNK, RunFiles, RunSpec
from streamscalar.store.wal import Fsync


@dataclass(frozen=True)
class Part:
    """Entries to be published, from index `first` on: whole chunks, or the last ones of a run."""

    first: int
    entries: Entries


class LoggedWriter:
    """Appends logged values; part of a `WeightsWriter`, which publishes them and whose thread calls this.

    Entries are written to the log and are then acknowledged. Memory holds those that are not published: less than two
    chunks and the largest batch.

    Parameters
    ----------
    files, spec
        The run.
    stream
        The weights stream, claimed.
    fsync
        As in `WeightsWriter`.

    Attributes
    ----------
    n_durable : int
        Entries acknowledged so far by any attempt; the index of the next one.
    """

    def __init__(self, files: RunFiles[Place], spec: RunSpec, stream: Stream[Any], fsync: Fsync) -> None:
        self._files = files
        self._stream = stream
        self._documents = spec.logged_arrays()
        self._context = f"run {spec.run_id}"
        self._log = ValuesLog(stream.log, stream.fence, fsync)
        attributes = stream.attributes()
        self._first = int(attributes.get("logged", 0))
        self._mapping: tuple[tuple[Series, ...], NDArray[np.int32]] = (), np.empty(0, np.int32)
        self._arrays: dict[str, StoredArray] = {}
        self._n_named = 0
        published = read_series(files) if self._first else ()
        remove_published(stream.log, self._first, complete=bool(attributes["complete"]))
        self._pending: list[Entries] = []
        found = Entries.joined([])
        if not attributes["complete"]:
            log = ValuesLogReader(stream.log)
            if fsync != "none":
                for path in log.paths():
                    fsync_path(path)
            found = log.entries(self._first, published)
            published = found.series
        self._table = {series: index for index, series in enumerate(published)}
        self._series: tuple[Series, ...] = published
        if len(found):
            self._pending.append(found)
        self.n_durable = self._first + len(found)

    @property
    def has_full_chunk(self) -> bool:
        """Whether there is a chunk to publish."""
        return self.n_durable - self._first >= LOGGED_CHUNK - self._first % LOGGED_CHUNK

    def append(self, first: int, entries: Entries) -> None:
        """Write entries to the log; they are acknowledged when this returns.

        Parameters
        ----------
        first
            Index in the run of the first one, at most `n_durable`; those that are there already are skipped.
        entries
            Their series are those of the caller, who only adds to them.
        """
        if first > self.n_durable:
            raise WorkFailed("logged", f"needs entry {self.n_durable} next", f"entry {first}", context=self._context)
        new = entries[self.n_durable - first :]
        if not len(new):
            return
        n_known = len(self._table)
        own = self._own(new)
        self._log.append(self.n_durable, own, n_known)
        self._pending.append(own)
        self.n_durable += len(own)

    def take(self, *, is_last: bool = False) -> Part | None:
        """Return the full chunks, or with `is_last` all entries, to be published; `None` for none."""
        stop = self.n_durable if is_last else self.n_durable // LOGGED_CHUNK * LOGGED_CHUNK
        n = stop - self._first
        if n <= 0:
            return None
        pending = Entries.joined(self._pending)
        part = Part(self._first, pending[:n])
        self._pending = [pending[n:]] if n < len(pending) else []
        self._first = stop
        return part

    def put(self, publication: Publication, part: Part) -> dict[str, Any]:
        """Add entries to a publication; return the attributes of the stream that they change."""
        arrays = self._open_arrays()
        for name, values in zip(self._documents, part.entries.columns.values(), strict=True):
            publication.put(arrays[name], part.first, values)
        series = part.entries.series
        if len(series) != self._n_named:
            # The attempt makes the content unique: see `streamscalar.store.media.bucket_fence`.
            attributes = series_attributes(series) | {"attempt": self._stream.attempt}
            publication.put_file(self._files.logged / "zarr.json", group_bytes(attributes))
            self._n_named = len(series)
        return {"logged": part.first + len(part.entries)}

    def end(self, publication: Publication, attributes: Mapping[str, Any]) -> None:
        """Declare that there will be no further entries."""
        if attributes.get("logged"):
            for array in self._open_arrays().values():
                publication.end(array, attributes["logged"])

    def remove_published(self, attributes: Mapping[str, Any]) -> None:
        """Delete the write-ahead files that are not needed any more."""
        remove_published(self._stream.log, attributes.get("logged", 0), complete=attributes["complete"])

    def _own(self, entries: Entries) -> Entries:
        """Return entries with the series of the run, to which those that they use are added."""
        theirs, mapping = self._mapping
        if theirs != entries.series[: len(theirs)]:
            mapping = np.empty(0, np.int32)
        mapping = np.concatenate([mapping, np.full(len(entries.series) - len(mapping), -1, np.int32)])
        used = np.flatnonzero(np.bincount(entries.which, minlength=len(mapping)))
        for index in used[mapping[used] < 0].tolist():
            mapping[index] = self._table.setdefault(entries.series[index], len(self._table))
        self._mapping = entries.series, mapping
        if len(self._series) != len(self._table):
            # One tuple for all pending entries until there is another name.
            self._series = tuple(self._table)
        return Entries(self._series, entries.steps, mapping[entries.which], entries.values)

    def _open_arrays(self) -> dict[str, StoredArray]:
        medium = self._files.medium
        for name, document in self._documents.items():
            if name in self._arrays:
                continue
            path = self._files.path / name
            if (path / "zarr.json").exists():
                self._arrays[name] = StoredArray.load(path, medium)
            else:
                self._arrays[name] = StoredArray(path, stored_document(document, medium), medium)
                self._stream.make_array(self._arrays[name])
        return self._arrays


def series_attributes(series: Sequence[Series]) -> dict[str, Any]:
    """Return the names of the series as attributes of the group of logged values."""
    names = [list(one) for one in series]
    return {"series": names, "crc32c": int(crc32c(json_bytes(names)))}
