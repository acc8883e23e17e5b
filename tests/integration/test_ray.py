"""Ray against inline: equal bits."""

from pathlib import Path

import pytest

from streamscalar.runtime import run
from tests.conftest import small_config

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("local_ray")
def test_executors_and_numbers_of_trainers_give_equal_digests(tmp_path: Path) -> None:
    inline = run(small_config(tmp_path / "inline")).digest()
    for n_trainers in (1, 2):
        cluster = {"executor": "ray", "max_concurrent_runs": n_trainers}
        assert run(small_config(tmp_path / f"ray{n_trainers}", cluster=cluster)).digest() == inline
