"""Fixtures for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamscalar.config import Config, load_config

for name in [name for name in os.environ if name.startswith("STREAMSCALAR_")]:
    del os.environ[name]


def small_config(store: Path, /, **sections: dict[str, Any]) -> Config:
    """Return a digits experiment of seconds: 2 learning rates, 2 initial conditions, 41 rows."""
    base: dict[str, dict[str, Any]] = {
        "experiment": {"name": "small", "n_initial_conditions": 2, "tags": ["tiny"]},
        "task": {"n_train": 300, "n_test": 100},
        "model": {"widths": [8]},
        "training": {"learning_rate": [1, 5], "n_steps": 40},
        "perturbation": {"n_perturbed": 3},
        "store": {"url": str(store), "segment_rows": 8},
        "cluster": {"executor": "inline"},
    }
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}
    return load_config(merged, environment={})


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray for the session."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="streamscalar")
    yield
    ray.shutdown()
