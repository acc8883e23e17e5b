"""Runs the application alone, on loopback unless told otherwise."""

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
"""Seconds in which the head of a request must be whole; whoever is slower holds a connection for nothing."""
MAX_CONNECTIONS = 512


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request head does not arrive in time, which uvicorn never does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock stops while a request is being answered."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Start the clock again where the next request has begun already."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
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
    """Return whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises
    ------
    BadCall
        The port is taken, or the address is not this machine's.
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
    """Serve until interrupted; what is logged goes to standard error, as STREAMSCALAR_LOG says, else as text."""
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
