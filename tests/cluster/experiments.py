"""Experiments on the hosts: how they begin, and who writes which run."""

from pathlib import Path

from streamscalar.config import Config
from streamscalar.store import Store
from tests.cluster.conftest import Host, Hosts, wait_for
from tests.conftest import small_config


def slow_config(store: Path, n_steps: int, n_runs: int = 2) -> Config:
    """Return runs of `n_steps` updates of a network that takes at least 60 ms for each on the hosts (ten passes)."""
    return small_config(
        store,
        experiment={"name": store.name, "n_initial_conditions": n_runs},
        model={"name": "tests.cluster.slow:Slow"},
        training={"n_steps": n_steps, "learning_rate": 1},
        store={"segment_rows": 32},
    )


def run_command(hosts: Hosts, config: Config) -> list[str]:
    """Write a config down and return the command that runs it on the cluster."""
    file = hosts.folder / f"{config.experiment.name}.json"
    file.write_text(config.model_dump_json())
    return hosts.head.streamscalar("run", str(file), "--address", hosts.cluster, "--executor", "ray", "--json")


def run_trained_on(worker: Host, store: Path, n_rows: int = 96) -> str:
    """Wait until a trainer of `worker` has had `n_rows` rows of a run embedded; return the run."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [run_id for pid in worker.pids_of("ray::TrainerActor.train") for run_id in _logs_of(pid, store)]
        return bool(found) and Store.open(store).reader(found[0]).n_embedded >= n_rows

    wait_for(f"a training on {worker.name}", look)
    return found[0]


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


def wait_for_rows(store: Path, run_id: str, after_attempt: int) -> float:
    """Wait until a newer attempt than `after_attempt` has written a new row; return the seconds that it took."""
    reader = Store.open(store).reader(run_id)
    n_rows = reader.n_rows
    return wait_for("a new row", lambda: attempt(store, run_id) > after_attempt and reader.n_rows > n_rows, 100)
