"""Ray as the pages start it, on two machines with the real ports."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.deploy.machines import Machine, needs_namespaces, two_machines
from tests.deploy.pages import DEPLOY, blocks, command, run_here

PORTS = ["port", "node-manager-port", "object-manager-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"]
PORTS += ["dashboard-agent-listen-port", "metrics-export-port", "ray-client-server-port"]
PORTS += ["min-worker-port", "max-worker-port"]
STARTED = "Ray runtime started"
SMALL = "--set training.n_steps=20 --set 'training.learning_rate=[1]' --set experiment.n_initial_conditions=2"


def _options(text: str) -> dict[str, str]:
    """Return the ports that a command gives to `ray start`."""
    found: dict[str, str] = dict(re.findall(r"--([a-z-]*port)=(\d+)", text))
    return found


def _recipe() -> tuple[str, str, str]:
    """Return the three blocks of the page: the token, the head, a worker."""
    token, head, worker = blocks("ray", "Install")
    return token, head, worker


def _cluster_yaml() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text("utf-8"))
    return document


def _parameters(name: str) -> list[dict[str, str]]:
    """Return the start parameters of the head and the workers of a manifest."""
    spec = yaml.safe_load((DEPLOY / "kubernetes" / "base" / name).read_text("utf-8"))["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    return [group["rayStartParams"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_all_recipes_fix_the_same_ports() -> None:
    _, head, worker = _recipe()
    launcher = _cluster_yaml()
    heads = [_options(head), _options(" ".join(launcher["head_start_ray_commands"]))]
    workers = [_options(worker), _options(" ".join(launcher["worker_start_ray_commands"]))]
    for name in ("experiment.yaml", "query.yaml"):
        first, *others = [{key: value for key, value in group.items() if key in PORTS} for group in _parameters(name)]
        heads.append(first)
        workers += others
    assert heads[0].keys() == set(PORTS)
    assert heads == [heads[0]] * 4
    expected = {key: port for key, port in heads[0].items() if key not in {"port", "ray-client-server-port"}}
    assert workers == [expected] * 4
    page = (DEPLOY / "ray" / "README.md").read_text("utf-8")
    assert all(f"`--{name}`" in page for name in PORTS), "the table of ports names each option"


def test_ray_knows_every_option_and_no_port_is_left_to_chance() -> None:
    from ray.scripts.scripts import start

    known = {name.lstrip("-") for option in start.params for name in option.opts}
    used = set(re.findall(r"--([a-z-]+)", " ".join(_recipe()[1:])))
    assert used <= known
    ports = {name for name in known if name.endswith("-port") and not name.startswith("redis")}
    assert ports - set(PORTS) == {"dashboard-port"}
    for name in ("experiment.yaml", "query.yaml"):
        for group in _parameters(name):
            assert group.keys() <= known


def test_the_launcher_takes_its_file() -> None:
    assert run_here(command("ray", "python -c"), DEPLOY / "ray").endswith("valid\n")
    launcher = _cluster_yaml()
    for start in (launcher["head_start_ray_commands"][1], launcher["worker_start_ray_commands"][1]):
        assert "RAY_AUTH_MODE=token" in start
    assert "chmod 600 ~/.ray/auth_token" in launcher["setup_commands"]
    assert launcher["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    # Sockets must have short names, and both machines see the same /tmp.
    with TemporaryDirectory(dir="/tmp") as sockets, two_machines(tmp_path) as pair:
        for machine in pair:
            machine.environment = {"HOME": str(tmp_path), "RAY_TMPDIR": f"{sockets}/{machine.address[-1]}"}
        yield pair


@needs_namespaces
def test_the_recipe_makes_a_closed_cluster_that_works(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    head, worker = machines
    token, head_recipe, worker_recipe = _recipe()
    (tmp_path / "shared").mkdir()
    head.run(token)
    file = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_text("ascii")
    head.run(token)
    assert file.read_text("ascii") == first, "a second call keeps the token"

    head.start(head_recipe, STARTED)
    worker.start(worker_recipe + " --num-cpus=1", STARTED)
    export, status, run = blocks("ray", "Check")[0].splitlines()
    # What the autoscaler says comes some seconds late.
    assert any(head.run(f"{export}\nsleep 1\n{status}").count("node_") >= 2 for _ in range(20))
    example = run.replace("/shared/", f"{tmp_path}/shared/").replace("--set training.n_steps=50", SMALL)
    assert "report:" in worker.run(f"{export}\n{example}")
    denied = worker.run(
        f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'0' * 64} ray health-check --address 10.0.0.1:6379 || echo no"
    )
    assert denied.strip().endswith("no")

    fixed = set(_options(head_recipe).values())
    allowed = fixed | {"44217", "44227"}
    for machine in machines:
        ports = set(re.findall(r"^LISTEN.*?:(\d+) ", machine.run("ss -Hltn"), re.MULTILINE))
        strange = {port for port in ports - allowed if not 10002 <= int(port) <= 10999}
        assert not strange, f"ports that the page does not name on {machine.address}"
        assert "8265" not in ports, "no dashboard unless asked"
    assert {"6379", "6380", "6381", "10001"} <= set(re.findall(r":(\d+) ", head.run("ss -Hltn")))
