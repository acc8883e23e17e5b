"""Hosts on a network, made once per module."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamscalar import Experiment
from tests.cluster.hosts import FAST_HEALTH_CHECKS, Hosts, network
from tests.conftest import Truth
from tests.slow import slow_config


@pytest.fixture(scope="session")
def needs_namespaces() -> None:
    """Skip where no hosts can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")


@pytest.fixture(scope="module")
def hosts(needs_namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Four hosts on one network, nothing running."""
    with network(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Hosts:
    """Hosts that are a Ray cluster, whose head soon gives up those that do not answer."""
    hosts.head.environment.update(FAST_HEALTH_CHECKS)
    for host in (hosts.head, *hosts.workers):
        host.environment.update(SLOW_MS="100", SLOW_AFTER="640")
    hosts.start_cluster()
    return hosts


@pytest.fixture
def undisturbed(truth: Truth, tmp_path: Path) -> Experiment:
    """Return what the slow experiment gives where nothing disturbs it."""
    return truth(slow_config(tmp_path / "unused"))
