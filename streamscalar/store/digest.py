"""One hash over the scientific content of a run."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from streamscalar.store.media.files import json_bytes, plain
from streamscalar.store.reader import RunReader
from streamscalar.types import DISTANCES


def run_digest(reader: RunReader) -> bytes:
    """Return a sha256 over definition, steps, hashes of the weights, metrics, logged values, coordinates, separations.

    Attempts, times, hosts, segments and retention have no effect on it.
    """
    spec = reader.spec.to_json()
    counted = {key: spec[key] for key in ("run_id", "setting", "seed", "layers", "dtype", "n_perturbed", "has_control")}
    total = hashlib.sha256(json_bytes(plain(counted)))
    live = reader.embedding.live_scores()
    exact = reader.embedding.exact_arrays()
    series: dict[str, NDArray[np.generic]] = {
        "steps": reader.steps(),
        "sha256": reader.row_sha256(),
        "live": live,
        **{f"metrics/{name}": reader.row_metrics(name) for name in reader.spec.metrics},
        **{f"divergence/{name}": reader.embedding.divergence(name) for name in DISTANCES},
        "divergence/pairs": reader.embedding.pairs(),
        "increments": reader.embedding.increments(),
        **{f"exact/{name}": values for name, values in exact.items()},
    }
    logged = reader.logged.entries()
    if len(logged):
        total.update(json_bytes([list(one) for one in logged.series]))
        series |= {f"logged/{name}": column for name, column in logged.columns.items()}
    for name in sorted(series):
        values = np.ascontiguousarray(series[name])
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        total.update(json_bytes([name, little.dtype.str, list(little.shape)]))
        total.update(little.tobytes())
    return total.digest()
