"""Experiments on the hosts: how they begin, and who writes which run."""

from collections.abc import Iterator
from pathlib import Path

from streamscalar.config import Config
from streamscalar.store import Store
from tests.cluster.hosts import Host, Hosts
from tests.processes import wait_for

PATIENCE_S = 300.0
"""A run goes on within seconds on an idle machine; a busy one may take minutes."""


def run_command(hosts: Hosts, config: Config) -> list[str]:
    """Write a config beside its store and return the command that runs it on the cluster."""
    file = Path(config.store_path).with_suffix(".json")
    file.write_text(config.model_dump_json())
    return hosts.head.streamscalar("run", str(file), "--address", hosts.cluster, "--executor", "ray", "--json")


def trainings(host: Host, store: Path) -> dict[str, int]:
    """Return the runs that trainers of `host` write, and the process of each."""
    return {run_id: pid for pid in host.pids_of("ray::TrainerActor.train") for run_id in _logs_of(pid, store)}


def run_trained_on(host: Host, store: Path, n_rows: int = 8) -> str:
    """Wait until a trainer of `host` has had `n_rows` rows of a run embedded; return the run."""

    def found() -> Iterator[str]:
        for run_id in trainings(host, store):
            if Store.open(store).reader(run_id).embedding.n_rows >= n_rows:
                yield run_id

    wait_for(f"a training on {host.name}", lambda: any(found()))
    return next(found())


def _logs_of(pid: int, store: Path) -> list[str]:
    """Return the runs whose write-ahead files a process has open."""
    found = []
    try:
        for link in list(Path(f"/proc/{pid}/fd").iterdir()):
            target = link.readlink()
            if target.suffix == ".wal" and target.is_relative_to(store):
                found.append(target.relative_to(store / "runs").parts[0])
    except OSError:
        return []
    return found


def attempt(store: Path, run_id: str) -> int:
    """Return the number of the writer that owns a run's weights."""
    return int((store / "runs" / run_id / "wal" / "weights" / "lock").read_text())


def wait_for_rows(store: Path, run_id: str, newer_than: int = -1, n_new: int = 1) -> float:
    """Wait for `n_new` rows more, of a newer attempt than `newer_than`; return the seconds that it took."""
    reader = Store.open(store).reader(run_id)
    n_rows = reader.n_rows + n_new
    return wait_for("new rows", lambda: attempt(store, run_id) > newer_than and reader.n_rows >= n_rows, PATIENCE_S)
