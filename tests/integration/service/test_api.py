"""The query API as a client meets it: a real service over a real store."""

import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamscalar as ss
from streamscalar.client import Client, connect
from streamscalar.errors import BadCall
from tests.integration.conftest import ADMIN, READ, Service

RUN = "small:lr5_ic1"


def _routes(service: Service) -> list[tuple[str, str]]:
    """Return every route of the schema, with names filled in."""
    paths = service.get("/v1/openapi.json").json()["paths"]
    filled = {"{run}": RUN, "{name}": "small", "{metric}": "loss"}
    found = []
    for path, methods in paths.items():
        whole = path
        for pattern, value in filled.items():
            whole = whole.replace(pattern, value)
        found += [(method.upper(), whole) for method in methods]
    return found


def test_only_health_and_the_page_are_open(service: Service) -> None:
    routes = _routes(service)
    assert len(routes) > 15
    with service.client(token=None) as client:
        for method, path in [*routes, ("GET", "/v1/openapi.json"), ("GET", "/v1/nothing"), ("GET", "/docs")]:
            answer = client.request(method, path)
            expected = 200 if path in ("/health", "/ready") else 401
            assert answer.status_code == expected, (method, path)
            if expected == 401:
                assert answer.headers["content-type"] == "application/problem+json"
                assert "small" not in answer.text
        assert client.get("/").status_code == 200
        assert client.get("/static/plotly.js").status_code == 200


@pytest.mark.parametrize(
    "header",
    ["Bearer wrong-token-of-some-length", "Basic " + READ, READ, "bearer\t" + READ, "Bearer " + "x" * 9000],
)
def test_a_wrong_token_is_refused(service: Service, header: str) -> None:
    with service.client(token=None) as client:
        assert client.get("/v1/runs", headers={"authorization": header}).status_code == 401


def test_changes_need_the_admin_token(service: Service) -> None:
    with service.client() as reader, service.client(token=ADMIN) as admin:
        assert reader.post(f"/v1/runs/{RUN}/cancel").status_code == 403
        assert reader.post("/v1/experiments/small/runs", json={"learning_rate": [2]}).status_code == 403
        assert admin.get("/v1/runs").status_code == 200
        assert admin.post("/v1/runs/small:nothing/cancel").status_code == 404
        poor: Any
        for poor in ({"learning_rate": []}, {"learning_rate": [-1]}, {"learning_rate": ["nan"]}, {"x": 1}, [], None):
            assert admin.post("/v1/experiments/small/runs", json=poor).status_code == 422


def test_the_cookie_of_the_link(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/v1/session")
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert READ not in cookie
    value = cookie.split(";")[0]
    with service.client(token=None, cookie=value) as client:
        assert client.get("/v1/runs").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.post(f"/v1/runs/{RUN}/cancel").status_code == 403
    with service.client(token=ADMIN) as client:
        powerful = client.post("/v1/session").headers["set-cookie"].split(";")[0]
    with service.client(token=None, cookie=powerful) as client:
        path = "/v1/runs/small:nothing/cancel"
        assert client.post(path).status_code == 403
        assert client.post(path, headers={"origin": "http://elsewhere.example"}).status_code == 403
        assert client.post(path, headers={"origin": service.url}).status_code == 404
    with service.client(token=None, cookie=value[:-1] + "0") as client:
        assert client.get("/v1/runs").status_code == 401


def test_no_origin_is_ever_allowed_across(service: Service) -> None:
    with service.client(origin="http://elsewhere.example") as client:
        answer = client.get("/v1/runs")
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert client.options("/v1/runs").status_code == 405
        assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runs/small:..",
        "/v1/runs/..%2f..%2fetc:passwd",
        "/v1/runs/small:..%2f..%2fzarr.json",
        "/v1/runs/small:%00",
        "/v1/experiments/..",
        "/v1/experiments/%2e%2e",
        "/static/../app.py",
        "/static/%2e%2e/%2e%2e/api/auth.py",
        "/static/..%2f..%2fapi/auth.py",
    ],
)
def test_paths_cannot_escape(service: Service, path: str) -> None:
    # Raw bytes: a client library would tidy the path up.
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {READ}\r\nconnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
    status = int(answer.split()[1])
    assert status in (404, 422), answer
    assert "Tokens" not in answer


def test_what_is_too_large_is_refused(service: Service) -> None:
    with service.client(token=ADMIN) as client:
        assert client.get("/v1/runs", params={"filter": "x" * 501}).status_code == 422
        assert client.get("/v1/runs", params={"filter": "x" * 9000}).status_code == 414
        assert client.get("/v1/runs", params={"limit": 501}).status_code == 422
        assert client.get(f"/v1/runs/{RUN}/embedding", params={"max_points": 100_001}).status_code == 422
        many = ",".join(f"small:r{k}" for k in range(65))
        assert client.get("/v1/compare", params={"runs": many}).status_code == 422
        answer = client.post("/v1/experiments/small/runs", content=b'{"learning_rate": [' + b"1," * 40_000 + b"1]}")
        assert answer.status_code == 413


