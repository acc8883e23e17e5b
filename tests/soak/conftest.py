"""What the soak shares with the tests of other folders; its local Ray is quicker, so that kills meet busy actors."""

import pytest

from tests.cluster.conftest import cluster, hosts, needs_namespaces, undisturbed
from tests.integration.conftest import service, small_store
from tests.ray.conftest import bucket, local_ray, release, released

__all__ = [
    "bucket",
    "cluster",
    "hosts",
    "local_ray",
    "needs_namespaces",
    "release",
    "released",
    "service",
    "small_store",
    "undisturbed",
]


@pytest.fixture(scope="session")
def pass_ms() -> int:
    """Return the milliseconds that a pass of the slow network takes on Ray."""
    return 5
