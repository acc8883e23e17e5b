"""SIGKILL of an actor of each kind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Truth
from tests.kills import ACTORS, check_survives_killed_actors
from tests.slow import slow_config


@pytest.mark.usefixtures("local_ray")
def test_killed_actors_are_replaced_and_the_digest_is_the_same(
    tmp_path: Path, truth: Truth, release: Callable[[], None]
) -> None:
    config = slow_config(tmp_path / "store")
    config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"executor": "ray"})})
    check_survives_killed_actors(config, truth(config), ACTORS, 2, release)
