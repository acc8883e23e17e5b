"""The definition of a run, and the paths of its parts: schema version 1.

```
<store>/zarr.json                     schema_version, config, provenance
<store>/runs/order                    run ids, one a line, in the order of their creation
<store>/requests/                     runs to add and to cancel, for the executor of the experiment
<store>/runs/<id>/zarr.json           definition of the run (`RunSpec`)
    status.json                       small changing facts: state, attempts, reason
    weights/zarr.json                 published length of the weights stream, whether it is complete
    weights/deltas, keyframes, keyframe_rows, steps, sha256, state/<name>
    metrics/<name>
    logged/zarr.json                  names of the logged values; only where a training has logged any
    logged/steps, series, values
    embedding/zarr.json               published length of the embedding stream, exact solution, retention
    embedding/scores, increments, exact/<name>
    embedding/bases/{version, first_row, rotation, shift, singular_values, total_variance}
    divergence/<distance>, divergence/pairs
    wal/weights, wal/embedding        locks, write-ahead files, restart state, scratch
    ranks/<session>/<rank>.hashes     hashes of the tensors of each rank of a distributed training
```

A store in a bucket differs: `wal/` holds the restart state only (write-ahead files lie on the writer's machine), every
array is sharded and its shape follows when its stream ends, a run has an `id`, and each stream has the mark of its
`writer`. Copied to a folder, it is a valid store there.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, cast

import numpy as np
from typing_extensions import TypeVar

from streamscalar.config import RunSetting
from streamscalar.store.format.arrays import Codec, column_document, series_document, trajectory_document
from streamscalar.store.media.medium import Medium
from streamscalar.store.media.objects import Place
from streamscalar.store.media.opening import medium_of
from streamscalar.types import DISTANCES, Layout

SCHEMA_VERSION = 1

_MIN_CHUNK, _MAX_CHUNK, _CHUNK_BYTES = 4096, 65536, 2 * 2**20
_KEYFRAME_ROWS = 64

LOGGED_CHUNK = 2**14
"""Entries of the logged values in one file."""


def segment_rows(n_rows: int, row_bytes: int) -> int:
    """Return the rows per segment of a run of `n_rows` rows of `row_bytes` bytes.

    A power of two from 8 to 64: about an eighth of the run and at most 32 MiB; under 8 only where 8 rows exceed
    256 MiB.
    """
    wanted = max(1.0, min(32 * 2**20 / row_bytes, max(8.0, n_rows / 8)))
    rows = min(64, max(8, 1 << int(np.log2(wanted))))
    while rows > 1 and rows * row_bytes > 256 * 2**20:
        rows //= 2
    return rows


def chunk_parameters(n_parameters: int, rows: int, itemsize: int) -> int:
    """Return the parameters per inner chunk: about 2 MiB and at least 4096, in chunks of nearly equal size.

    Measured on gradient descent (P = 50,890, 64 rows, float64): 2048, 4096 and 16384 parameters compress alike
    (within 0.3 %). Larger chunks take longer for reading a few parameters, and cost less overhead per chunk.
    """
    most = min(_MAX_CHUNK, max(_MIN_CHUNK, _CHUNK_BYTES // (rows * itemsize)))
    n_chunks = -(-n_parameters // most)
    return -(-n_parameters // n_chunks)


@dataclass(frozen=True)
class RunSpec:
    """The definition of a run, which never changes.

    Attributes
    ----------
    run_id
        Name, also of the directory.
    setting
        What distinguishes the run, such as its learning rate.
    seed
        Seed of its initial condition.
    layout
        Order of the parameters and meaning of the replicas.
    n_planned
        Planned rows; `None` where the number is unknown, as in a user's own training loop.
    metrics
        Names of the metrics, in order.
    n_components
        Components of each live score.
    segment_rows
        Rows per segment.
    codec
        Compression of the weights.
    parent
        Run and step that it was forked from; `None` for a run without a parent.
    """

    run_id: str
    setting: RunSetting
    seed: int
    layout: Layout
    n_planned: int | None
    metrics: tuple[str, ...]
    n_components: int
    segment_rows: int
    codec: Codec
    parent: tuple[str, int] | None = None

    @property
    def keyframe_every(self) -> int:
        """Rows from one key frame to the next: 64, rounded up to whole segments."""
        return -(-_KEYFRAME_ROWS // self.segment_rows) * self.segment_rows

    @property
    def row_shape(self) -> tuple[int, int]:
        """Replicas and parameters of one row."""
        return self.layout.n_replicas, self.layout.n_parameters

    def to_json(self) -> dict[str, Any]:
        """Return the attributes of the run's group."""
        return {
            "run_id": self.run_id,
            "setting": self.setting.to_json(),
            "seed": self.seed,
            **self.layout.to_json(),
            "n_planned": self.n_planned,
            "metrics": list(self.metrics),
            "n_components": self.n_components,
            "segment_rows": self.segment_rows,
            "codec": self.codec,
            "parent": None if self.parent is None else list(self.parent),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(
            data["run_id"],
            RunSetting.model_validate(data["setting"]),
            data["seed"],
            Layout.from_json(data),
            data["n_planned"],
            tuple(data["metrics"]),
            data["n_components"],
            data["segment_rows"],
            data["codec"],
            None if data["parent"] is None else (data["parent"][0], data["parent"][1]),
        )

    def groups(self) -> dict[str, dict[str, Any]]:
        """Return the first attributes of every group within the run, by its path in the run; both streams are empty."""
        weights = {"length": 0, "complete": False, "n_keyframes": 0, "state": [], "attempt": 0}
        embedding = {
            "length": 0,
            "n_bases": 0,
            "checkpoint": "",
            "exact": False,
            "exact_info": {},
            "retained_from": 0,
            "attempt": 0,
        }
        return {**{name: {} for name in GROUPS}, "weights": weights, "embedding": embedding}

    def arrays(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of every array that a run starts with, by its path in the run."""
        dtype = self.layout.dtype
        n_replicas, n_parameters = self.row_shape
        rows = self.segment_rows
        itemsize = np.dtype(dtype).itemsize
        chunk = chunk_parameters(n_parameters, rows, itemsize)
        integers = f"uint{8 * itemsize}"
        k = self.n_components
        documents = {
            "weights/deltas": trajectory_document(self.row_shape, integers, rows, chunk, self.codec),
            "weights/keyframes": trajectory_document(self.row_shape, dtype, 1, chunk, self.codec),
            "weights/keyframe_rows": series_document((), "int64", 1),
            "weights/steps": series_document((), "int64", rows),
            "weights/sha256": series_document((32,), "uint8", rows),
            "embedding/scores": series_document((n_replicas, k), "float64", rows),
            "embedding/bases/version": series_document((), "int64", 1),
            "embedding/bases/first_row": series_document((), "int64", 1),
            "embedding/bases/rotation": series_document((k, k), "float64", 1),
            "embedding/bases/shift": series_document((k,), "float64", 1),
            "embedding/bases/singular_values": series_document((k,), "float64", 1),
            "embedding/bases/total_variance": series_document((), "float64", 1),
        }
        for name in self.metrics:
            documents[metric_path(name)] = series_document((n_replicas,), "float64", rows)
        for name in DISTANCES:
            documents[f"divergence/{name}"] = series_document((n_replicas,), "float64", rows)
        n_members = 1 + self.layout.n_perturbed
        documents["divergence/pairs"] = series_document((n_members * (n_members - 1) // 2,), "float64", rows)
        documents["embedding/increments"] = series_document((n_members, n_members), "float64", rows)
        return documents

    def logged_arrays(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of the arrays that a run gets with its first logged value, by their paths in the run."""
        columns = {"logged/steps": "int64", "logged/series": "int32", "logged/values": "float64"}
        return {name: column_document(dtype, LOGGED_CHUNK, self.codec) for name, dtype in columns.items()}


def metric_path(name: str) -> str:
    """Return the path in a run of the array of a metric, which may have any name.

    Examples
    --------
    >>> metric_path("loss"), metric_path("val/loss")
    ('metrics/loss', 'metrics/~cd4153b9da6680d0495205ff')
    """
    if PLAIN_METRIC.fullmatch(name) and name != "zarr.json":
        return f"metrics/{name}"
    return f"metrics/~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


PLAIN_METRIC = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Names of metrics that are folder names as they are."""

BLOCK_ARRAYS = (
    "embedding/scores",
    *(f"divergence/{name}" for name in DISTANCES),
    "divergence/pairs",
    "embedding/increments",
)
"""Arrays that the embedder publishes for every row. `pairs` are L1 distances between all pairs of reference and
perturbed replicas, (0, 1), (0, 2)...; `increments` the products of their moves since the row before, over P."""

LOGS = ("wal/weights", "wal/embedding")
"""Folders of a run for locks, write-ahead files and restart state."""

GROUPS = ("weights/state", "metrics", "embedding/bases", "divergence")
"""Groups without attributes."""

DESCRIPTIONS: Mapping[str, str] = {
    "weights/deltas": "Change of every weight since the row before, as a zigzag integer of its bits; zeros in row 0.",
    "weights/keyframes": "All weights at a key frame, as floats; one entry per key frame.",
    "weights/keyframe_rows": "Row of each key frame.",
    "weights/steps": "Training step of each row.",
    "weights/sha256": "SHA-256 of the little-endian weights of each row.",
    "embedding/scores": "Live coordinates, each row in the basis of its own block.",
    "embedding/increments": "Products of the moves of reference and perturbed replicas since the row before, over P.",
    "embedding/bases/version": "Version of the live basis; one entry per block.",
    "embedding/bases/first_row": "First row of the block that made the version.",
    "embedding/bases/rotation": "Rotation from the coordinates of the version before to this one.",
    "embedding/bases/shift": "Shift that is added after the rotation.",
    "embedding/bases/singular_values": "Singular values of the centred snapshots over the root of P.",
    "embedding/bases/total_variance": "Total variance of the snapshots, in all directions.",
    "divergence/l1": "Sum of absolute differences of all parameters from the reference.",
    "divergence/rms": "Euclidean distance from the reference over the root of P.",
    "divergence/random": "Signed separation from the reference along one random direction, as a control.",
    "divergence/embedded": "Signed separation from the reference along the scalar of the live basis.",
    "divergence/pairs": "L1 distance of each pair of reference and perturbed replicas: (0, 1), (0, 2), ...",
    "metrics/<name>": "One metric of each replica, such as the loss. A name that is no plain folder name, such as "
    "`val/loss`, is replaced by `~` and 24 digits of its sha256; the attributes of the run list the names themselves.",
    "logged/steps": "Step of each logged value, in the order in which they were given.",
    "logged/series": "Index of the series of each logged value in the attribute `series` of the group.",
    "logged/values": "The logged values.",
    "weights/state/<name>": "One array of the optimiser's state; one entry per key frame.",
    "embedding/exact/scores": "Exact coordinates (N, R, K).",
    "embedding/exact/separation": "Signed separation from the reference along the exact scalar (N, R).",
    "embedding/exact/mean": "Mean of the snapshots (P); empty for embeddings that have no directions.",
    "embedding/exact/components": "Directions of the coordinates (K, P); empty likewise.",
    "embedding/exact/singular_values": "Singular values of the directions (K).",
    "weights.length": "Rows that readers may use; the arrays may hold more for a moment.",
    "weights.complete": "Whether no row will follow.",
    "weights.n_keyframes": "Number of key frames.",
    "weights.state": "Names of the arrays of the optimiser's state.",
    "weights.logged": "Logged values that readers may use; absent where there are none.",
    "logged.series": "Name and replica of each series of logged values, in the order of their first value.",
    "logged.crc32c": "Checksum of `series` as JSON.",
    "weights.attempt": "Number of the newest writer of the weights; older ones may no longer write.",
    "embedding.length": "Embedded rows that readers may use.",
    "embedding.n_bases": "Number of versions of the live basis.",
    "embedding.checkpoint": "Name of the file from which an embedder continues; empty once the embedding is exact.",
    "embedding.exact": "Whether the exact embedding is stored.",
    "embedding.exact_info": "Method, passes, residual and eigengap of the exact embedding.",
    "embedding.retained_from": "First row whose weights are kept; 0 where all are.",
    "embedding.attempt": "Number of the newest writer of the embedding.",
}
"""What each array (by its path in the run) and each attribute of the two streams (`group.attribute`) holds."""


AnyPlace = TypeVar("AnyPlace", bound=Place, default=Path)


@dataclass(frozen=True)
class RunFiles(Generic[AnyPlace]):
    """Paths of the parts of a run: files in a folder, or objects under a prefix of a bucket."""

    path: AnyPlace

    @property
    def weights(self) -> AnyPlace:
        """Group of the weights stream; its attributes are the stream's commit point."""
        return self._part("weights")

    @property
    def embedding(self) -> AnyPlace:
        """Group of the embedding stream; its attributes are the stream's commit point."""
        return self._part("embedding")

    @property
    def logged(self) -> AnyPlace:
        """Group of the logged values; its attributes hold their names."""
        return self._part("logged")

    @property
    def weights_log(self) -> AnyPlace:
        """Lock, write-ahead files and scratch of the weights stream; of a run in a bucket they lie in the spool."""
        return self._part(LOGS[0])

    @property
    def embedding_log(self) -> AnyPlace:
        """Lock, restart state and scratch of the embedding stream; in a bucket the restart state alone."""
        return self._part(LOGS[1])

    @property
    def ranks(self) -> Path | None:
        """Folder of the streams of the ranks, which need not be there; `None` in a bucket."""
        return self.medium.readable_log(self._part("ranks"))

    def spec(self) -> RunSpec:
        """Read the definition of the run."""
        return RunSpec.from_json(json.loads((self.path / "zarr.json").read_bytes())["attributes"])

    def status(self) -> dict[str, Any]:
        """Return the small changing facts about the run; empty where there are none."""
        try:
            facts: dict[str, Any] = json.loads((self.path / "status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return facts

    @property
    def medium(self) -> Medium[Any]:
        """Medium that the run lies on."""
        return medium_of(self.path)

    def _part(self, name: str) -> AnyPlace:
        return cast(AnyPlace, self.path / name)
