"""The standalone server of the application, on loopback by default."""

import asyncio
import ipaddress
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from streamscalar.config.log_settings import log_format
from streamscalar.errors import BadCall, Kind
from streamscalar.logs import set_up_logs
from streamscalar_services.api.http.app import create_app
from streamscalar_services.api.service_options import ServiceOptions

HEADER_TIMEOUT_S = 10.0
"""Seconds within which the head of a request must arrive; a slower client only occupies a connection."""
MAX_CONNECTIONS = 512


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a timeout for the head of a request.

    uvicorn has none: `timeout_keep_alive` only covers idle connections between requests, and `limit_concurrency`
    counts connections, so that a client that sends its head byte by byte would hold its connection for ever and 512 of
    them would lock out everyone else. The class depends on internals of uvicorn (`cycle`, `conn`, `transport`, and
    `on_response_complete`); `test_slow_requests_are_cut` fails if they change. Behind a reverse proxy it is redundant:
    `client_header_timeout` in nginx, `timeout http-request` in HAProxy, or `readTimeout` in Traefik does the same.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Receive bytes; the timeout is off while a request is processed."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Start the timeout again if the next request has started already."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 chooses a free port.

    Raises
    ------
    BadCall
        The port is in use, or this machine does not have the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BadCall(
            "--port", f"must be free on {host}", f"{port}: {error.strerror}", "Choose another with --port", Kind.CONFIG
        ) from None
    return listener


def serve(options: ServiceOptions, listener: socket.socket) -> None:
    """Serve until interrupted; logs go to standard error, in the format of STREAMSCALAR_LOG or as text."""
    set_up_logs(log_format() or "text", node=socket.gethostname())
    config = uvicorn.Config(
        create_app(options),
        log_config=None,
        http=PatientProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=32_768,
    )
    uvicorn.Server(config).run(sockets=[listener])
