"""Hosts die, links are cut, drivers vanish: the work goes on, and nothing that was acknowledged is lost."""

import json
from pathlib import Path

import pytest

from streamscalar import Experiment
from tests.cluster import faults
from tests.cluster.hosts import Hosts

pytestmark = pytest.mark.timeout(1500)
"""Each failure takes a minute or two on an idle machine."""


def test_links_are_cut_and_a_host_is_lost(cluster: Hosts, tmp_path: Path, undisturbed: Experiment) -> None:
    faults.check_survives(
        cluster,
        tmp_path / "store",
        undisturbed,
        [faults.a_link_is_cut_for_a_moment, faults.a_host_is_lost, faults.a_link_is_cut_and_heals],
    )


def test_drivers_vanish_and_the_head_is_lost(cluster: Hosts, tmp_path: Path, undisturbed: Experiment) -> None:
    store = tmp_path / "store"
    faults.check_survives(
        cluster, store, undisturbed, [faults.driver_and_coordinator_are_killed, faults.the_head_is_lost]
    )
    again = cluster.head.run(*cluster.head.streamscalar("attach", str(store), "--address", cluster.cluster, "--json"))
    assert json.loads(again.stdout)["experiment"]["name"] == "slow", "a finished one is shown"
