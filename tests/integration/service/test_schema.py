"""The API holds to its own OpenAPI schema whatever is asked: no 5xx, no answer that the schema does not allow."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from streamscalar_services.api.schemas import AlertDocument, RunItem
from tests.integration.conftest import ADMIN, READ, Service

STREAM = "/v1/events"
HEADERS = {"authorization": f"Bearer {ADMIN}"}


def _operations(service: Service) -> Iterator[Any]:
    """Yield the operations of the running service, with the names of the store as examples."""
    document = service.get("/v1/openapi.json").json()
    names = {"run": "small:lr5_ic1", "name": "small", "metric": "loss"}
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["example"] = names[parameter["name"]]
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = service.url
    schema.config.checks.negative_data_rejection.expected_statuses += ["413", "414"]
    for found in schema.get_all_operations():
        # An endless answer has a test of its own.
        assert isinstance(found, Ok)
        if found.ok().path != STREAM:
            yield found.ok()


def check_no_question_breaks_the_schema(service: Service, n_examples: int) -> None:
    """Ask `n_examples` generated questions of each operation, and as many that the schema does not allow."""
    operations = list(_operations(service))
    assert len(operations) > 15
    for operation in operations:
        for mode in GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=n_examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            def ask(case: Any) -> None:
                case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])

            # What takes nothing has nothing to get wrong.
            with contextlib.suppress(Unsatisfiable):
                ask()


def test_no_question_breaks_the_schema(service: Service) -> None:
    check_no_question_breaks_the_schema(service, 8)


def test_events_hold_to_their_schema(service: Service) -> None:
    """What the stream sends are the documents of the schema: a run is added, so that there is something to tell."""
    found: list[tuple[str, str]] = []

    def follow() -> None:
        headers = {"authorization": f"Bearer {READ}"}
        with httpx.stream("GET", service.url + STREAM, headers=headers, timeout=60, trust_env=False) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            kind = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                if line.startswith("data: "):
                    found.append((kind, line[6:]))
                    return

    follower = threading.Thread(target=follow)
    follower.start()
    time.sleep(0.5)
    (Path(service.root) / "small" / "runs" / "lr1_ic0" / "status.json").touch()
    follower.join(30)
    kind, text = found[0]
    assert kind in ("rows", "runs")
    for item in json.loads(text)["items"]:
        fields = RunItem.model_fields if kind == "runs" else {"id", "state", "n_rows", "step", "loss", "accuracy"}
        assert set(item) == set(fields)
    assert AlertDocument.model_json_schema()["additionalProperties"] is False
