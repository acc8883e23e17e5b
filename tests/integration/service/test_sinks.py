"""Sinks of alerts against a real file and a real HTTP server in a thread."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from streamscalar.errors import BadCall
from streamscalar.types import AlertLevel
from streamscalar_services.api import sinks as module
from streamscalar_services.api.schemas import AlertDocument
from streamscalar_services.api.sinks import MAX_WAITING, AlertSinks, Counts, LogSink, WebhookSink

SECRET = "T000/B000/very-secret"


def alert(number: int = 0, level: AlertLevel = "warn", run: str = "demo:lr5_ic0") -> AlertDocument:
    return AlertDocument(
        id=f"lr5_ic0.jumped.{number}",
        run=run,
        rule="jumped",
        level=level,
        step=number,
        row=number,
        at=1.5,
        message="From step 3 on moves are 4 times longer.",
        change_id="7f3a-12",
        evidence={"statistic": "inf", "factor": 4.0},
    )


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses it is given, the last one for ever after, and keeps what it got."""

    def __init__(self, statuses: list[int], delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses = statuses
        self.delay_s = delay_s
        self.bodies: list[Any] = []
        self.paths: list[str] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{SECRET}"


class Answer(BaseHTTPRequestHandler):
    """Keeps one request and answers it."""

    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.paths.append(self.path)
        self.server.bodies.append(json.loads(body))
        self.server.released.wait(self.server.delay_s)
        status = self.server.statuses[0]
        if len(self.server.statuses) > 1:
            del self.server.statuses[0]
        self.send_response(status)
        if status in (301, 307):
            self.send_header("location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name is the standard library's)
        """Keep the test's output clean."""


@pytest.fixture
def receive() -> Iterator[Any]:
    servers: list[Receiver] = []

    def start(*statuses: int, delay_s: float = 0.0) -> Receiver:
        server = Receiver(list(statuses), delay_s)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


def test_a_chat_receiver_gets_a_text_and_others_the_whole_alert(receive: Any) -> None:
    server = receive(200)
    sink = WebhookSink(server.url)
    for number in range(3):
        sink.send(alert(number))
    sink.send(alert(3, run="<!channel>"))
    sink.close()
    assert [body["alert"]["row"] for body in server.bodies] == [0, 1, 2, 3]
    assert server.bodies[1]["text"] == "[warn] demo:lr5_ic0: From step 3 on moves are 4 times longer."
    assert AlertDocument.model_validate(server.bodies[1]["alert"]) == alert(1)
    assert "&lt;!channel&gt;" in server.bodies[3]["text"]
    assert server.paths == [f"/{SECRET}"] * 4
    assert sink.counts == Counts(n_sent=4)


@pytest.mark.parametrize(
    ("statuses", "n_posts", "counts"),
    [
        ((500, 503, 200), 3, Counts(n_sent=1)),
        ((429, 200), 2, Counts(n_sent=1)),
        ((500,), 3, Counts(n_failed=1)),
        ((404,), 1, Counts(n_failed=1)),
        ((307,), 1, Counts(n_failed=1)),
    ],
)
def test_what_may_pass_is_tried_three_times_and_nothing_else(
    receive: Any, statuses: tuple[int, ...], n_posts: int, counts: Counts
) -> None:
    server = receive(*statuses)
    sink = WebhookSink(server.url, backoff_s=0.01)
    sink.send(alert())
    sink.close()
    assert server.paths == [f"/{SECRET}"] * n_posts
    assert sink.counts == counts


def test_tries_are_a_growing_pause_apart(receive: Any) -> None:
    server = receive(500, 500, 200)
    sink = WebhookSink(server.url, backoff_s=0.1)
    begun = time.monotonic()
    sink.send(alert())
    while not sink.counts.n_sent and time.monotonic() - begun < 5.0:
        time.sleep(0.01)
    assert 0.3 <= time.monotonic() - begun < 1.5
    sink.close()


def test_a_slow_receiver_never_holds_up_the_caller(receive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.2)
    server = receive(200, delay_s=30.0)
    sink = WebhookSink(server.url, timeout_s=20.0)
    begun = time.monotonic()
    sink.send(alert(0))
    while not server.bodies and time.monotonic() - begun < 5.0:
        time.sleep(0.005)
    begun = time.monotonic()
    for number in range(1, MAX_WAITING + 8):
        sink.send(alert(number))
    assert time.monotonic() - begun < 0.2
    assert sink.counts == Counts(n_dropped=7)
    sink.close()
    assert time.monotonic() - begun < 1.0
    assert sink.counts.n_dropped == 7 + MAX_WAITING
    sink.send(alert(999))
    assert sink.counts.n_dropped == 8 + MAX_WAITING


def test_a_receiver_that_never_answers_is_given_up(receive: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = receive(200, delay_s=30.0)
    sink = WebhookSink(server.url, timeout_s=0.1, backoff_s=0.01)
    sink.send(alert())
    sink.close()
    assert len(server.bodies) == 3
    assert sink.counts == Counts(n_failed=1)
    assert "ReadTimeout" in caplog.text


def test_nothing_secret_is_logged_or_shown(receive: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = receive(200, 404)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}"
        unknown = f"http://{'a' * 70}.invalid/{SECRET}"
        for url in (server.url, server.url, down, unknown):
            sink = WebhookSink(url, backoff_s=0.0)
            sink.send(alert())
            sink.close()
            assert SECRET not in repr(sink) + sink.where
            assert sink.counts.n_sent + sink.counts.n_failed == 1
    assert "HTTP status 404" in caplog.text
    assert "ConnectError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://example.org/{SECRET}",
        f"file:///{SECRET}",
        f"example.org/{SECRET}",
        f"http:///{SECRET}",
        "https://someone:very-secret@example.org/",
        f"http://[::1/{SECRET}",
    ],
)
def test_other_addresses_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(BadCall, match="webhook: must") as caught:
        WebhookSink(url)
    assert "secret" not in str(caught.value)


def test_a_log_holds_one_json_line_per_alert(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    for number in range(2):
        sink = LogSink(path)
        sink.send(alert(number).model_copy(update={"message": "100 %s done,\nthen \u00e9"}))
        sink.close()
        assert sink.counts == Counts(n_sent=1)
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [AlertDocument.model_validate_json(line) for line in lines]
    assert [one.row for one in found] == [0, 1]
    assert found[0].message == "100 %s done,\nthen \u00e9"


def test_a_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    sink = LogSink(path, max_bytes=1000)
    for number in range(50):
        sink.send(alert(number))
    sink.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["alerts.jsonl", *(f"alerts.jsonl.{n}" for n in (1, 2, 3))]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert json.loads(path.read_text().splitlines()[-1])["row"] == 49


def test_a_log_that_cannot_be_written_to_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadCall, match="alert log: must be in a folder that exists"):
        LogSink(tmp_path / "missing" / "alerts.jsonl")
    folder = tmp_path / "alerts.jsonl"
    folder.mkdir()
    sink = LogSink(folder)
    for number in range(3):
        sink.send(alert(number))
    sink.close()
    assert sink.counts == Counts(n_failed=3)
    assert len(caplog.records) == 1


def test_only_alerts_of_the_minimum_level_are_passed_on(tmp_path: Path, receive: Any) -> None:
    server = receive(200)
    both = AlertSinks([LogSink(tmp_path / "alerts.jsonl"), WebhookSink(server.url)], min_level="warn")
    both.send([alert(0, "info"), alert(1, "warn"), alert(2, "error")])
    both.close()
    lines = (tmp_path / "alerts.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [1, 2]
    assert [body["alert"]["row"] for body in server.bodies] == [1, 2]
    assert both.counts == Counts(n_sent=4)
