"""Many faults of a cluster in random orders.

Proves that the work survives not only each fault, but one after the other: links cut for a moment and for long, hosts,
drivers with their coordinator, and the head, several of them in one experiment, some twice. Each ends with the digest
of an undisturbed run, and a reader finds no torn row on the way. Takes two to eight minutes for each seed.
"""

from pathlib import Path

import pytest

from streamscalar import Experiment
from tests.cluster.faults import check_survives, random_order
from tests.cluster.hosts import Hosts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_faults_in_any_order(cluster: Hosts, tmp_path: Path, undisturbed: Experiment, seed: int) -> None:
    check_survives(cluster, tmp_path / "store", undisturbed, random_order(seed, 4))
