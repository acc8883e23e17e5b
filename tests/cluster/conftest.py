"""Hosts on a network, made once per module."""

import os
import shutil
from collections.abc import Iterator

import pytest

from streamscalar import Experiment
from streamscalar.runtime import run
from tests.cluster.experiments import slow_config
from tests.cluster.hosts import Hosts, network


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Four hosts on one network, nothing running."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    with network(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Return what the slow experiment gives where nothing disturbs it."""
    return run(slow_config(tmp_path_factory.mktemp("truth") / "store"))
