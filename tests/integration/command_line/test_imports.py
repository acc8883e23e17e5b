"""What a fresh Python loads with the package, and what it does not load until it is needed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("streamscalar", "torch ray zarr numpy pydantic"),
        # Every tracked training starts one.
        ("streamscalar.tracking.worker.main", "torch ray"),
        # Every Ray actor imports it; torch and the estimators are for those that need them.
        ("streamscalar.runtime.ray.actors", "torch scipy.stats matplotlib"),
        ("streamscalar.experiment", "torch scipy.stats ray pandas matplotlib sklearn"),
        ("streamscalar.runtime.launch", "scipy.stats ray pandas matplotlib sklearn"),
        ("streamscalar.workers.embedder", "torch scipy.stats ray"),
        ("streamscalar.workers.coordinator", "torch scipy.stats ray"),
    ],
)
def test_an_import_loads_no_large_package(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & set(absent.split())
