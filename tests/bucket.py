"""An S3 service (moto) in a process of its own, with the faults of a network on demand.

It answers one request at a time, so that a condition is checked and the object written without another in between, as
S3 promises; moto itself locks nothing. `/control/...` counts requests, refuses them, loses answers, closes the port.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

KEY, SECRET = "AKIAREADERSANDWRITERS", "a-secret-that-must-not-be-seen"
OLDER = "AKIATHEOLDERWRITER"


class Bucket:
    """A running service, as a context manager.

    Attributes
    ----------
    environment
        Variables that let a process in.
    """

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process = subprocess.Popen([sys.executable, str(Path(__file__)), str(self._port)])
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
        }
        self._n_buckets = 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.control("counts")
            except OSError:
                time.sleep(0.1)
            else:
                return self
        raise AssertionError("the S3 service does not start")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def make(self) -> str:
        """Make a bucket and return the URL of a prefix in it."""
        self._n_buckets += 1
        # A process remembers the service of a bucket: no name comes twice.
        name = f"bucket-{self._port}-{self._n_buckets}"
        self.control("make", bucket=name)
        return f"s3://{name}/some/prefix"

    def counts(self) -> Counter[str]:
        """Return the number of requests by method since the last call."""
        return Counter(json.loads(self.control("counts")))

    def control(self, what: str, **arguments: str | float) -> bytes:
        """Ask for a fault, or for its end."""
        query = urllib.parse.urlencode(arguments)
        address = f"{self.environment['AWS_ENDPOINT_URL']}/control/{what}?{query}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def running() -> Iterator[Bucket]:
    """Run a service, and let this process in."""
    with Bucket() as service, pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment.items():
            patch.setenv(name, value)
        yield service


class _Service:
    """A WSGI application around moto.

    Faults are lists of rules: user (access key), method, end of the path, and how many matching requests pass first.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import create_backend_app

        # Not through moto's dispatcher, which searches the folders of all services at every request.
        self._app = create_backend_app("s3")
        self._counts: Counter[str] = Counter()
        self._gates: list[dict[str, Any]] = []
        self._losses: list[dict[str, Any]] = []
        self.down_s = 0.0

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith("/control/"):
            arguments = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
            start("200 OK", [("Content-Type", "application/json")])
            return [self._control(path.removeprefix("/control/"), arguments)]
        self._counts[method] += 1
        user = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
        if user not in (KEY, OLDER):
            return _error(environ, start, "403 Forbidden", "InvalidAccessKeyId")
        if self._meets(self._gates, user, method, path):
            return _error(environ, start, "503 Slow Down", "SlowDown")
        answer = list(self._app(environ, start))
        if self._meets(self._losses, user, method, path):
            self._losses.clear()
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer

    def _control(self, what: str, arguments: dict[str, str]) -> bytes:
        match what:
            case "make":
                from moto.s3.models import s3_backends

                s3_backends["123456789012"]["aws"].create_bucket(arguments["bucket"], "us-east-1")
            case "counts":
                counts, self._counts = self._counts, Counter()
                return json.dumps(counts).encode()
            case "gate":
                self._gates.append({**arguments, "seen": 0})
            case "open":
                self._gates.clear()
            case "lose":
                self._losses.append({**arguments, "seen": 0})
            case "held":
                return json.dumps(sum(gate["seen"] > int(gate["after"]) for gate in self._gates)).encode()
            case "down":
                self.down_s = float(arguments["seconds"])
        return b"{}"

    @staticmethod
    def _meets(rules: list[dict[str, Any]], user: str, method: str, path: str) -> bool:
        for rule in rules:
            if (rule["user"], rule["method"]) == (user, method) and path.endswith(rule["path"]):
                rule["seen"] += 1
                if rule["seen"] > int(rule["after"]):
                    return True
        return False


def _error(environ: dict[str, Any], start: Any, status: str, code: str) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()]


def _serve(port: int) -> None:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class _Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    service = _Service()
    while True:
        server = make_server("127.0.0.1", port, service, request_handler=_Quiet)
        while not service.down_s:
            server.handle_request()
        server.server_close()
        time.sleep(service.down_s)
        service.down_s = 0.0


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
