"""Benchmarks; each reports figures with a baseline, a hardware limit or a target where there is one."""

from collections.abc import Callable, Mapping

from streamscalar.bench.api import bench_api
from streamscalar.bench.figures import Figure
from streamscalar.bench.onset import bench_onset
from streamscalar.bench.scaling.measure import bench_scaling
from streamscalar.bench.track import bench_track
from streamscalar.bench.train import bench_train

BENCHES: Mapping[str, Callable[[], list[Figure]]] = {
    "train": bench_train,
    "onset": bench_onset,
    "track": bench_track,
    "api": bench_api,
    "scaling": bench_scaling,
}

__all__ = ["BENCHES", "Figure"]
