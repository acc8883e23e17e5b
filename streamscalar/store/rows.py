"""Rows of the weights stream: as they are written, and as readers see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.store.schema import RunSpec
from streamscalar.store.wal import Frame


@dataclass(frozen=True)
class RowRecord:
    """Step, hash of the weights, and metrics (names, R) of a row."""

    step: int
    sha256: bytes
    metrics: NDArray[np.float64]


@dataclass
class Segment:
    """Rows of a shard that is not sealed yet; `state` is set where the first row is a key frame."""

    first: int
    weights: NDArray[Any]
    rows: list[RowRecord]
    state: dict[str, NDArray[Any]] | None = None


def checked_metrics(spec: RunSpec, weights: NDArray[Any], metrics: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return the metrics of a row as one array (names, R).

    Raises
    ------
    BadCall
        The row has another shape, dtype or other metrics than the run.
    """
    layout, names, context = spec.layout, spec.metrics, f"run {spec.run_id}"
    if weights.shape != spec.row_shape or weights.dtype != np.dtype(layout.dtype):
        raise BadCall(
            "weights",
            f"must be {layout.dtype} of shape {spec.row_shape}",
            got=f"{weights.dtype} of shape {weights.shape}",
            kind=Kind.DATA,
            context=context,
        )
    if set(metrics) != set(names) or any(np.shape(metrics[name]) != (layout.n_replicas,) for name in names):
        raise BadCall(
            "metrics",
            f"must be {', '.join(names) or 'empty'} of shape ({layout.n_replicas},)",
            got=", ".join(f"{name} {np.shape(value)}" for name, value in metrics.items()),
            kind=Kind.DATA,
            context=context,
        )
    record = np.empty((len(names), layout.n_replicas), "<f8")
    for index, name in enumerate(names):
        record[index] = metrics[name]
    return record


def require_alike(expected: Mapping[str, str] | None, state: Mapping[str, NDArray[Any]], context: str) -> None:
    """Raise `BadCall` if the state of a key frame has another form than that of the earlier ones."""
    form = form_of(state)
    if expected is not None and form != expected:
        raise BadCall(
            "state",
            f"must hold the same arrays at every key frame: {expected or 'none'}",
            got=str(form or "none"),
            kind=Kind.DATA,
            context=context,
        )


def form_of(state: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return type and shape of every array."""
    return {name: f"{value.dtype} {value.shape}" for name, value in sorted(state.items())}


@dataclass(frozen=True)
class RowView:
    """One consistent view of the weights stream."""

    published: int
    is_complete: bool
    n_keyframes: int
    frames: list[Frame]

    @property
    def total(self) -> int:
        """Number of rows."""
        return self.published + len(self.frames)
