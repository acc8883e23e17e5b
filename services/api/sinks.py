"""Destinations of alerts besides the API: a file, and a webhook such as that of a chat or pager.

A sink never blocks its caller and never raises; it counts the alerts that it could not deliver.
"""

import contextlib
import html
import json
import logging
import logging.handlers
import math
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from streamscalar.errors import BadCall, Kind
from streamscalar.types import ALERT_LEVELS, AlertLevel
from streamscalar_services.api.schemas import AlertDocument

MAX_WAITING = 100
"""Maximum number of alerts in the queue of one webhook: about 100 kB, and more than a person reads."""

N_TRIES = 3
"""Maximum number of tries to deliver one alert."""

TIMEOUT_S = 5.0
"""Timeout in seconds for each of connecting, sending and receiving."""

BACKOFF_S = 1.0
"""Seconds before the second try; doubled before each later one."""

CLOSE_S = 5.0
"""Seconds that `close` waits for the delivery of queued alerts."""

MAX_LOG_BYTES = 5_000_000
"""Size of a log file from which it is rotated."""

N_LOG_BACKUPS = 3
"""Number of rotated log files that are kept."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of alerts that a sink delivered, failed to deliver, or dropped because its queue was full."""

    n_sent: int = 0
    n_failed: int = 0
    n_dropped: int = 0


class AlertSink(Protocol):
    """A destination of alerts; safe to call from any thread."""

    def send(self, alert: AlertDocument) -> None:
        """Accept an alert; neither waits for its delivery nor raises."""

    def close(self) -> None:
        """Deliver queued alerts, for a limited time, and accept no more."""

    @property
    def counts(self) -> Counts:
        """Counts so far."""


class LogSink:
    """One JSON line per alert, appended to a file that is rotated when it is large.

    Parameters
    ----------
    path
        The file; its folder must exist. Rotated files are `<path>.1` and so on.
    max_bytes
        Maximum size of the file.

    Raises
    ------
    BadCall
        The folder does not exist.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        if not path.parent.is_dir():
            raise BadCall("alert log", "must be in a folder that exists", str(path), kind=Kind.CONFIG)
        self._file = _CountingFile(path, max_bytes)

    def send(self, alert: AlertDocument) -> None:
        """Append the alert; a failed write is counted."""
        line = json.dumps(alert.model_dump(mode="json"))
        self._file.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def counts(self) -> Counts:
        """Counts so far."""
        return Counts(self._file.n_written - self._file.n_failed, self._file.n_failed)


class _CountingFile(logging.handlers.RotatingFileHandler):
    """A rotating file that counts failed writes, and logs the first one."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=N_LOG_BACKUPS, encoding="utf-8", delay=True)
        self.n_written = 0
        self.n_failed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; the handler holds its lock."""
        self.n_written += 1
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is the standard library's)
        """Count a failed write."""
        del record
        self.n_failed += 1
        if self.n_failed == 1:
            _logger.warning("alert log %s: a line could not be written", self.baseFilename)


class WebhookSink:
    """Alerts as JSON to a webhook, one at a time, from a separate thread.

    The body is `{"text": ..., "alert": {...}}`: receivers compatible with Slack show the text, others read the alert.
    A receiver that answers too late may get an alert twice, with the same `id`. With `MAX_WAITING` alerts in the
    queue, further ones are dropped and counted. Redirects are not followed, and proxies of the environment are not
    used. The path of the address, which often is a secret, is never shown or logged.

    Parameters
    ----------
    url
        The address, http or https.
    timeout_s, backoff_s
        See `TIMEOUT_S` and `BACKOFF_S`.

    Raises
    ------
    BadCall
        The address is not an http or https address.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, backoff_s: float = BACKOFF_S) -> None:
        self._url = _checked(url)
        self._timeout = httpx.Timeout(timeout_s).as_dict()
        self._backoff_s = backoff_s
        # One place more than alerts, for the end mark.
        self._queue: queue.Queue[AlertDocument | None] = queue.Queue(MAX_WAITING + 1)
        self._closing = threading.Event()
        self._give_up_at = math.inf
        self._lock = threading.Lock()
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
        """Counts so far."""
        return self._counts

    def send(self, alert: AlertDocument) -> None:
        """Queue the alert, or drop and count it if the queue is full or the sink is closed."""
        with self._lock:
            if self._closing.is_set() or self._queue.qsize() >= MAX_WAITING:
                self._count(n_dropped=1)
            else:
                self._queue.put_nowait(alert)

    def close(self) -> None:
        """Deliver queued alerts for up to `CLOSE_S`, without pauses between tries, and drop the rest."""
        with self._lock:
            if not self._closing.is_set():
                self._give_up_at = time.monotonic() + CLOSE_S
                self._closing.set()
                self._queue.put_nowait(None)
        self._thread.join(CLOSE_S)
        with self._lock:
            while not self._queue.empty():
                self._count(n_dropped=int(self._queue.get_nowait() is not None))
            self._queue.put_nowait(None)

    def _deliver_all(self) -> None:
        # The transport alone: a client would log every address in full, keep cookies, and read whole answers.
        with httpx.HTTPTransport() as transport:
            while (alert := self._queue.get()) is not None:
                is_sent = self._deliver(transport, alert)
                with self._lock:
                    self._count(n_sent=int(is_sent), n_failed=int(not is_sent))

    def _deliver(self, transport: httpx.HTTPTransport, alert: AlertDocument) -> bool:
        reason = ""
        for n_tried in range(N_TRIES):
            if n_tried:
                self._closing.wait(self._backoff_s * 2 ** (n_tried - 1))
            if time.monotonic() >= self._give_up_at:
                return False
            status = None
            try:
                status = self._post(transport, alert)
            except (httpx.HTTPError, OSError, ValueError) as error:
                # ValueError: an invalid host name. The text of an error may hold the address, so only its type is kept.
                reason = type(error).__name__
            if status is not None:
                if 200 <= status < 300:
                    return True
                reason = f"HTTP status {status}"
                if status < 500 and status not in (408, 429):
                    break
        _logger.warning(
            "alert webhook %s: alert %s was not delivered: %s [change %s]",
            self.where,
            alert.id,
            reason,
            alert.change_id,
        )
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


class AlertSinks:
    """Several sinks as one, for alerts from a minimum level on.

    Parameters
    ----------
    sinks
        The destinations.
    min_level
        Minimum level of the alerts that are passed on.
    """

    def __init__(self, sinks: Iterable[AlertSink], min_level: AlertLevel = "info") -> None:
        self._sinks = tuple(sinks)
        self._passed = frozenset(ALERT_LEVELS[ALERT_LEVELS.index(min_level) :])

    def send(self, alerts: Iterable[AlertDocument]) -> None:
        """Pass on the alerts of at least the minimum level, in their order."""
        for alert in alerts:
            if alert.level in self._passed:
                for sink in self._sinks:
                    sink.send(alert)

    def close(self) -> None:
        """Close all sinks."""
        for sink in self._sinks:
            sink.close()

    @property
    def counts(self) -> Counts:
        """Counts so far, over all sinks."""
        each = [sink.counts for sink in self._sinks]
        return Counts(
            sum(counts.n_sent for counts in each),
            sum(counts.n_failed for counts in each),
            sum(counts.n_dropped for counts in each),
        )


def _checked(url: str) -> httpx.URL:
    """Return the address, or raise an error that shows only its scheme."""
    fix = "Use one like https://hooks.example.org/path."
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
    """Return one line, escaped so that no name becomes a mention or link in a chat."""
    return html.escape(f"[{alert.level}] {alert.run}: {alert.message}", quote=False)
