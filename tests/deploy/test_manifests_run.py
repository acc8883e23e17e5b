"""What the manifests start really starts: as user 10001, with a read-only root, on two machines."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import streamscalar as ss
from tests.conftest import small_config
from tests.deploy.machines import REPOSITORY, Machine, needs_namespaces, two_machines
from tests.deploy.pages import DEPLOY

pytestmark = [needs_namespaces, pytest.mark.timeout(1500)]

BASE = DEPLOY / "kubernetes" / "base"
ONE = {"n_initial_conditions": 1}
READ = "reading-token-of-the-query-service"


def _spec(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((BASE / name).read_text("utf-8"))["spec"]
    return document


def _start(parameters: Mapping[str, str], *more: str) -> str:
    """Return the command that KubeRay makes of start parameters."""
    options = [f"--{name}={value}" for name, value in parameters.items()]
    return " ".join(["ulimit -n 65536 || true; exec ray start --block", *options, *more])


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Make what the pods mount: stores, the config, and the two Secrets as files of a group."""
    folder = tmp_path / "mnt"
    for name, mode in (("stores", 0o770), ("config", 0o755), ("mounted", 0o750), ("secrets", 0o770), ("logs", 0o755)):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(mode)
    for name in ("token", "admin-token"):
        file = folder / "mounted" / name
        file.write_text(READ if name == "token" else "admin-" + READ)
        file.chmod(0o440)
    for path in (folder / "stores", folder / "mounted", folder / "secrets", *(folder / "mounted").iterdir()):
        # As fsGroup does: root's files, readable to the group, and folders that the group may write to.
        os.chown(path, 0, 10001)
    config = small_config(folder / "stores" / "small", experiment=ONE, cluster={"executor": "ray"})
    (folder / "config" / "experiment.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    return folder


@pytest.fixture
def pods(shared: Path) -> Iterator[tuple[Machine, Machine]]:
    read_only = dict.fromkeys([sys.prefix, sys.base_prefix, str(REPOSITORY), str(shared / "config")])
    binds = [f"ro:{folder}" for folder in (*read_only, shared / "mounted") if not str(folder).startswith("/usr")]
    binds += [f"rw:{shared / name}" for name in ("stores", "secrets")]
    with two_machines(shared / "logs", " ".join(binds)) as pair:
        for machine in pair:
            machine.environment = {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": "token-that-kuberay-hands-to-every-container",
                "RAY_USAGE_STATS_ENABLED": "0",
            }
        yield pair


def test_a_root_that_is_read_only_and_no_rights(pods: tuple[Machine, Machine]) -> None:
    found = pods[0].run(
        "id -u; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status; touch /etc/x 2>&1 || true; touch /tmp/x ~/x"
    )
    assert found.split() == [
        "10001", "CapBnd:", "0000000000000000", "NoNewPrivs:", "1",
        "touch:", "cannot", "touch", "'/etc/x':", "Read-only", "file", "system",
    ]  # fmt: skip


def test_the_job_runs_on_its_cluster_and_a_retry_continues(pods: tuple[Machine, Machine], shared: Path) -> None:
    spec = _spec("experiment.yaml")
    head, worker = pods
    _start_cluster(spec["rayClusterSpec"], head, worker)
    entrypoint = spec["entrypoint"].replace("/config/", f"{shared}/config/")
    digests = []
    for attempt in ("first", "retry"):
        # What KubeRay's submitter calls, from another pod's point of view.
        job = f"ray job submit --address http://10.0.0.1:8265 --submission-id {attempt} -- {entrypoint}"
        assert f"Job '{attempt}' succeeded" in worker.run(job)
        digests.append(ss.open(shared / "stores" / "small").digest())
    assert digests[0] == digests[1]
    assert [len(run.steps()) for run in ss.open(shared / "stores" / "small").runs.values()] == [41] * 2
    # KubeRay's probes carry no token; everything else needs it.
    paths = ("52365/api/healthz", "8265/api/gcs_healthz", "8265/api/jobs/", "8265/api/version")
    ask = "wget -q --server-response -O /dev/null http://10.0.0.1:"
    answers = [head.run(f"({ask}{path} || true) 2>&1 | head -n 1") for path in paths]
    assert [answer.split()[1] for answer in answers] == ["200", "200", "401", "401"]


def test_the_service_is_deployed_and_reads_its_tokens(pods: tuple[Machine, Machine], shared: Path) -> None:
    ss.run(small_config(shared / "stores" / "small", experiment=ONE))
    spec = _spec("query.yaml")
    cluster = spec["rayClusterConfig"]
    head, worker = pods
    init = cluster["workerGroupSpecs"][0]["template"]["spec"]["initContainers"][0]["command"]
    words = [word.replace("/mounted", f"{shared}/mounted").replace("/secrets", f"{shared}/secrets") for word in init]
    worker.run(" ".join(words))
    assert worker.run(f"stat -c '%a %u' {shared}/secrets/token").split() == ["400", "10001"]
    _start_cluster(cluster, head, worker)

    text = spec["serveConfigV2"].replace(": /stores", f": {shared}/stores").replace(": /secrets", f": {shared}/secrets")
    (shared / "stores" / "serve.yaml").write_text(text)
    worker.run(f"serve deploy --address http://10.0.0.1:8265 {shared}/stores/serve.yaml")
    ask = "wget -q -T 5 -O - http://10.0.0.2:8000"
    deadline = time.monotonic() + 600
    while "ok" not in head.run(f"{ask}/ready || true"):
        assert time.monotonic() < deadline, head.run("serve status --address http://10.0.0.1:8265")
        time.sleep(1)
    assert "success" in worker.run("wget -q -T 10 -O - http://localhost:8000/-/healthz"), "KubeRay's readiness probe"
    assert head.run(f"{ask}/v1/runs || echo $?").strip() == "6", "wget's code for a refused authentication"
    answer = json.loads(head.run(f"{ask}/v1/runs --header='Authorization: Bearer {READ}'"))
    assert len(answer["items"]) == 2


def _start_cluster(cluster: Mapping[str, Any], head: Machine, worker: Machine) -> None:
    head_parameters = cluster["headGroupSpec"]["rayStartParams"]
    # KubeRay sets these three where they are missing, and the CPUs by the limit of the container.
    head.start(_start(head_parameters, "--head", "--dashboard-host=0.0.0.0"), "Ray runtime started")
    worker_parameters = cluster["workerGroupSpecs"][0]["rayStartParams"]
    worker.start(_start(worker_parameters, "--address=10.0.0.1:6379", "--num-cpus=2"), "Ray runtime started")
