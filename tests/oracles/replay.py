"""The store's codec number by number, and small runs to put through it."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import RunSetting
from streamscalar.store import Store
from streamscalar.types import Layer, Layout

_CODES = {"float32": ("<f", "<I", 32), "float64": ("<d", "<Q", 64)}


def rank(value: Any, dtype: str) -> int:
    """Return the bits of one float as an unsigned integer in which order is preserved (two's complement)."""
    _, integer, bits = _CODES[dtype]
    pattern = int(struct.unpack(integer, np.asarray(value, np.dtype(dtype).newbyteorder("<")).tobytes())[0])
    negative = pattern >> (bits - 1)
    return pattern ^ ((1 << (bits - 1)) - 1) if negative else pattern


def delta(now: Any, before: Any, dtype: str) -> int:
    """Return the zigzag delta of two floats: twice the signed difference, or minus twice less one."""
    bits = _CODES[dtype][2]
    difference = (rank(now, dtype) - rank(before, dtype)) % (1 << bits)
    signed = difference - (1 << bits) if difference >> (bits - 1) else difference
    return 2 * signed if signed >= 0 else -2 * signed - 1


def replay(start: Any, deltas: list[int], dtype: str) -> list[bytes]:
    """Return the bytes of the floats that follow `start`, one per delta."""
    _, integer, bits = _CODES[dtype]
    value, result = rank(start, dtype), []
    for folded in deltas:
        signed = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        value = (value + signed) % (1 << bits)
        negative = value >> (bits - 1)
        result.append(struct.pack(integer, value ^ ((1 << (bits - 1)) - 1) if negative else value))
    return result


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
    """Return what a trainer would go on from."""
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


def write(writer: Any, rows: NDArray[Any], first: int = 0) -> None:
    """Append rows with their steps, metrics and state."""
    for row in range(first, len(rows)):
        kept = state(row) if writer.needs_state(row) else None
        writer.append(row, 10 * row, rows[row], metrics(row, rows.shape[1]), kept)
