"""Where alerts go beside the API: a file, and the address of somebody's chat or pager.

A sink never makes its caller wait and never raises: what it could not deliver it counts.
"""

import contextlib
import html
import json
import logging
import logging.handlers
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from streamscalar.errors import BadCall, Kind
from streamscalar.types import ALERT_LEVELS, AlertLevel
from streamscalar_services.api.schemas import AlertDocument

MAX_WAITING = 100
"""Alerts that wait for one address: about 100 KB, and more than anybody reads at once."""

N_TRIES = 3
"""Tries to deliver one alert."""

TIMEOUT_S = 5.0
"""Seconds that an address may take for each of connecting, sending and answering."""

BACKOFF_S = 1.0
"""Seconds before the second try, doubled before each later one."""

CLOSE_S = 5.0
"""Seconds that closing waits for what is still to be delivered."""

MAX_LOG_BYTES = 5_000_000
"""Size from which a log file is set aside and a new one begun."""

N_LOG_BACKUPS = 3
"""Log files set aside that are kept."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the alerts that a sink was given: delivered, given up, or dropped as too many waited."""

    n_sent: int = 0
    n_failed: int = 0
    n_dropped: int = 0


class Sink(Protocol):
    """What takes alerts; safe to call from any thread."""

    def send(self, alert: AlertDocument) -> None:
        """Take an alert; neither waits for its delivery nor raises."""

    def close(self) -> None:
        """Deliver what waits, for a limited time, and take no more."""

    @property
    def counts(self) -> Counts:
        """What became of the alerts so far."""


class LogSink:
    """One JSON line per alert, appended to a file that is set aside once it is large.

    Parameters
    ----------
    path
        The file; its folder must exist. Files set aside are called `<path>.1` and so on.
    max_bytes
        Size of the file at most.

    Raises
    ------
    BadCall
        The folder does not exist.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        if not path.parent.is_dir():
            raise BadCall("alert log", "must lie in a folder that exists", str(path), kind=Kind.CONFIG)
        self._file = _CountingFile(path, max_bytes)

    def send(self, alert: AlertDocument) -> None:
        """Append the alert; a file that cannot be written to is counted."""
        line = json.dumps(alert.model_dump(mode="json"))
        self._file.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def counts(self) -> Counts:
        """What became of the alerts so far."""
        return Counts(self._file.n_written - self._file.n_failed, self._file.n_failed)


class _CountingFile(logging.handlers.RotatingFileHandler):
    """A rotating file that counts what it could not write, and says so the first time."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=N_LOG_BACKUPS, encoding="utf-8", delay=True)
        self.n_written = 0
        self.n_failed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; the handler holds its lock."""
        self.n_written += 1
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is the standard library's)
        """Count a line that was not written."""
        del record
        self.n_failed += 1
        if self.n_failed == 1:
            _logger.warning("alert log %s: a line could not be written", self.baseFilename)


class WebhookSink:
    """Alerts as JSON to an address, one at a time, from a thread of its own.

    The body is `{"text": ..., "alert": {...}}`: chat receivers of Slack's kind show the text, others read the alert.
    An address that answers late may get an alert twice; its `id` tells. An alert that finds `MAX_WAITING` others
    waiting is dropped and counted. Redirects are not followed and proxies of the environment are not used. The path
    of the address, often a secret, is shown nowhere.

    Parameters
    ----------
    url
        The address, http or https.
    timeout_s, backoff_s
        See `TIMEOUT_S` and `BACKOFF_S`.

    Raises
    ------
    BadCall
        The address is no such thing.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, backoff_s: float = BACKOFF_S) -> None:
        self._url = _checked(url)
        self._timeout = httpx.Timeout(timeout_s).as_dict()
        self._backoff_s = backoff_s
        self._waiting: deque[AlertDocument] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._counts = Counts()
        self._thread = threading.Thread(target=self._deliver_all, name="alert webhook", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"WebhookSink({self.where!r})"

    @property
    def where(self) -> str:
        """Scheme and host of the address, which may be shown."""
        return f"{self._url.scheme}://{self._url.netloc.decode('ascii')}"

    @property
    def counts(self) -> Counts:
        """What became of the alerts so far."""
        return self._counts

    def send(self, alert: AlertDocument) -> None:
        """Queue the alert, or drop and count it where too many wait or the sink is closed."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING or self._closing.is_set():
                self._count(n_dropped=1)
                return
            self._waiting.append(alert)
            self._changed.notify()

    def close(self) -> None:
        """Wait up to `CLOSE_S` for what waits, without pauses between tries, and drop the rest."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(CLOSE_S)
        with self._changed:
            self._abandoned.set()
            self._count(n_dropped=len(self._waiting))
            self._waiting.clear()

    def _deliver_all(self) -> None:
        # The transport itself: a client would log every address in full, follow cookies, and read whole answers.
        with httpx.HTTPTransport() as transport:
            while (alert := self._next()) is not None:
                is_sent = self._deliver(transport, alert)
                with self._changed:
                    self._count(n_sent=int(is_sent), n_failed=int(not is_sent))

    def _next(self) -> AlertDocument | None:
        with self._changed:
            while not self._waiting and not self._closing.is_set():
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, transport: httpx.HTTPTransport, alert: AlertDocument) -> bool:
        reason = ""
        for n_tried in range(N_TRIES):
            if n_tried:
                self._closing.wait(self._backoff_s * 2 ** (n_tried - 1))
            if self._abandoned.is_set():
                return False
            status = None
            try:
                status = self._post(transport, alert)
            except (httpx.HTTPError, OSError, ValueError) as error:
                # A ValueError: a host that no resolver takes. The text of an error may hold the address.
                reason = type(error).__name__
            if status is not None:
                if 200 <= status < 300:
                    return True
                reason = f"HTTP status {status}"
                if status < 500 and status not in (408, 429):
                    break
        _logger.warning("alert webhook %s: alert %s was not delivered: %s", self.where, alert.id, reason)
        return False

    def _post(self, transport: httpx.HTTPTransport, alert: AlertDocument) -> int:
        request = httpx.Request(
            "POST",
            self._url,
            headers={"content-type": "application/json"},
            content=json.dumps({"text": _text(alert), "alert": alert.model_dump(mode="json")}),
            extensions={"timeout": self._timeout},
        )
        response = transport.handle_request(request)
        with contextlib.closing(response):
            return response.status_code

    def _count(self, n_sent: int = 0, n_failed: int = 0, n_dropped: int = 0) -> None:
        """Count; the caller holds the lock."""
        now = self._counts
        self._counts = Counts(now.n_sent + n_sent, now.n_failed + n_failed, now.n_dropped + n_dropped)


