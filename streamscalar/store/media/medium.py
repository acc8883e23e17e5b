"""The interface between a store and the medium that it lies on: a folder or a bucket.

A place (`Place`) is a path on a medium. It can be joined with `/`, and a single file of it can be read; everything
else goes through its medium. `streamscalar.store.media.opening.medium_of` chooses the medium of a place; no other code
depends on the kind of a place. To add a medium, write one file with a `Medium`, a `Stream` and a
`Publication`, add it to `opening`, and run `streamscalar.testing.StoreContract` on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from zarr.storage import StorePath

from streamscalar.store.media.folder_fence import FolderFence
from streamscalar.store.media.objects import Place
from streamscalar.store.media.publication import GrowingArray, Publication

PlaceT = TypeVar("PlaceT", bound=Place)


@dataclass(frozen=True, slots=True)
class RunParts:
    """Everything that a new run consists of.

    Attributes
    ----------
    definition
        Attributes of the run's own group.
    groups
        Attributes of each other group, by its path in the run.
    arrays
        Metadata of each array (its `zarr.json`), by its path in the run.
    logs
        Paths in the run of the folders for locks and write-ahead files.
    """

    definition: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, Mapping[str, Any]]
    logs: Sequence[str]


class Stream(ABC, Generic[PlaceT]):
    """One stream of one run, claimed for one writer; every older writer of it is locked out.

    Attributes
    ----------
    attempt : int
        Number of this writer.
    log : Path
        Folder on this machine for the write-ahead files and the scratch.
    fence : FolderFence
        Right to write to `log`.
    """

    attempt: int
    log: Path
    fence: FolderFence

    @abstractmethod
    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the stream's group, which are its commit point."""

    @abstractmethod
    def publication(self) -> Publication:
        """Return a new publication, to be used as a context manager."""

    @abstractmethod
    def make_array(self, array: GrowingArray) -> None:
        """Write the metadata of an empty array."""

    @abstractmethod
    def make_group(self, path: PlaceT, arrays: Iterable[str]) -> None:
        """Make a group without attributes, and room for the arrays in it that a publication will fill."""

    @abstractmethod
    def own_name(self, name: str) -> str:
        """Return the name under which this writer publishes a plain file called `name`."""

    @abstractmethod
    def remove_others(self, folder: PlaceT, prefix: str, keep: str) -> None:
        """Delete the files of a folder whose names begin with `prefix`, except `keep`."""

    @abstractmethod
    def close(self, *, is_complete: bool) -> None:
        """Release what only this writer needs; the log stays unless the stream is complete."""