def test_slow_requests_are_cut(service: Service) -> None:
    began = time.monotonic()
    head = f"POST /v1/experiments/small/runs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n"
    with (
        socket.create_connection(("127.0.0.1", service.port)) as no_head,
        socket.create_connection(("127.0.0.1", service.port)) as no_body,
    ):
        no_head.sendall(b"GET /v1/runs HTTP/1.1\r\nhost:")
        no_body.sendall((head + "content-type: application/json\r\ncontent-length: 30\r\n\r\n{").encode())
        no_body.settimeout(30)
        no_head.settimeout(30)
        while time.monotonic() - began < 8:
            # A byte now and then is not enough to stay.
            no_head.sendall(b"a")
            time.sleep(1)
        assert no_head.recv(100) == b""
        assert no_body.recv(100).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 20
    assert service.get("/health").status_code == 200


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x00\xa5\x01\x00", b"GET\r\n\r\n", b"\x00" * 100])
def test_what_is_no_http_is_refused(service: Service, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.settimeout(30)
        raw.sendall(junk)
        answer = raw.recv(200)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert service.get("/health").status_code == 200


def test_answers_equal_the_store(service: Service, small_store: Path) -> None:
    run = ss.open(small_store).run("lr5_ic1")
    client = connect(service.url, READ)
    embedding = client.embedding(RUN, max_points=1000)
    assert list(embedding.columns) == ["reference", "perturbed 1", "perturbed 2", "perturbed 3", "control"]
    np.testing.assert_array_equal(embedding.to_numpy(), run.embedding().values)
    np.testing.assert_array_equal(client.divergence(RUN).to_numpy(), run.divergence("l1").values)
    np.testing.assert_array_equal(client.metric(RUN, "accuracy").to_numpy(), run.metrics("accuracy").values)
    estimates = client.get(f"/v1/runs/{RUN}/estimates")["estimates"]
    assert estimates == {name: found.to_json() for name, found in run.estimates().estimates.items()}
    details = client.run(RUN)
    assert details["n_parameters"] == run.layout.n_parameters
    assert details["item"]["regime"] == str(run.estimates().regime)
    settings = client.get("/v1/experiments/small")["settings"]
    document = ss.open(small_store).analyze().to_json()["settings"]
    assert settings[0]["estimates"]["ftle"] == document[0]["ftle"]
    assert [setting["regime"] for setting in settings] == [setting["regime"] for setting in document]


def test_lists_are_filtered_sorted_and_paged(service: Service) -> None:
    client = connect(service.url, READ)
    for _ in range(100):
        if client.get("/v1/runs")["n_analysed"] == 4:
            break
        time.sleep(0.1)
    assert len(client.runs()) == 4
    assert set(client.runs("learning_rate>2").learning_rate) == {5.0}
    assert list(client.runs("ic0 state=done", "learning_rate").id) == ["small:lr1_ic0", "small:lr5_ic0"]
    assert client.runs("regime=nothing").empty
    assert len(client.runs("tag=tiny group=small")) == 4
    assert client.runs("tag!=tiny").empty
    exponents = client.runs(sort="-exponent").exponent.to_list()
    assert exponents == sorted(exponents, reverse=True)
    first = client.get("/v1/runs", sort="id", limit=3)
    second = client.get("/v1/runs", sort="id", limit=3, cursor=first["next_cursor"])
    assert [item["run_id"] for item in first["items"] + second["items"]] == ["lr1_ic0", "lr1_ic1", "lr5_ic0", "lr5_ic1"]
    assert second["next_cursor"] is None
    for poor in ("colour=red", "learning_rate=fast", "regime>2", "n_rows<x"):
        with pytest.raises(BadCall, match="filter: must"):
            client.runs(poor)
    with pytest.raises(BadCall, match="sort: must be one of"):
        client.runs(sort="colour")


def test_runs_are_compared_on_a_shared_axis(service: Service, small_store: Path) -> None:
    ids = ["small:lr1_ic0", "small:lr5_ic0"]
    table = connect(service.url, READ).compare(ids)
    assert table.attrs["axis"] == "shared"
    experiment = ss.open(small_store)
    joint = experiment.joint_embedding(["lr1_ic0", "lr5_ic0"])
    for name, series in joint.items():
        correlation = np.corrcoef(table[f"small:{name}"], series.values[:, 0])[0, 1]
        assert abs(correlation) > 0.98
    losses = connect(service.url, READ).compare(ids, "loss")
    np.testing.assert_array_equal(losses["small:lr1_ic0"], experiment.run("lr1_ic0").metrics("loss").values[:, 0])


def test_the_nearest_run_starts_at_the_same_weights(service: Service) -> None:
    client = connect(service.url, READ)
    near = client.get("/v1/runs/small:lr1_ic0/nearest", k=3)
    assert near["method"] == "weights"
    assert len(near["items"]) == 3
    by_shape = client.get("/v1/runs/small:lr1_ic0/nearest", k=1, method="shape")
    assert by_shape["items"][0]["run"] == "small:lr1_ic1"
    assert set(by_shape["items"][0]["features"]) == {"speed", "curvature", "autocorrelation", "exponent"}


def test_the_same_answer_is_sent_once(service: Service) -> None:
    with service.client(**{"accept-encoding": "gzip"}) as client:
        first = client.get(f"/v1/runs/{RUN}/embedding")
        assert first.headers["content-encoding"] == "gzip"
        again = client.get(f"/v1/runs/{RUN}/embedding", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = client.get(f"/v1/runs/{RUN}/embedding?component=1", headers={"if-none-match": first.headers["etag"]})
        assert other.status_code == 200


def test_metrics_for_prometheus(service: Service) -> None:
    service.get(f"/v1/runs/{RUN}/embedding")
    text = service.get("/metrics").text
    assert 'streamscalar_alerts{level="error"}' in text
    assert 'streamscalar_runs{state="done"} 4.0' in text
    assert 'route="/v1/runs/{run}/embedding"' in text
    assert "lr5_ic1" not in text


def test_a_wrong_token_and_a_dead_service_are_one_sentence_each(service: Service) -> None:
    with pytest.raises(BadCall, match="authorization: must be a bearer token of this service"):
        connect(service.url, "x" * 20)
    with pytest.raises(BadCall, match="must be a running service"):
        Client("http://127.0.0.1:9", READ, patience_s=0.1).get("/v1/runs")
