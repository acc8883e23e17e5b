"""The query API on a real Ray Serve."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import streamscalar as ss
from streamscalar.client import connect
from streamscalar.errors import BadCall
from tests.integration.conftest import READ


@pytest.fixture
def address(local_ray: None, small_store: Path, tmp_path: Path) -> Iterator[str]:
    """Deploy on a free loopback port."""
    from ray import serve

    from streamscalar_services.serve import app

    for name in ("token", "admin-token"):
        (tmp_path / name).write_text(READ if name == "token" else READ + "-admin")
        (tmp_path / name).chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment = app({"root": str(small_store.parent), "tokens": str(tmp_path)})
    serve.run(deployment, name="query", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()  # type: ignore[no-untyped-call]


def test_it_answers_as_the_plain_service_does(address: str, small_store: Path) -> None:
    assert httpx.get(f"{address}/health", trust_env=False).status_code == 200
    assert httpx.get(f"{address}/v1/runs", trust_env=False).status_code == 401
    with connect(address, READ) as client:
        assert len(client.runs()) == 4
        found = client.embedding("small:lr1_ic0", max_points=1000)
        assert (found.to_numpy() == ss.open(small_store).run("lr1_ic0").embedding().values).all()
        headers = {"authorization": f"Bearer {READ}"}
        with httpx.stream("GET", f"{address}/v1/events", headers=headers, trust_env=False) as stream:
            assert next(stream.iter_lines()).startswith("retry:")


def test_the_folder_must_be_said() -> None:
    from streamscalar_services.serve import app

    with pytest.raises(BadCall, match="root: must be given"):
        app({})
