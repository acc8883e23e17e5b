"""Hosts die, links are cut, drivers vanish: the work goes on, and nothing that was acknowledged is lost.

Each experiment ends with the digest of an undisturbed local run, under the eyes of a reader that compares every row.
"""

import json
import time
from functools import partial
from pathlib import Path

import pytest

import streamscalar as ss
from streamscalar import Experiment
from streamscalar.runtime import run
from tests.cluster.conftest import Hosts, command_line, is_running, wait_for
from tests.cluster.experiments import attempt, run_command, run_trained_on, slow_config, wait_for_rows
from tests.polling import PollingReader

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.faults]

N_STEPS = 600
GOES_ON_S = 60.0
"""Seconds after a failure is detected within which its runs have new rows."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return run(slow_config(tmp_path_factory.mktemp("truth") / "store", N_STEPS))


def test_the_work_of_a_lost_host_moves_to_another(cluster: Hosts, tmp_path: Path, truth: Experiment) -> None:
    store = tmp_path / "store"
    nodes = cluster.follow_nodes()
    driver = cluster.head.start(*run_command(cluster, slow_config(store, N_STEPS)))
    with PollingReader(store, truth):
        run_id = run_trained_on(cluster.worker1, store)
        before = attempt(store, run_id)
        cluster.worker1.kill(cluster.worker1.pids_of("raylet/raylet"))
        wait_for("the detection", lambda: cluster.worker1.address not in nodes.alive)
        assert wait_for_rows(store, run_id, before) < GOES_ON_S
        driver.finish()
    assert ss.open(store).digest() == truth.digest()


def test_a_cut_link_that_heals_brings_no_second_writer(hosts: Hosts, tmp_path: Path, truth: Experiment) -> None:
    store = tmp_path / "store"
    # Ray's own settings take a minute to give a host up; see the page on faults.
    hosts.head.environment.update(RAY_health_check_period_ms="1000", RAY_health_check_timeout_ms="1000")
    hosts.start_cluster()
    nodes = hosts.follow_nodes()
    driver = hosts.head.start(*run_command(hosts, slow_config(store, N_STEPS)))
    with PollingReader(store, truth):
        run_id = run_trained_on(hosts.worker1, store)
        (orphan,) = hosts.worker1.pids_of("ray::TrainerActor.train")
        before = attempt(store, run_id)
        hosts.worker1.cut()
        wait_for("the detection", lambda: hosts.worker1.address not in nodes.alive)
        assert is_running(orphan)
        assert hosts.worker1.pids_of("ray::TrainerActor.train") == [orphan], "it trains on, alone"
        assert wait_for_rows(store, run_id, before) < GOES_ON_S
        # Fenced out by the new attempt, it gives up; the new one goes on.
        wait_for("the orphan to stop", lambda: not hosts.worker1.pids_of("ray::TrainerActor.train"))
        hosts.worker1.heal()
        driver.finish()
    assert attempt(store, run_id) == before + 1
    assert ss.open(store).digest() == truth.digest()


def test_a_link_cut_for_a_moment_changes_nothing(cluster: Hosts, tmp_path: Path, truth: Experiment) -> None:
    store = tmp_path / "store"
    driver = cluster.head.start(*run_command(cluster, slow_config(store, N_STEPS)))
    with PollingReader(store, truth):
        run_id = run_trained_on(cluster.worker1, store)
        before = attempt(store, run_id)
        cluster.worker1.cut()
        time.sleep(5)
        cluster.worker1.heal()
        driver.finish()
    assert attempt(store, run_id) == before
    assert ss.open(store).digest() == truth.digest()


def test_a_new_driver_attaches_where_the_first_was_killed(cluster: Hosts, tmp_path: Path, truth: Experiment) -> None:
    store = tmp_path / "store"
    driver = cluster.head.start(*run_command(cluster, slow_config(store, N_STEPS)))
    attach = cluster.head.streamscalar("attach", str(store), "--address", cluster.cluster, "--json")
    with PollingReader(store, truth):
        run_id = run_trained_on(cluster.worker1, store)
        before = attempt(store, run_id)
        driver.kill()
        # Its coordinator, beside it, needs nobody: not the driver, and not its own memory.
        (coordinator,) = cluster.head.pids_of("ray::CoordinatorActor")
        cluster.head.kill([coordinator])
        leaving = cluster.head.start(*attach)
        wait_for_rows(store, run_id, before)
        wait_for("the view", lambda: "runs done" in leaving.said)
        leaving.interrupt()
        leaving.finish()
        assert "The experiment keeps running" in leaving.said
        cluster.head.start(*attach).finish()
    assert ss.open(store).digest() == truth.digest()
    again = cluster.head.run(*attach)
    assert json.loads(again.stdout)["experiment"]["name"] == "store", "a finished one is shown"


def test_after_the_head_is_lost_a_new_cluster_resumes(hosts: Hosts, tmp_path: Path, truth: Experiment) -> None:
    store = tmp_path / "store"
    # Minutes may pass until the new cluster trains; the old trainers, left alone, must not be done by then.
    for worker in hosts.workers:
        worker.environment["SLOW_MS"] = "25"
    hosts.start_cluster()
    driver = hosts.head.start(*run_command(hosts, slow_config(store, N_STEPS)))
    with PollingReader(store, truth):
        run_id = run_trained_on(hosts.worker1, store, n_rows=32)
        (orphan,) = hosts.worker1.pids_of("ray::TrainerActor.train")
        before = attempt(store, run_id)
        hosts.head.kill([pid for pid in hosts.head.pids() if "streamscalar run" not in command_line(pid)])
        wait_for("the driver to give up", partial(driver.has_ended))
        assert driver.exit_code == 1
        assert "every acknowledged row is kept" in driver.said
        assert "Traceback" not in driver.said
        assert is_running(orphan), "an old actor is still there"
        for worker in hosts.workers:
            worker.environment["SLOW_MS"] = "1"
        hosts.start_cluster()
        resume = hosts.head.streamscalar("resume", str(store), "--address", hosts.cluster, "--json")
        resumed = hosts.head.start(*resume)
        assert wait_for_rows(store, run_id, before) < GOES_ON_S
        resumed.finish()
    assert ss.open(store).digest() == truth.digest()
