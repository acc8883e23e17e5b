"""What happens to an experiment on a cluster: hosts die, links are cut, drivers vanish."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamscalar as ss
from streamscalar import Experiment
from streamscalar.store import Store
from tests.cluster.experiments import attempt, run_command, trainings, wait_for_rows
from tests.cluster.hosts import Host, Hosts, Process
from tests.polling import PollingReader
from tests.processes import command_line, is_running, wait_for
from tests.slow import slow_config

TRAINS = "ray::TrainerActor.train"
COORDINATOR = "ray::CoordinatorActor"
MOMENT_S = 2.0
"""How long a link is cut for a moment: less than a head takes to give its host up."""


@dataclass
class Disturbed:
    """An experiment in progress.

    Attributes
    ----------
    earlier
        Coordinators of other experiments, which answer for a while after the end.
    run_id
        The run that the last fault struck.
    """

    cluster: Hosts
    store: Path
    driver: Process
    earlier: list[int]
    run_id: str = ""

    def struck(self) -> tuple[Host, int, int]:
        """Choose a run that trains; return its host, the process of its trainer, and its attempt."""
        found: list[tuple[Host, str, int]] = []

        def choose() -> bool:
            found[:] = [
                (host, run_id, pid)
                for host in self.cluster.workers
                for run_id, pid in trainings(host, self.store).items()
                if Store.open(self.store).reader(run_id).embedding.n_rows
            ]
            return bool(found)

        wait_for("a training", choose)
        host, self.run_id, pid = found[0]
        return host, pid, attempt(self.store, self.run_id)


def a_host_is_lost(it: Disturbed) -> None:
    """Kill a host: its work moves to another."""
    host, _, before = it.struck()
    host.kill(host.pids_of("raylet/raylet"))
    wait_for("the detection", lambda: host.address not in it.cluster.nodes.alive)
    wait_for_rows(it.store, it.run_id, before)


def a_link_is_cut_and_heals(it: Disturbed) -> None:
    """Cut a link for long: a trainer that goes on behind it is fenced out by its successor, and stays so."""
    host, orphan, before = it.struck()
    host.cut()
    wait_for("the detection", lambda: host.address not in it.cluster.nodes.alive)
    assert is_running(orphan)
    assert orphan in host.pids_of(TRAINS), "it trains on, alone"
    wait_for_rows(it.store, it.run_id, before)
    wait_for("the orphan to stop", lambda: orphan not in host.pids_of(TRAINS))
    host.heal()
    wait_for_rows(it.store, it.run_id, before, n_new=2)
    assert attempt(it.store, it.run_id) == before + 1


def a_link_is_cut_for_a_moment(it: Disturbed) -> None:
    """Cut a link for less than the head takes to give its host up: nothing changes."""
    host, _, before = it.struck()
    host.cut()
    time.sleep(MOMENT_S)
    host.heal()
    wait_for_rows(it.store, it.run_id, n_new=2)
    assert attempt(it.store, it.run_id) == before


def driver_and_coordinator_are_killed(it: Disturbed) -> None:
    """Kill both: a new coordinator starts from the store, and a new driver attaches, leaves, and attaches again."""
    head = it.cluster.head
    _, _, before = it.struck()
    it.driver.kill()
    (coordinator,) = set(head.pids_of(COORDINATOR)) - set(it.earlier)
    head.kill([coordinator])
    attach = head.streamscalar("attach", str(it.store), "--address", it.cluster.cluster, "--json")
    leaving = head.start(*attach)
    wait_for_rows(it.store, it.run_id, before)
    wait_for("the view", lambda: "runs done" in leaving.said)
    leaving.interrupt()
    leaving.finish()
    assert "The experiment keeps running" in leaving.said
    it.driver = driver = head.start(*attach)
    wait_for("the view again", lambda: "runs done" in driver.said)


def the_head_is_lost(it: Disturbed) -> None:
    """Kill the head: the driver gives up, and a new cluster resumes while actors of the old one still train."""
    cluster = it.cluster
    _, orphan, before = it.struck()
    cluster.head.kill([pid for pid in cluster.head.pids() if "streamscalar " not in command_line(pid)])
    wait_for("the driver to give up", it.driver.has_ended)
    assert it.driver.exit_code == 1
    assert "every acknowledged row is kept" in it.driver.said
    assert "Traceback" not in it.driver.said
    assert is_running(orphan), "an old actor is still there"
    old = {pid for host in cluster.workers for pid in host.pids_of(TRAINS)}
    cluster.start_cluster()
    resume = cluster.head.streamscalar("resume", str(it.store), "--address", cluster.cluster, "--json")
    it.driver = cluster.head.start(*resume)
    wait_for_rows(it.store, it.run_id, before)
    wait_for("old actors to stop", lambda: not old & {pid for host in cluster.workers for pid in host.pids_of(TRAINS)})


Fault = Callable[[Disturbed], None]
FAULTS: tuple[Fault, ...] = (
    a_link_is_cut_for_a_moment,
    a_host_is_lost,
    driver_and_coordinator_are_killed,
    a_link_is_cut_and_heals,
    the_head_is_lost,
)
NEED_ROOM = (a_host_is_lost, a_link_is_cut_and_heals)
"""Faults after which the work needs another host."""


def check_survives(cluster: Hosts, store: Path, undisturbed: Experiment, faults: Sequence[Fault]) -> Process:
    """Run an experiment through `faults`; it ends with the digest of an undisturbed local run.

    A reader compares every row all the time. Returns the last driver.
    """
    cluster.hold()
    cluster.repair()
    earlier = cluster.head.pids_of(COORDINATOR)
    it = Disturbed(cluster, store, cluster.head.start(*run_command(cluster, slow_config(store))), earlier)
    try:
        with PollingReader(store, undisturbed):
            for fault in faults:
                if fault in NEED_ROOM:
                    cluster.repair()
                fault(it)
            cluster.release()
            it.driver.finish()
    except BaseException:
        # What is left of the experiment would hold the cluster.
        cluster.head.close()
        raise
    assert ss.open(store).digest() == undisturbed.digest()
    return it.driver


def random_order(seed: int, n: int) -> list[Fault]:
    """Return `n` faults, any of them several times."""
    return random.Random(seed).choices(FAULTS, k=n)
