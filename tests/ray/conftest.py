"""One local Ray for all tests here, whose workers may enter a bucket, and what they are compared with."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bucket import Bucket, running
from tests.conftest import Truth, small_config


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """Serve buckets to this process and those it starts."""
    with running() as service:
        yield service


@pytest.fixture(scope="session")
def local_ray(bucket: Bucket) -> Iterator[None]:
    """One local Ray for the session; its workers have the environment of its start, with the keys of the bucket."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="streamscalar")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def small_store(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished experiment, alone in its folder: regular and diverging digits."""
    path = tmp_path_factory.mktemp("stores") / "small"
    return Path(shutil.copytree(str(truth(small_config(path)).store.path), path))
