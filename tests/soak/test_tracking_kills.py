"""Many kills of tracked trainings and of the workers that record them.

Proves that at no moment a row that was handed over is lost, and that no step waits for a worker that starts again.
Takes about a minute for each seed.
"""

from pathlib import Path

import pytest

from streamscalar.tracking.channel import ring
from tests.tracking_kills import check_killed_trainings_lose_no_row, check_killed_workers_lose_no_row


@pytest.fixture(autouse=True)
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for few rows on their way, so that a test soon meets a full ring."""
    monkeypatch.setattr(ring, "MOST_SLOTS", 4)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_trainings(tmp_path: Path, seed: int) -> None:
    check_killed_trainings_lose_no_row(tmp_path, seed, n_kills=5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_workers(tmp_path: Path, seed: int) -> None:
    check_killed_workers_lose_no_row(tmp_path, seed, {15, 40, 70})
