"""The command `doctor`: checks of an installation, a store and a cluster, with a fix for each problem."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamscalar.cli import show
from streamscalar.cli.shared_options import JsonOption
from streamscalar.config import Config, load_config
from streamscalar.logs import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamscalar.config.models import ClusterSection
    from streamscalar.doctor.checks import Check

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def doctor(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="Store to check, or folder or URL for a new one.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ray cluster to check (default: none).")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Config file whose trainers must fit on the cluster (default: 1 CPU per trainer)."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check the installation, a store and a cluster, and print how to fix what is wrong.

    streamscalar doctor
    this machine: packages, device, tokens, port

    streamscalar doctor STORE
    also a store: file system, locks, free space, failed runs

    streamscalar doctor STORE --address HOST:6379
    also every node of a cluster: token, versions, storage, clock

    Exit code 0: no check failed (there may be warnings); 1: a check failed;
    2: the call was wrong. Files that the checks write are deleted again.
    """
    from streamscalar.doctor.checks import CheckStatus, worst

    section = (Config() if config is None else load_config(config)).cluster
    checks = []
    console = Console()
    progress = Console(stderr=True)
    with progress.status("checking") as status:
        for check in _checks(store, address, section):
            status.update(f"checked {check.group}: {check.name}")
            checks.append(check)
    verdict = worst(checks)
    if json:
        show.document({"schema": 1, "status": str(verdict), "checks": [check.to_json() for check in checks]})
    else:
        console.print(_table(checks))
    if verdict is CheckStatus.FAIL:
        raise typer.Exit(1)


def _checks(store: str | None, address: str | None, section: "ClusterSection") -> "Iterator[Check]":
    from streamscalar.doctor.checks import CheckStatus, installation, made, worst
    from streamscalar.doctor.cluster import cluster_checks, require_address
    from streamscalar.doctor.store import store_checks

    # Errors of the call are raised before any check runs.
    of_store = {} if store is None else store_checks(store)
    if address is not None:
        require_address(address)
    yield from made("installation", installation())
    found = []
    for check in made("store", of_store):
        found.append(check)
        yield check
    if address is not None:
        # If the store fails or hangs on this machine, the nodes do not try it.
        yield from cluster_checks(address, None if worst(found) is CheckStatus.FAIL else store, section)


def _table(checks: "list[Check]") -> Table:
    grid = Table(header_style="dim", show_edge=False, box=None, padding=(0, 2, 0, 0))
    for name in ("", "check", "found"):
        grid.add_column(name, overflow="fold")
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            grid.add_row("", Text(group, style="bold"), "")
        verdict = str(check.result.status)
        # Reasons and names come from outside: control characters are escaped.
        found = Text(one_line(check.result.found))
        if check.result.fix:
            found.append(f"\n{one_line(check.result.fix)}.", style="italic")
        grid.add_row(Text(verdict, style=COLOURS[verdict]), Text(check.name), found)
    return grid
