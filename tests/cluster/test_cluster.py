"""Experiments spread over hosts that come, share and do not see the store."""

import time
from functools import partial
from pathlib import Path

import pytest

import streamscalar as ss
from streamscalar.runtime import run
from tests.cluster.conftest import Hosts, wait_for
from tests.cluster.experiments import run_command, run_trained_on, slow_config

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

TRAINS = "ray::TrainerActor.train"


def test_an_experiment_spreads_over_hosts_as_they_join(hosts: Hosts, tmp_path: Path) -> None:
    truth = run(slow_config(tmp_path / "truth", 400, n_runs=3)).digest()
    store = tmp_path / "store"
    hosts.start_head()
    driver = hosts.head.start(*run_command(hosts, slow_config(store, 400, n_runs=3)))
    wait_for("the driver to say that no host is there", lambda: "waits for a node with 1 CPU" in driver.said)
    hosts.start_worker(hosts.worker1)
    run_trained_on(hosts.worker1, store)
    assert not hosts.worker2.pids_of("ray::")
    hosts.start_worker(hosts.worker2)
    for kind in (TRAINS, "ray::EmbedderActor"):
        for worker in hosts.workers:
            wait_for(f"{kind} on {worker.name}", partial(worker.pids_of, kind))
    driver.finish()
    assert ss.open(store).digest() == truth
    wait_for("the actors to end", lambda: not any(worker.pids_of("Actor") for worker in hosts.workers))


def test_a_second_experiment_waits_for_the_first(hosts: Hosts, tmp_path: Path) -> None:
    configs = [slow_config(tmp_path / "first", 400), slow_config(tmp_path / "second", 100)]
    truths = [run(slow_config(tmp_path / f"truth{n}", n)).digest() for n in (400, 100)]
    hosts.start_head()
    hosts.start_worker(hosts.worker1)
    drivers = [hosts.head.start(*run_command(hosts, configs[0]))]
    run_trained_on(hosts.worker1, tmp_path / "first")
    drivers.append(hosts.head.start(*run_command(hosts, configs[1])))
    wait_for("the second to queue", lambda: "waits for 1 CPU, which others use" in drivers[1].said)
    for driver in drivers:
        driver.finish()
    assert [ss.open(config.store_path).digest() for config in configs] == truths


def test_a_fraction_of_a_gpu_lets_trainers_share_it(hosts: Hosts, tmp_path: Path) -> None:
    store = tmp_path / "store"
    config = slow_config(store, 150, n_runs=4)
    shared = config.cluster.model_copy(update={"gpus_per_trainer": 0.5, "cpus_per_trainer": 0.5})
    hosts.start_head()
    # Ray counts what it is told of; torch finds no device here and trains on the CPU.
    hosts.start_worker(hosts.worker1, n_cpus=4, n_gpus=1)
    driver = hosts.head.start(*run_command(hosts, config.model_copy(update={"cluster": shared})))
    at_once = 0
    while not driver.has_ended():
        at_once = max(at_once, len(hosts.worker1.pids_of(TRAINS)))
        time.sleep(0.2)
    driver.finish()
    assert at_once == 2


def test_a_host_that_does_not_see_the_store_is_left_out(hosts: Hosts, tmp_path: Path) -> None:
    store = tmp_path / "shared" / "store"
    store.parent.mkdir()
    truth = run(slow_config(tmp_path / "truth", 100)).digest()
    hosts.start_head()
    hosts.start_worker(hosts.worker1, hidden=store.parent)
    driver = hosts.head.start(*run_command(hosts, slow_config(store, 100)))
    wait_for("the reason", lambda: f"node {hosts.worker1.address}" in driver.said)
    assert "store.url must be on storage that every node sees" in driver.said
    hosts.start_worker(hosts.worker2)
    driver.finish()
    assert not hosts.worker1.pids_of(TRAINS)
    assert ss.open(store).digest() == truth
