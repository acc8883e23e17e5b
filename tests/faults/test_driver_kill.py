"""SIGKILL of the process that began an experiment."""

from pathlib import Path

from tests.conftest import Truth
from tests.kills import check_survives_killed_drivers
from tests.slow import slow_config


def test_a_killed_driver_is_resumed_to_the_same_digest(tmp_path: Path, truth: Truth) -> None:
    config = slow_config(tmp_path / "store", n_steps=120)
    check_survives_killed_drivers(config, truth(config), ["inline"] * 2, seed=3, n_blind=1)
