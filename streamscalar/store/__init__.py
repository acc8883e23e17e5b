"""The store: lossless deltas, write-ahead log, publication, readers (zarr and NumPy only)."""

from streamscalar.store.digest import run_digest
from streamscalar.store.embedding import EmbeddingWriter
from streamscalar.store.reader import KeyFrame, RunReader
from streamscalar.store.root import Store
from streamscalar.store.schema import SCHEMA_VERSION, segment_rows
from streamscalar.store.verify import Finding, verify
from streamscalar.store.wal import Fsync
from streamscalar.store.weights import WeightsWriter

__all__ = [
    "SCHEMA_VERSION",
    "EmbeddingWriter",
    "Finding",
    "Fsync",
    "KeyFrame",
    "RunReader",
    "Store",
    "WeightsWriter",
    "run_digest",
    "segment_rows",
    "verify",
]
