"""Many kills of actors and drivers at random moments.

Proves that no moment is wrong: nine actors of an experiment on Ray, and eight drivers of one experiment, inline and on
Ray, some of them before the store is complete, are killed while rows are written at full speed. The digest is that of
an undisturbed run, and a reader finds no torn row on the way. Takes six minutes for each seed, a minute
for a bucket.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bucket import Bucket
from tests.conftest import Truth, small_config
from tests.kills import (
    ACTORS,
    check_survives_killed_actors,
    check_survives_killed_drivers,
    check_survives_kills_in_a_bucket,
)
from tests.slow import slow_config

N_STEPS = 1500


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("seed", [2, 4])
def test_killed_actors(tmp_path: Path, truth: Truth, release: Callable[[], None], seed: int) -> None:
    config = slow_config(tmp_path / "store", n_steps=N_STEPS)
    config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"executor": "ray"})})
    check_survives_killed_actors(config, truth(config), ACTORS * 3, seed, release)


@pytest.mark.parametrize("seed", [3, 5])
def test_killed_drivers(tmp_path: Path, truth: Truth, seed: int) -> None:
    config = slow_config(tmp_path / "store", n_steps=N_STEPS)
    check_survives_killed_drivers(config, truth(config), ["inline"] * 6 + ["ray"] * 2, seed, n_blind=2)


@pytest.mark.parametrize("keeps_spool", [True, False])
def test_killed_runs_into_a_bucket(tmp_path: Path, truth: Truth, bucket: Bucket, keeps_spool: bool) -> None:
    store = {"url": bucket.make(), "spool": str(tmp_path / "spool"), "segment_rows": 8}
    config = small_config(Path("unused"), store=store)
    check_survives_kills_in_a_bucket(config, truth(small_config(Path("unused"))), (9, 25, 70, 120), keeps_spool)
