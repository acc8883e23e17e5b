"""Many runs and many clients at once.

Proves that an experiment of 200 runs on Ray, served to eight clients that never pause, ends complete, that no request
fails, and that runs have the bits that they have alone. Takes seven minutes.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamscalar import runtime
from streamscalar.store import verify
from tests.conftest import Truth, small_config
from tests.integration.conftest import Service

RATES = [round(0.1 * (1 + index), 1) for index in range(20)]
N_STARTS, N_CLIENTS = 10, 8


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Service]:
    """Serve a folder, empty at first."""
    (tmp_path / "stores").mkdir()
    running = Service(tmp_path / "stores")
    running.start()
    yield running
    running.kill()


def ask(service: Service, seed: int, over: threading.Event, answers: Counter[int]) -> None:
    """Request the list and random runs until `over`."""
    rng = random.Random(seed)
    with service.client() as client:
        while not over.is_set():
            listed = client.get("/v1/runs", params={"limit": 100})
            answers[listed.status_code] += 1
            for item in rng.sample(listed.json()["items"], min(3, len(listed.json()["items"]))):
                answers[client.get(f"/v1/runs/{item['id']}/embedding").status_code] += 1


@pytest.mark.usefixtures("local_ray")
def test_many_runs_and_clients(loaded: Service, tmp_path: Path, truth: Truth) -> None:
    assert isinstance(loaded.root, Path)
    config = small_config(
        loaded.root / "many",
        experiment={"n_initial_conditions": N_STARTS},
        training={"learning_rate": RATES, "pack_size": 10},
        cluster={"executor": "ray"},
    )
    over, answers = threading.Event(), Counter[int]()
    clients = [threading.Thread(target=ask, args=(loaded, seed, over, answers)) for seed in range(N_CLIENTS)]
    for client in clients:
        client.start()
    try:
        experiment = runtime.run(config)
    finally:
        over.set()
        for client in clients:
            client.join()
    # A run may be listed before its first row is embedded; its embedding is then not found.
    assert set(answers) <= {200, 404}, answers
    assert answers[200] > 100
    assert len(experiment.runs) == len(RATES) * N_STARTS
    assert all(run.is_complete for run in experiment.runs.values())
    assert list(verify(experiment.store)) == []
    alone = truth(small_config(tmp_path / "unused", training={"learning_rate": [RATES[3]]}))
    for run_id in alone.runs:
        assert (experiment.store.reader(run_id).weights() == alone.store.reader(run_id).weights()).all()
