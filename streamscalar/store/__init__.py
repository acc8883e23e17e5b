"""The store: lossless deltas, write-ahead log, publication, readers (zarr and NumPy only; obstore for buckets)."""

from streamscalar.store.digest import run_digest
from streamscalar.store.embedding_writer import EmbeddingWriter
from streamscalar.store.media.filesystem import Filesystem, filesystem_of, locks_work
from streamscalar.store.media.medium import Medium
from streamscalar.store.media.objects import ObjectPath, Place, Unreachable
from streamscalar.store.media.opening import medium_of, place
from streamscalar.store.rank_comparison import Drift, RankState, RankWatch
from streamscalar.store.reader import KeyFrame, RunReader
from streamscalar.store.root import Store
from streamscalar.store.schema import SCHEMA_VERSION, segment_rows
from streamscalar.store.verify import Finding, verify
from streamscalar.store.wal import Fsync
from streamscalar.store.weights_writer import WeightsWriter

__all__ = [
    "SCHEMA_VERSION",
    "Drift",
    "EmbeddingWriter",
    "Filesystem",
    "Finding",
    "Fsync",
    "KeyFrame",
    "Medium",
    "ObjectPath",
    "Place",
    "RankState",
    "RankWatch",
    "RunReader",
    "Store",
    "Unreachable",
    "WeightsWriter",
    "filesystem_of",
    "locks_work",
    "medium_of",
    "place",
    "run_digest",
    "segment_rows",
    "verify",
]
