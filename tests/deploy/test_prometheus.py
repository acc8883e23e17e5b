"""Prometheus' configuration and rules, and Grafana's dashboard, against a real service."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.pages import DEPLOY, command, run_here
from tests.integration.conftest import Service, service, small_store

__all__ = ["service", "small_store"]

PROMETHEUS = DEPLOY / "prometheus"
NAME = r"\b(?:streamscalar|ray)_[a-z0-9_]+\b"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is absent"
)


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
    return document


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in _dashboard()["panels"] if panel["type"] != "row"]


def _expressions() -> dict[str, str]:
    """Return every query of the rules and the dashboard, by who asks it."""
    found = {rule.get("record") or rule["alert"]: rule["expr"] for rule in _rules()}
    for panel in _panels():
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


@needs_promtool
@pytest.mark.parametrize("start", ["promtool check config", "promtool check rules", "promtool test rules"])
def test_the_checks_of_the_page(start: str) -> None:
    printed = run_here(command("prometheus", start), PROMETHEUS)
    assert "SUCCESS" in printed
    assert "FAILED" not in printed


@needs_promtool
@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_a_configuration_is_whole(name: str, tmp_path: Path) -> None:
    document = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))
    token = tmp_path / "token"
    token.write_text("secret")
    for job in document["scrape_configs"]:
        # Debian builds Prometheus without Kubernetes' discovery; the rest of such a job is checked.
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [{"targets": ["pod:1"]}]
        if "authorization" in job:
            assert job["authorization"]["credentials_file"] == "/etc/prometheus/streamscalar-token"
            job["authorization"]["credentials_file"] = str(token)
    (tmp_path / name).write_text(yaml.safe_dump(document))
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    done = subprocess.run(["promtool", "check", "config", str(tmp_path / name)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_jobs_of_both_configurations_are_the_same() -> None:
    for name in ("prometheus.yml", "kubernetes.yml"):
        jobs = {job["job_name"]: job for job in yaml.safe_load((PROMETHEUS / name).read_text())["scrape_configs"]}
        assert jobs.keys() == {"streamscalar", "ray"}
        assert "authorization" in jobs["streamscalar"]
        assert "authorization" not in jobs["ray"], "Ray's metrics know no token; do not show it ours"
        for job in jobs.values():
            for discovery in job.get("kubernetes_sd_configs", []):
                assert discovery == {"role": "pod", "namespaces": {"names": ["streamscalar"]}}


def test_every_metric_asked_for_is_one_that_the_service_gives(service: Service) -> None:
    assert service.get("/v1/runs").status_code == 200
    text = service.get("/metrics").text
    given = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    asked = {name for text in _expressions().values() for name in re.findall(NAME, text)}
    asked |= set(re.findall(NAME, json.dumps(_dashboard()["templating"])))
    assert len(asked) > 10
    assert asked - given == set()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    # Prometheus adds the instance itself.
    for who, expression in _expressions().items():
        for name, inside in re.findall(rf"({NAME})\{{([^}}]*)\}}", expression):
            used = set(re.findall(r"([a-z_]+)\s*[=!]", inside))
            assert used <= labels[name] | {"instance"}, f"{who}: {name}"


def test_every_rule_is_tried_and_says_what_to_do() -> None:
    tests = (PROMETHEUS / "rules_test.yml").read_text("utf-8")
    for rule in _rules():
        name = rule.get("record") or rule["alert"]
        assert name in tests, f"{name} has no test"
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}
            assert rule["annotations"].keys() == {"summary", "description"}


def test_no_query_leaves_a_label_per_run_or_step() -> None:
    for who, expression in _expressions().items():
        assert not re.search(r"by \([^)]*\b(run|step|replica|layer)\b", expression), who


def test_the_dashboard_can_be_imported(tmp_path: Path) -> None:
    dashboard = _dashboard()
    assert (dashboard["id"], dashboard["uid"]) == (None, "streamscalar")
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["instance"]["datasource"] == source
    panels = _panels()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        assert all("$instance" in target["expr"] for target in panel["targets"])
        assert panel["description"]
    taken = [
        (x, y)
        for at in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(taken)) == len(taken), "no panel lies on another"
    assert max(x for x, _ in taken) == 23
    (tmp_path / "dashboard.json").write_text(json.dumps(dashboard))
    run_here(command("grafana", "python3 -c"), tmp_path)
    assert json.loads((tmp_path / "import.json").read_text())["dashboard"] == dashboard


@needs_promtool
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    # As recorded series: promtool 2.42 parses queries in rules alone.
    queries = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in _expressions().values()]
    rules = [{"record": f"query:{index}", "expr": query} for index, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert f"{len(queries)} rules found".encode() in done.stdout
