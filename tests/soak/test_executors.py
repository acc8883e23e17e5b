"""More kinds of experiments on Ray.

Proves that digests do not depend on the executor, whatever the number of trainers, the pack, and the kind of the
model. Takes two minutes.
"""

from pathlib import Path

import pytest

from tests.conftest import Truth, small_config
from tests.integration.experiment.test_modules import config_of
from tests.ray.test_executors import check_digests_are_equal


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("n_trainers", "pack_size"), [(1, 1), (None, 3)])
def test_numbers_of_trainers_and_packs(tmp_path: Path, truth: Truth, n_trainers: int | None, pack_size: int) -> None:
    config = small_config(tmp_path / "store", training={"pack_size": pack_size})
    check_digests_are_equal(config, truth, max_concurrent_runs=n_trainers)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("kind", ["cnn", "own"])
def test_modules(tmp_path: Path, truth: Truth, kind: str) -> None:
    check_digests_are_equal(config_of(kind, tmp_path / "store", n_steps=20), truth)
