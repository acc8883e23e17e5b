"""A small run for tests: rows with special values, metrics, trainer state and blocks of an embedding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import RunSetting
from streamscalar.store import EmbeddingWriter, Store, WeightsWriter
from streamscalar.store.schema import BLOCK_ARRAYS
from streamscalar.types import Layer, Layout


def layout(n_parameters: int = 13, n_replicas: int = 3, dtype: str = "float64") -> Layout:
    """Return one weight of all but two parameters, and a bias."""
    layers = (Layer("0.weight", 0, (n_parameters - 2,)), Layer("0.bias", n_parameters - 2, (2,)))
    return Layout(layers, dtype, n_perturbed=n_replicas - 1, has_control=False)


def trajectory(n_rows: int, shape: tuple[int, int], dtype: str = "float64", seed: int = 0) -> NDArray[Any]:
    """Return rows (N, R, P) that move a little, with NaN payloads, infinities and both zeros among them."""
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.normal(scale=1e-3, size=(n_rows, *shape)), axis=0) + rng.normal(size=shape)
    rows = rows.astype(dtype)
    integers = rows.view(f"u{rows.itemsize}")
    quiet = {"float32": 0x7FC00000, "float64": 0x7FF8000000000000}[dtype]
    integers[3::7, 0, 1] = quiet + 12345
    rows[4::5, -1, 2] = -np.inf
    rows[::2, 0, 3], rows[1::2, 0, 3] = 0.0, -0.0
    return rows


def metrics(row: int, n_replicas: int) -> dict[str, NDArray[np.float64]]:
    """Return the loss of one row: a function of the row alone; NaN at every ninth."""
    loss = np.arange(n_replicas) + 1 / (row + 1)
    return {"loss": np.where(row % 9 == 8, np.nan, loss)}


def state(row: int) -> dict[str, NDArray[Any]]:
    """Return the state from which a trainer would continue."""
    return {"momentum": np.full((3, 2), row / 3), "generator": np.arange(5, dtype=np.uint8), "epoch": np.asarray(row)}


def add(store: Store, run_id: str, shape: Layout, n_rows: int, segment_rows: int, codec: Any = "zstd") -> None:
    """Add a run with the metrics of `metrics` and two components."""
    store.add_run(
        run_id,
        setting=RunSetting(learning_rate=0.5),
        seed=7,
        layout=shape,
        n_rows=n_rows,
        metrics=["loss"],
        n_components=2,
        segment_rows=segment_rows,
        codec=codec,
    )


def write(writer: WeightsWriter, rows: NDArray[Any], first: int = 0) -> None:
    """Append rows with their steps, metrics and state."""
    for row in range(first, len(rows)):
        kept = state(row) if writer.needs_state(row) else None
        writer.append(row, 10 * row, rows[row], metrics(row, rows.shape[1]), kept)


def publish(writer: EmbeddingWriter, first: int, scale: float = 1.0) -> None:
    """Publish a block of eight rows of three replicas; all values are `scale * first + 1`."""
    shapes = {"embedding/scores": (3, 2), "divergence/pairs": (3,), "embedding/increments": (3, 3)}
    rows = {name: np.full((8, *shapes.get(name, (3,))), scale * first + 1.0) for name in BLOCK_ARRAYS}
    basis = {
        "version": np.asarray(first // 8),
        "rotation": np.eye(2),
        "shift": np.zeros(2),
        "singular_values": np.array([2.0, 1.0]),
        "total_variance": np.asarray(5.0),
    }
    writer.publish(first, rows, basis, {"seen": np.asarray(first + 8)})


def publish_exact(writer: EmbeddingWriter, n_rows: int = 24) -> None:
    """Publish an exact solution of three replicas and thirteen parameters: all ones."""
    ones = np.ones
    info = {"total_variance": 2.0}
    writer.publish_exact(ones((n_rows, 3, 2)), ones((n_rows, 3)), np.zeros(13), ones((2, 13)), ones(2), info)