class Medium(ABC, Generic[PlaceT]):
    """Operations on the places of one medium. Stateless: one instance serves every store.

    Attributes
    ----------
    is_remote
        Whether each operation is a request over a network, of tens of milliseconds and perhaps billed. Callers then
        poll less often, read concurrently, and read whole files.
    marks_files
        Whether each writer leaves a mark in its files, for which every array must be sharded.
    """

    is_remote: ClassVar[bool]
    marks_files: ClassVar[bool]

    # Places.

    @abstractmethod
    def url(self, place: PlaceT) -> str:
        """Return the absolute path or the URL by which other processes open this place."""

    @abstractmethod
    def resolved(self, place: PlaceT) -> PlaceT:
        """Return the place in absolute form, so that it has the name by which a store is listed."""

    @abstractmethod
    def folder(self, place: PlaceT) -> Path:
        """Return the place as a folder; raises `BadCall` where it is none."""

    @abstractmethod
    def is_there(self, place: PlaceT) -> bool:
        """Return whether the place exists and could be, or hold, a store."""

    @abstractmethod
    def is_empty(self, place: PlaceT) -> bool:
        """Return whether nothing lies at the place or below it."""

    @abstractmethod
    def free_bytes(self, place: PlaceT) -> int | None:
        """Return the free bytes where a store would lie; `None` where there is no such limit."""

    @abstractmethod
    def warning(self, place: PlaceT) -> str:
        """Return one sentence on what the medium does not guarantee there; empty if it guarantees everything."""

    @abstractmethod
    def zarr_path(self, place: PlaceT) -> StorePath:
        """Return the place as Zarr opens it."""

    # Files.

    @abstractmethod
    def make_folder(self, place: PlaceT) -> None:
        """Make a folder and those above it, where the medium has folders."""

    @abstractmethod
    def write(self, place: PlaceT, data: bytes) -> None:
        """Replace a file atomically and durably."""

    @abstractmethod
    def create(self, place: PlaceT, data: bytes) -> None:
        """Write a file under a name that no other process uses; makes its folder where it is missing."""

    @abstractmethod
    def read_all(self, places: Iterable[PlaceT]) -> list[bytes]:
        """Return the contents of files; raises `FileNotFoundError` where one is missing."""

    @abstractmethod
    def remove(self, places: Iterable[PlaceT]) -> None:
        """Delete files; a missing one is no error."""

    @abstractmethod
    def names(self, folder: PlaceT) -> list[str]:
        """Return the sorted names of the files in a folder; empty where there is no folder."""

    @abstractmethod
    def stamp(self, place: PlaceT) -> tuple[Hashable, float] | None:
        """Return what changes with the content of a file, and when it was written (seconds since 1970).

        `None` where there is no such file.
        """

    @abstractmethod
    def entries_stamp(self, folder: PlaceT) -> object:
        """Return what changes when a file is added to a folder; unequal at every call where nothing shows that."""

    # Stores and runs.

    @abstractmethod
    def create_store(self, root: PlaceT, attributes: Mapping[str, Any]) -> None:
        """Make a store with these attributes; a store that is there stays as it is.

        Raises
        ------
        BadCall
            Something else lies there, or nothing can be written there.
        """

    @abstractmethod
    def require_writable(self, root: PlaceT) -> None:
        """Raise `BadCall` where it is known in advance that a store cannot be written."""

    @abstractmethod
    def stores_below(self, root: PlaceT) -> list[PlaceT]:
        """Return the stores directly below a place, by name."""

    @abstractmethod
    def create_run(self, run: PlaceT, parts: RunParts) -> None:
        """Make a run with all of its groups and arrays, or nothing; a run that is there stays as it is."""

    @abstractmethod
    def list_run(self, root: PlaceT, run_id: str) -> None:
        """Add a run to the end of the order of runs, if it is not in it."""

    @abstractmethod
    def run_ids(self, root: PlaceT) -> list[str]:
        """Return the names of the runs in the order of their creation."""

    @abstractmethod
    def runs_stamp(self, root: PlaceT) -> Hashable:
        """Return what changes when a run is made; `None` where there is no store any more."""

    # Streams.

    @abstractmethod
    def open_stream(self, group: PlaceT, log: PlaceT, spool: Path | None, context: str) -> Stream[PlaceT]:
        """Claim a stream for a new writer.

        Parameters
        ----------
        group
            Zarr group of the stream.
        log
            Where its lock and its write-ahead files lie in the run.
        spool
            Folder on this machine in place of `log` where the medium has no locks; `None` for a temporary one.
        context
            Run and stream, for messages.
        """

    @abstractmethod
    def spool(self, root: PlaceT, run_id: str, base: str | None) -> Path | None:
        """Return the folder on this machine for the log of a run; `None` where the log lies in the run itself.

        `base` is the folder for the spools of all stores; `None` for the user's cache.
        """

    @abstractmethod
    def readable_log(self, log: PlaceT) -> Path | None:
        """Return the folder in which readers find write-ahead files; `None` where only the writer has them."""

    @abstractmethod
    def log_stamps(self, log: PlaceT, suffixes: tuple[str, ...]) -> list[tuple[Hashable, float]]:
        """Return what changes when a row is added to the log, with its time, for each file with one of `suffixes`."""

    @abstractmethod
    def n_attempts(self, group: PlaceT, log: PlaceT) -> int:
        """Return the number of writers that a stream has had."""
