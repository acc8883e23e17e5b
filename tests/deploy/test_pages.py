"""Every command of the pages is run by a test, or stands here with the reason why not."""

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from streamscalar_services.api.tokens import Tokens
from tests.deploy.pages import DEPLOY, PAGES, command, commands, run_here

RUN = {
    "docker": ["(umask 077; printf"],
    "ray": ["(umask 077", "HEAD=", "export RAY_AUTH_MODE", "ray start", "ray status", "streamscalar run", "python -c"],
    "kubernetes": [
        "grep -rn CHANGE",
        "kubectl kustomize",
        "openssl rand",
        "(umask 077",
        "kubectl create secret",
    ],
    "prometheus": ["promtool check", "promtool test"],
    "grafana": ["python3 -c"],
    "systemd": ["(umask 077", "/opt/streamscalar/bin/streamscalar config show", "systemd-analyze"],
}
"""How the commands start that tests of this folder run."""

NOT_RUN = {
    "docker": {
        "docker": "no container runtime here",
        "curl": "asks the container",
    },
    "kubernetes": {
        "kubectl apply": "needs a Kubernetes",
        "kubectl delete": "needs a Kubernetes",
        "kubectl --namespace streamscalar": "needs a Kubernetes",
        "curl": "asks the service in Kubernetes",
    },
    "prometheus": {
        "apt-get install": "changes the machine; .ci/run does it",
        "install": "changes /etc/prometheus",
        "systemctl": "no systemd runs here",
        "promtool query": "needs a running Prometheus that has scraped",
    },
    "grafana": {"curl": "needs a Grafana"},
    "systemd": {
        "python3 -m venv /opt": "installs the package once more, of minutes",
        "/opt/streamscalar/bin/pip": "the same",
        "useradd": "changes the machine",
        "userdel": "changes the machine",
        "install": "changes /etc",
        "rm": "changes /etc",
        "systemctl": "no systemd runs here",
        "journalctl": "no systemd runs here",
        "curl": "asks the unit; a test asks what the unit starts",
    },
}
"""How the others start, and why they are not run."""

FOLDERS = sorted(path.parent.name for path in DEPLOY.glob("*/README.md"))

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is absent")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes tokens, is absent")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_command_is_accounted_for(folder: str) -> None:
    run, not_run = RUN[folder], NOT_RUN.get(folder, {})
    for text in commands(folder):
        starts = [start for start in (*run, *not_run) if text.startswith(start)]
        assert len(starts) == 1, f"{text}: {starts}"
    for start in (*run, *not_run):
        assert any(text.startswith(start) for text in commands(folder)), f"{start}: no such command any more"


def test_each_folder_has_a_page_that_says_all() -> None:
    assert sorted(PAGES) == FOLDERS
    for page in PAGES:
        text = (DEPLOY / page / "README.md").read_text("utf-8")
        assert "**Choose it**" in text
        for word in ("Install", "Check", "Upgrade"):
            assert re.search(rf"^## {word}", text, re.MULTILINE), f"{page}: {word}"
        assert re.search(r"^## .*[Rr]emove", text, re.MULTILINE), page


def test_every_link_and_file_is_there() -> None:
    for path in DEPLOY.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(DEPLOY)}: {target}"


def test_nothing_names_a_real_registry_or_holds_a_token() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text("utf-8")
            assert not re.search(r"\b(ghcr\.io|quay\.io|docker\.io|gcr\.io)\b", text), path
            assert not re.search(r"\b[0-9a-f]{40,}\b", text), path


@needs_kubectl
@needs_openssl
def test_the_secrets_hold_tokens_that_both_sides_take(tmp_path: Path) -> None:
    run_here(command("kubernetes", "(umask 077; mkdir"), tmp_path)
    files = {file.name: file for file in (tmp_path / "api-tokens").iterdir()}
    assert files.keys() == {"token", "admin-token"}
    assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o600}
    made = {}
    for start in ("openssl rand -hex 32 |", "kubectl create secret generic streamscalar-api"):
        # The command itself, without a Kubernetes to send the result to.
        text = command("kubernetes", start) + " --dry-run=client --output yaml"
        document = yaml.safe_load(run_here(text, tmp_path, KUBECONFIG="/dev/null"))
        assert document["metadata"]["namespace"] == "streamscalar"
        made[document["metadata"]["name"]] = {key: base64.b64decode(value) for key, value in document["data"].items()}
    assert re.fullmatch(rb"[0-9a-f]{64}", made["streamscalar-ray"]["auth_token"]), (
        "an environment variable keeps newlines"
    )
    assert made["streamscalar-api"].keys() == {"token", "admin-token"}
    assert Tokens.load(tmp_path / "api-tokens", {}).read == made["streamscalar-api"]["token"].decode().strip()


@needs_kubectl
def test_what_is_to_change_is_marked_and_the_build_of_the_page_works() -> None:
    marked = run_here(command("kubernetes", "grep -rn CHANGE"), DEPLOY.parent)
    for what in ("storageClassName: shared-rwx", "registry.example.com", "name: kuberay-system", "name: monitoring"):
        assert re.search(rf"{re.escape(what)}.*# CHANGE", marked), what
    built = run_here(command("kubernetes", "kubectl kustomize"), DEPLOY.parent)
    assert {"RayJob", "RayService"} <= {document["kind"] for document in yaml.safe_load_all(built)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_command_is_a_command(folder: str) -> None:
    for text in commands(folder):
        checked = subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False)
        assert checked.returncode == 0, text
