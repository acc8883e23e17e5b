"""The store: lossless deltas, write-ahead log, publication, readers (zarr and NumPy only; obstore for buckets)."""

from streamscalar.store.digest import run_digest
from streamscalar.store.embedding_writer import EmbeddingWriter
from streamscalar.store.media.filesystem import Filesystem, filesystem_of, locks_work
from streamscalar.store.media.objects import ObjectPath, Place, Unreachable, is_url, place
from streamscalar.store.reader import KeyFrame, RunReader
from streamscalar.store.root import Store
from streamscalar.store.schema import SCHEMA_VERSION, segment_rows
from streamscalar.store.verify import Finding, verify
from streamscalar.store.wal import Fsync
from streamscalar.store.weights_writer import WeightsWriter

__all__ = [
    "SCHEMA_VERSION",
    "EmbeddingWriter",
    "Filesystem",
    "Finding",
    "Fsync",
    "KeyFrame",
    "ObjectPath",
    "Place",
    "RunReader",
    "Store",
    "Unreachable",
    "WeightsWriter",
    "filesystem_of",
    "is_url",
    "locks_work",
    "place",
    "run_digest",
    "segment_rows",
    "verify",
]