class Sinks:
    """Several sinks as one, for alerts that are grave enough.

    Parameters
    ----------
    sinks
        Who gets them.
    min_level
        Least grave level that is passed on.
    """

    def __init__(self, sinks: Iterable[Sink], min_level: AlertLevel = "info") -> None:
        self._sinks = tuple(sinks)
        self._passed = frozenset(ALERT_LEVELS[ALERT_LEVELS.index(min_level) :])

    def send(self, alerts: Iterable[AlertDocument]) -> None:
        """Pass on the alerts that are grave enough, in their order."""
        for alert in alerts:
            if alert.level in self._passed:
                for sink in self._sinks:
                    sink.send(alert)

    def close(self) -> None:
        """Close all of them."""
        for sink in self._sinks:
            sink.close()

    @property
    def counts(self) -> Counts:
        """What became of the alerts so far, over all sinks."""
        each = [sink.counts for sink in self._sinks]
        return Counts(
            sum(counts.n_sent for counts in each),
            sum(counts.n_failed for counts in each),
            sum(counts.n_dropped for counts in each),
        )


def _checked(url: str) -> httpx.URL:
    """Return the address, or raise without showing more of it than its scheme."""
    fix = "Give one like https://hooks.example.org/path."
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise BadCall("webhook", "must be an http or https address", fix=fix, kind=Kind.CONFIG) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        got = f"scheme {parsed.scheme!r}" if parsed.scheme else "no scheme"
        raise BadCall("webhook", "must be an http or https address", got, fix, Kind.CONFIG)
    if parsed.userinfo:
        raise BadCall("webhook", "must not hold a user name or password", fix=fix, kind=Kind.CONFIG)
    return parsed


def _text(alert: AlertDocument) -> str:
    """Return one line; names must not turn into the mentions and links that chat receivers write in brackets."""
    return html.escape(f"[{alert.level}] {alert.run}: {alert.message}", quote=False)
