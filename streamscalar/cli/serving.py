"""The command `serve`: query API and dashboard."""

import os
from pathlib import Path
from typing import Annotated

import typer

from streamscalar.config.service import DEFAULT_PORT
from streamscalar.errors import BadCall, Kind
from streamscalar.types import ALERT_LEVELS


def serve(
    store: Annotated[
        str, typer.Argument(metavar="ROOT", help="A store, a folder of stores, or s3://bucket/prefix.")
    ] = "streamscalar-runs",
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback requires STREAMSCALAR_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 chooses a free one.")] = DEFAULT_PORT,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Send alerts as JSON to this URL, such as the webhook of a chat.")
    ] = None,
    alert_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append alerts to this file, one JSON document per line.")
    ] = None,
    alert_level: Annotated[
        str, typer.Option(help="Minimum level of alerts for webhook and file: info, warn or error.")
    ] = "warn",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not print the link, which contains the token.")
    ] = False,
) -> None:
    """Serve the dashboard and the query API over stores; prints the link to open.

    The stores may belong to running or finished experiments. The token is read
    from STREAMSCALAR_TOKEN, or from ~/.config/streamscalar/token, which the
    first call creates.
    """
    from streamscalar.store import place
    from streamscalar_services.api.http.server import bound, is_loopback
    from streamscalar_services.api.http.server import serve as serve_until_stopped
    from streamscalar_services.api.service_options import ServiceOptions
    from streamscalar_services.api.sinks import AlertSink, AlertSinks, LogSink, WebhookSink
    from streamscalar_services.api.tokens import Tokens
    from streamscalar_services.api.watch.catalog import require_stores

    if not is_loopback(host) and "STREAMSCALAR_TOKEN" not in os.environ:
        raise BadCall(
            "--host",
            "must be a loopback address unless STREAMSCALAR_TOKEN is set",
            host,
            "Set STREAMSCALAR_TOKEN, and put a proxy with TLS in front of the service",
            Kind.CONFIG,
        )
    root = place(store)
    require_stores(root)
    level = next((known for known in ALERT_LEVELS if known == alert_level), None)
    if level is None:
        raise BadCall("--alert-level", f"must be one of {', '.join(ALERT_LEVELS)}", repr(alert_level), kind=Kind.CONFIG)
    sinks: list[AlertSink] = [] if webhook is None else [WebhookSink(webhook)]
    if alert_log is not None:
        sinks.append(LogSink(alert_log))
    tokens = Tokens.load()
    listener = bound(host, port)
    if not quiet:
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"Dashboard: http://{shown}:{listener.getsockname()[1]}/#token={tokens.read}")
        typer.echo("Stop the service with Ctrl-C; experiments keep running.", err=True)
    serve_until_stopped(ServiceOptions(root, tokens, AlertSinks(sinks, level)), listener)
