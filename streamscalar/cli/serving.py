"""`serve`: the query API and the dashboard."""

import os
from pathlib import Path
from typing import Annotated

import typer

from streamscalar.errors import BadCall, Kind
from streamscalar.types import ALERT_LEVELS


def serve(
    store: Annotated[
        str, typer.Argument(metavar="ROOT", help="A store, a folder of stores, or s3://bucket/prefix.")
    ] = "streamscalar-runs",
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback a token must be set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8870,
    webhook: Annotated[
        str | None, typer.Option(help="Address that gets every alert as JSON, such as a chat's.")
    ] = None,
    alert_log: Annotated[Path | None, typer.Option(help="File that gets every alert as a line of JSON.")] = None,
    alert_level: Annotated[str, typer.Option(help="Least grave alert sent there: info, warn or error.")] = "warn",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not print the link.")] = False,
) -> None:
    """Serve the dashboard and the query API of stores, finished or growing; open the printed link.

    The token is in ~/.config/streamscalar/token (made at the first call), or in STREAMSCALAR_TOKEN.
    """
    from streamscalar.store import place
    from streamscalar_services.api.http.auth import Tokens
    from streamscalar_services.api.http.server import bound, is_loopback
    from streamscalar_services.api.http.server import serve as serve_until_stopped
    from streamscalar_services.api.http.sinks import LogSink, Sink, Sinks, WebhookSink
    from streamscalar_services.api.service_options import ServiceOptions
    from streamscalar_services.api.watch.catalog import require_stores

    if not is_loopback(host) and "STREAMSCALAR_TOKEN" not in os.environ:
        raise BadCall(
            "--host",
            "must be a loopback address unless STREAMSCALAR_TOKEN is set",
            host,
            "Set a token of your own, and put TLS in front of it",
            Kind.CONFIG,
        )
    root = place(store)
    require_stores(root)
    level = next((known for known in ALERT_LEVELS if known == alert_level), None)
    if level is None:
        raise BadCall("--alert-level", f"must be one of {', '.join(ALERT_LEVELS)}", repr(alert_level), kind=Kind.CONFIG)
    sinks: list[Sink] = [] if webhook is None else [WebhookSink(webhook)]
    if alert_log is not None:
        sinks.append(LogSink(alert_log))
    tokens = Tokens.load()
    listener = bound(host, port)
    if not quiet:
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"Dashboard: http://{shown}:{listener.getsockname()[1]}/#token={tokens.read}")
        typer.echo("Stop it with Ctrl-C; the stores do not notice.", err=True)
    serve_until_stopped(ServiceOptions(root, tokens, Sinks(sinks, level)), listener)
