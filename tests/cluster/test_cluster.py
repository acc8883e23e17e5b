"""Experiments spread over hosts that come, share and do not see the store."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import streamscalar as ss
from tests.cluster.experiments import run_command, run_trained_on
from tests.cluster.hosts import Hosts
from tests.conftest import Truth
from tests.processes import wait_for
from tests.slow import slow_config

short = partial(slow_config, n_steps=60)
TRAINS = "ray::TrainerActor.train"


@pytest.fixture(scope="module")
def started(hosts: Hosts) -> Hosts:
    """Hosts of which one is the head of a cluster."""
    hosts.start_head()
    return hosts


@pytest.fixture
def head(started: Hosts) -> Iterator[Hosts]:
    """Hosts of which one is the head of a cluster, and no other has joined; trainings are slow."""
    started.hold()
    yield started
    for worker in started.workers:
        worker.close()


def test_an_experiment_spreads_over_hosts_that_join_and_see_its_store(
    head: Hosts, tmp_path: Path, truth: Truth
) -> None:
    store = tmp_path / "shared" / "store"
    store.parent.mkdir()
    driver = head.head.start(*run_command(head, short(store)))
    wait_for("the driver to say that no host is there", lambda: "waiting for a node with 1 CPU" in driver.said)
    blind, seeing = head.stranger, head.worker1
    blind.environment["RAY_AUTH_TOKEN"] = head.token
    head.start_worker(blind, hidden=store.parent)
    wait_for("the reason", lambda: f"node {blind.address}" in driver.said)
    assert "store.url must be on storage that every node sees" in driver.said
    head.start_worker(seeing)
    run_trained_on(seeing, store)
    assert not head.worker2.pids_of("ray::")
    head.start_worker(head.worker2)
    for kind in (TRAINS, "ray::EmbedderActor"):
        for worker in head.workers:
            wait_for(f"{kind} on {worker.name}", partial(worker.pids_of, kind))
    head.release()
    driver.finish()
    assert not blind.pids_of(TRAINS)
    assert ss.open(store).digest() == truth(short(tmp_path / "unused")).digest()
    wait_for("the actors to end", lambda: not any(worker.pids_of("Actor") for worker in head.workers))
    blind.close()


def test_a_second_experiment_waits_for_the_first(head: Hosts, tmp_path: Path, truth: Truth) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    head.start_worker(head.worker1)
    drivers = [head.head.start(*run_command(head, short(first)))]
    run_trained_on(head.worker1, first)
    drivers.append(head.head.start(*run_command(head, short(second))))
    wait_for("the second to queue", lambda: "waiting for 1 CPU to become free" in drivers[1].said)
    head.release()
    for driver in drivers:
        driver.finish()
    assert [ss.open(store).digest() for store in (first, second)] == [truth(short(tmp_path / "unused")).digest()] * 2


def test_a_fraction_of_a_gpu_lets_trainers_share_it(head: Hosts, tmp_path: Path) -> None:
    config = short(tmp_path / "store", n_runs=4)
    shared = config.cluster.model_copy(update={"gpus_per_trainer": 0.5, "cpus_per_trainer": 0.5})
    # Ray counts what it is told of; torch finds no device here and trains on the CPU.
    head.start_worker(head.worker1, n_cpus=4, n_gpus=1)
    driver = head.head.start(*run_command(head, config.model_copy(update={"cluster": shared})))
    wait_for("two trainings", lambda: len(head.worker1.pids_of(TRAINS)) == 2)
    head.release()
    at_once = 2
    while not driver.has_ended():
        at_once = max(at_once, len(head.worker1.pids_of(TRAINS)))
        time.sleep(0.2)
    driver.finish()
    assert at_once == 2
