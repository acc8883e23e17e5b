"""The built manifests: against the published schemas, and against each other."""

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamscalar.config import load_config
from tests.deploy.pages import DEPLOY, commands

KUBERNETES = DEPLOY / "kubernetes"
SCHEMAS = DEPLOY.parents[1] / "shared" / "kuberay"
OVERLAYS = ("cpu", "gpu")
OLDEST, NEWEST = "1.33", "1.37"
"""Versions of Kubernetes whose schemas the manifests must fit."""

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which builds the overlays, is absent")

Document = dict[str, Any]


def _kustomized(folder: Path) -> list[Document]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@cache
def _built(overlay: str) -> list[Document]:
    return _kustomized(KUBERNETES / "overlays" / overlay)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def documents(overlay: str) -> list[Document]:
    return deepcopy(_built(overlay))


@pytest.fixture(scope="module")
def autoscaled(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """Build an overlay with the component that its comment names."""
    folder = shutil.copytree(KUBERNETES, tmp_path_factory.mktemp("autoscaled") / "kubernetes")
    file = folder / "overlays" / "cpu" / "kustomization.yaml"
    text = file.read_text("utf-8")
    assert text.count("\n# components:") == 1
    file.write_text(text.replace("\n# components:", "\ncomponents:"))
    return _kustomized(file.parent)


def _one(documents: list[Document], kind: str, name: str | None = None) -> Document:
    found = [d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}"
    return found[0]


def _clusters(documents: list[Document]) -> list[Document]:
    return [
        _one(documents, "RayJob")["spec"]["rayClusterSpec"],
        _one(documents, "RayService")["spec"]["rayClusterConfig"],
    ]


def _pods(documents: list[Document]) -> Iterator[tuple[dict[str, str], Document]]:
    """Yield labels, as KubeRay completes them, and spec of every pod."""
    job = _one(documents, "RayJob")["spec"]["submitterPodTemplate"]
    yield job["metadata"]["labels"], job["spec"]
    for cluster in _clusters(documents):
        for kind, group in [("head", cluster["headGroupSpec"]), *(("worker", g) for g in cluster["workerGroupSpecs"])]:
            labels = group["template"]["metadata"]["labels"]
            yield {**labels, "ray.io/node-type": kind, "ray.io/is-ray-node": "yes"}, group["template"]["spec"]


def _containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def _strict(schema: Any) -> Any:
    """Return a schema that refuses fields it does not know."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    open_ended = found.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in found
    if isinstance(found.get("properties"), dict) and not open_ended and found.get("type") == "object":
        found["additionalProperties"] = False
    return found


@cache
def _schema(kind: str) -> Document:
    file = SCHEMAS / f"{kind.lower()}s.v1.schema.json.gz"
    if not file.exists():
        pytest.skip(f"the schema of KubeRay's {kind} is not at {file}")
    schema: Document = _strict(json.loads(gzip.decompress(file.read_bytes())))
    schema["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    return schema


def _errors(document: Document) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    found = jsonschema.Draft7Validator(_schema(document["kind"])).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def test_kuberays_schemas(documents: list[Document], autoscaled: list[Document]) -> None:
    for document in (*documents, *autoscaled):
        if document["apiVersion"] == "ray.io/v1":
            assert _errors(document) == []


def test_the_schema_is_strict(documents: list[Document]) -> None:
    job = _one(documents, "RayJob")
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    job["spec"]["backoffLimit"] = "3"
    assert len(_errors(job)) == 2


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_own_schemas(documents: list[Document], autoscaled: list[Document], version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    own = [d for d in (*documents, *autoscaled) if d["apiVersion"] != "ray.io/v1"]
    assert {d["kind"] for d in own} == {
        "ConfigMap", "Namespace", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget",
    }  # fmt: skip
    for document in own:
        assert validator.validate(document, version, strict=True) == version
    # The pods inside KubeRay's kinds are Kubernetes' own.
    for labels, spec in (*_pods(documents), *_pods(autoscaled)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": spec}
        assert validator.validate(pod, version, strict=True) == version


def test_everything_is_in_the_namespace(documents: list[Document]) -> None:
    space = _one(documents, "Namespace")["metadata"]
    assert space["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {d["metadata"]["namespace"] for d in documents if d["kind"] != "Namespace"} == {space["name"]}


def test_every_pod_fits_the_restricted_standard(documents: list[Document], autoscaled: list[Document]) -> None:
    for labels, pod in (*_pods(documents), *_pods(autoscaled)):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, labels
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["restartPolicy"] == "Never"
        for container in _containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"].keys() == {"requests", "limits"}
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    options = _one(autoscaled, "RayJob")["spec"]["rayClusterSpec"]["autoscalerOptions"]
    assert options["securityContext"]["readOnlyRootFilesystem"] is True


def test_only_the_autoscaled_head_may_ask_kubernetes(documents: list[Document], autoscaled: list[Document]) -> None:
    assert all(pod["automountServiceAccountToken"] is False for _, pod in _pods(documents))
    allowed = [labels["ray.io/node-type"] for labels, pod in _pods(autoscaled) if pod["automountServiceAccountToken"]]
    assert allowed == ["head"]


def test_a_read_only_root_has_places_to_write(documents: list[Document]) -> None:
    for labels, pod in _pods(documents):
        kinds = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            paths = {mount["mountPath"]: kinds[mount["name"]] for mount in container["volumeMounts"]}
            assert "emptyDir" in paths["/tmp"]
            assert "emptyDir" in paths["/home/streamscalar"]
            if "ray.io/node-type" in labels:
                assert paths["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([MG]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


def test_the_object_store_fits_into_the_shared_memory(documents: list[Document]) -> None:
    for cluster in _clusters(documents):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (shm,) = (v["emptyDir"] for v in pod["volumes"] if v["name"] == "shm")
            limit = _bytes(pod["containers"][0]["resources"]["limits"]["memory"])
            assert int(group["rayStartParams"]["object-store-memory"]) < _bytes(shm["sizeLimit"]) < limit / 2


def test_every_name_leads_somewhere(documents: list[Document]) -> None:
    made = {(d["kind"], d["metadata"]["name"]) for d in documents}
    # The two Secrets are made by commands of the page, with the keys that are asked for here.
    page = "\n".join(commands("kubernetes"))
    secrets = set(re.findall(r"create secret generic (\S+)", page))
    assert "--from-file=auth_token=" in page
    assert "for name in token admin-token" in page
    used = set()
    for _, pod in _pods(documents):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert len(volumes) == len(pod["volumes"])
        mounted = {mount["name"] for container in _containers(pod) for mount in container["volumeMounts"]}
        assert mounted == volumes.keys(), "every volume is mounted, every mount has its volume"
        for volume in volumes.values():
            if "secret" in volume:
                used.add(volume["secret"]["secretName"])
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in made
    used |= {cluster["authOptions"]["secretName"] for cluster in _clusters(documents)}
    assert used == secrets


def test_no_secret_is_in_a_manifest(documents: list[Document], autoscaled: list[Document]) -> None:
    assert not [d for d in (*documents, *autoscaled) if d["kind"] == "Secret"]
    for _, pod in _pods(documents):
        names = {entry["name"] for container in _containers(pod) for entry in container.get("env", [])}
        assert not {name for name in names if "TOKEN" in name or name.startswith("RAY_AUTH")}


def test_the_token_of_ray_reaches_all_parts(documents: list[Document]) -> None:
    pins = (DEPLOY / "docker" / "constraints.txt").read_text("utf-8").splitlines()
    for cluster in _clusters(documents):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "streamscalar-ray"}
        # KubeRay goes by this version for the token and for its probes.
        assert f"ray=={cluster['rayVersion']}" in pins


def test_images_are_ones_own_and_never_latest(documents: list[Document], overlay: str) -> None:
    names: dict[str, set[str]] = {}
    for labels, pod in _pods(documents):
        for container in _containers(pod):
            repository, _, tag = container["image"].partition(":")
            assert repository == "registry.example.com/streamscalar"
            assert container["imagePullPolicy"] == "IfNotPresent"
            names.setdefault(labels["app.kubernetes.io/component"], set()).add(tag)
    assert names == {"submitter": {"0.1.0-cpu"}, "experiment": {f"0.1.0-{'cuda' if overlay == 'gpu' else 'cpu'}"},
                     "query": {"0.1.0-cpu"}}  # fmt: skip


def test_a_retry_continues_the_store_of_a_valid_config(documents: list[Document], overlay: str, tmp_path: Path) -> None:
    job = _one(documents, "RayJob")["spec"]
    assert job["entrypoint"].split()[:3] == ["streamscalar", "run", "/config/experiment.yaml"]
    assert (job["shutdownAfterJobFinishes"], job["submissionMode"]) == (True, "K8sJobMode")
    assert job["backoffLimit"] > 0
    (text,) = _one(documents, "ConfigMap")["data"].values()
    (tmp_path / "experiment.yaml").write_text(text)
    config = load_config(tmp_path / "experiment.yaml", environment={})
    assert config.store.url is not None
    assert config.store.url.startswith("/stores/")
    head = job["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    (worker,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = int(limits.get("nvidia.com/gpu", 0))
    if overlay == "gpu":
        assert gpus / config.cluster.gpus_per_trainer == int(limits["cpu"]) / config.cluster.cpus_per_trainer == 4
        assert worker["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert config.training.device == "cuda"
    else:
        assert gpus == config.cluster.gpus_per_trainer == 0


def test_the_query_service_is_what_serve_deploys(documents: list[Document]) -> None:
    from ray.serve.schema import ServeDeploySchema

    spec = _one(documents, "RayService")["spec"]
    served = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = served.applications
    module, _, attribute = application.import_path.partition(":")
    assert hasattr(__import__(module, fromlist=[attribute]), attribute)
    (worker,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    paths = {mount["mountPath"] for mount in worker["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert {application.args["root"], application.args["tokens"]} <= paths
    ports = {p["name"]: p["containerPort"] for p in worker["template"]["spec"]["containers"][0]["ports"]}
    assert served.http_options.port == ports["serve"]
    assert (worker["replicas"], worker["maxReplicas"]) == (1, 1)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def test_policies_select_pods_and_open_ports_that_are_there(documents: list[Document]) -> None:
    pods = [(labels, pod) for labels, pod in _pods(documents)]
    client: tuple[dict[str, str], Document] = ({"streamscalar-client": "true"}, {"containers": []})
    policies = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        chosen = [pod for pod in (*pods, client) if _selects(policy["podSelector"], pod[0])]
        assert chosen, f"{name} selects no pod"
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy.get(direction, []):
                targets = chosen
                for peer in rule[peers]:
                    if "podSelector" in peer and "namespaceSelector" not in peer:
                        found = [pod for pod in (*pods, client) if _selects(peer["podSelector"], pod[0])]
                        assert found, f"{name}: nobody is {peer}"
                        targets = found if direction == "egress" else targets
                open_ports = {entry["port"] for entry in rule.get("ports", [])} - {53}
                containers = [container for _, pod in targets for container in pod["containers"]]
                declared = {entry["containerPort"] for one in containers for entry in one.get("ports", [])}
                assert open_ports <= declared, f"{name} opens ports that no container has"


def _reached(documents: list[Document], labels: Mapping[str, str], source: Mapping[str, str]) -> set[int] | None:
    """Return the ports of a pod that another pod of the namespace may come in by; all are `None`."""
    ports: set[int] = set()
    for policy in (d["spec"] for d in documents if d["kind"] == "NetworkPolicy"):
        if not _selects(policy["podSelector"], labels):
            continue
        for rule in policy.get("ingress", []):
            if any("namespaceSelector" not in peer and _selects(peer["podSelector"], source) for peer in rule["from"]):
                if "ports" not in rule:
                    return None
                ports |= {entry["port"] for entry in rule["ports"]}
    return ports


def test_who_reaches_what(documents: list[Document]) -> None:
    labels = {(pod["app.kubernetes.io/component"], pod.get("ray.io/node-type")): pod for pod, _ in _pods(documents)}
    head, worker = labels["experiment", "head"], labels["experiment", "worker"]
    query, submitter = labels["query", "worker"], labels["submitter", None]
    client = {"streamscalar-client": "true"}
    assert _reached(documents, head, worker) is _reached(documents, worker, head) is None
    assert _reached(documents, head, submitter) == {8265}
    assert _reached(documents, worker, submitter) == _reached(documents, query, submitter) == set()
    assert _reached(documents, query, client) == {8000}
    assert _reached(documents, head, client) == _reached(documents, labels["query", "head"], client) == set()
    assert _reached(documents, head, query) == _reached(documents, query, head) == set(), "two clusters, apart"
    assert _reached(documents, head, {"app": "stranger"}) == _reached(documents, query, {"app": "stranger"}) == set()


def test_a_drain_waits_for_the_head_alone(documents: list[Document]) -> None:
    budget = _one(documents, "PodDisruptionBudget")["spec"]
    chosen = [labels for labels, _ in _pods(documents) if _selects(budget["selector"], labels)]
    assert [(pod["app.kubernetes.io/component"], pod["ray.io/node-type"]) for pod in chosen] == [("experiment", "head")]
