"""A real service over a real store, in a process of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Truth, small_config

READ, ADMIN = "read-token-of-the-tests", "admin-token-of-the-tests"


@dataclass
class Service:
    """A running `streamscalar serve`.

    Attributes
    ----------
    root
        What it serves.
    port
        Where; the same after a restart.
    """

    root: Path | str
    port: int = 0
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] = field(init=False)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "streamscalar", "serve", str(self.root), "--port", str(self.port)]
        environment = {**os.environ, "STREAMSCALAR_TOKEN": READ, "STREAMSCALAR_ADMIN_TOKEN": ADMIN}
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        link = self.process.stdout.readline()
        found = re.fullmatch(rf"Dashboard: http://127\.0\.0\.1:(\d+)/#token={READ}\n", link)
        assert found, link
        self.port = int(found[1])
        with self.client() as client:
            for _ in range(200):
                if client.get("/ready").status_code == 200:
                    return
                time.sleep(0.05)
        raise AssertionError("the service never got ready")

    def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def client(self, token: str | None = READ, **headers: str) -> httpx.Client:
        """Return a client that waits until the socket is there."""
        own = headers if token is None else {"authorization": f"Bearer {token}", **headers}
        transport = httpx.HTTPTransport(retries=20)
        return httpx.Client(base_url=self.url, headers=own, transport=transport, timeout=30)

    def get(self, path: str, token: str | None = READ, **query: Any) -> httpx.Response:
        """Return the answer to one request."""
        with self.client(token) as client:
            return client.get(path, params=query)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def small_store(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished experiment, alone in its folder: regular and diverging digits."""
    path = tmp_path_factory.mktemp("stores") / "small"
    return Path(shutil.copytree(str(truth(small_config(path)).store.path), path))


@pytest.fixture(scope="module")
def service(small_store: Path) -> Iterator[Service]:
    """Serve the folder of `small_store`."""
    running = Service(small_store.parent)
    running.start()
    yield running
    running.kill()
