"""One local Ray for all tests here, whose workers may enter a bucket, and what they are compared with."""

import os
import shutil
from collections.abc import Callable, Iterator
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
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a file that makes slow trainings quick."""
    return tmp_path_factory.mktemp("slow") / "released"


@pytest.fixture
def release(released: Path) -> Iterator[Callable[[], None]]:
    """Hold slow trainings; return what lets them go on at full speed."""
    released.unlink(missing_ok=True)
    yield released.touch
    released.touch()


@pytest.fixture(scope="session")
def pass_ms() -> int:
    """Return the milliseconds that a pass of the slow network takes on Ray."""
    return 100


@pytest.fixture(scope="session")
def local_ray(bucket: Bucket, released: Path, pass_ms: int) -> Iterator[None]:
    """One local Ray for the session; its workers have the environment of its start, with the keys of the bucket."""
    import ray

    os.environ.update(SLOW_MS=str(pass_ms), SLOW_UNTIL=str(released))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="streamscalar")
    # Only Ray's processes are slow.
    del os.environ["SLOW_MS"], os.environ["SLOW_UNTIL"]
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def small_store(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished experiment, alone in its folder: regular and diverging digits."""
    path = tmp_path_factory.mktemp("stores") / "small"
    return Path(shutil.copytree(str(truth(small_config(path)).store.path), path))
