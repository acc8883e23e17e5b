"""The commands `watch`, `query`, `alerts`, `add` and `cancel`: read stores or a service, and request changes."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from streamscalar.cli import show
from streamscalar.cli.query_sources import opened
from streamscalar.cli.shared_options import JsonOption, StoreArgument
from streamscalar.errors import BadCall, Kind
from streamscalar.types import ALERT_LEVELS, AlertLevel, Regime

BARS = "▁▂▃▄▅▆▇█"
MARKS = {"waiting": "·", "training": "▶", "trained": "◐", "done": "✓", "failed": "✗", "cancelled": "■", "silent": "?"}
LEVEL_COLOURS: Mapping[AlertLevel, str] = {"info": "dim", "warn": "yellow", "error": "red"}
REFRESH_S = 1.0
SHOWN = 30
MOST = 500
WHERE = "A store, a folder of stores, or the URL of a service, such as http://127.0.0.1:8870."

WhereArgument = Annotated[str, typer.Argument(metavar="STORE|URL", help=WHERE)]
FilterOption = Annotated[
    str,
    typer.Option(
        "--filter",
        "-f",
        metavar="FILTER",
        help="Show only runs that match, such as: regime=chaotic learning_rate>2 tag=baseline, or part of a name.",
    ),
]
SortOption = Annotated[
    str, typer.Option(metavar="KEY", help="Key to sort by, such as exponent; with a minus in descending order.")
]


def watch(
    where: WhereArgument = "streamscalar-runs",
    filter_text: FilterOption = "",
    sort: SortOption = "-updated_at",
    once: Annotated[bool, typer.Option(help="Print the table once and exit.")] = False,
    json: JsonOption = False,
) -> None:
    """Show a live table of runs: state, regime, exponent and curve of the scalar embedding.

    Ctrl-C ends the view; the runs continue.
    """
    console = Console()
    is_live = console.is_terminal and not (once or json)
    with opened(where, wait=not is_live) as runs:
        if json:
            show.document({"schema": 1, **runs.page(filter_text, sort, MOST)})
        elif not is_live:
            console.print(_table(runs.page(filter_text, sort, MOST)))
        else:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    rows = max(1, min(SHOWN, console.height - 4))
                    live.update(_table(runs.page(filter_text, sort, rows)), refresh=True)
                    time.sleep(REFRESH_S)


def query(
    where: WhereArgument,
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Name of a run, as shown by `watch`; without it, runs are listed."),
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            help="What to print: embedding, divergence, estimates, nearest, details, or a metric such as loss."
        ),
    ] = "estimates",
    filter_text: FilterOption = "",
    sort: SortOption = "-updated_at",
    max_points: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of points of a series.")] = 20,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of runs in the list.")] = 50,
    json: JsonOption = False,
) -> None:
    """List runs, or print estimates, series or nearest neighbours of one run."""
    with opened(where, wait=run is None or what == "nearest") as runs:
        document = runs.page(filter_text, sort, limit) if run is None else runs.about(run, what, max_points)
    if json:
        show.document({"schema": 1, **document})
    elif run is None:
        Console().print(_table(document))
    else:
        _print(document)


def alerts(
    where: WhereArgument = "streamscalar-runs",
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Show only alerts of this run.")] = None,
    level: Annotated[str, typer.Option(help="Minimum level to show: info, warn or error.")] = "info",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of alerts.")] = 50,
    json: JsonOption = False,
) -> None:
    """List alerts, newest first: runs that became chaotic, diverged, stalled, jumped or stopped, ranks that drifted."""
    if level not in ALERT_LEVELS:
        raise BadCall("--level", f"must be one of {', '.join(ALERT_LEVELS)}", repr(level), kind=Kind.CONFIG)
    with opened(where, wait=True) as runs:
        page = runs.alerts(run, level, limit)
    if json:
        show.document({"schema": 1, **page})
        return
    grid = Table(box=None, header_style="dim")
    for name in ("when", "level", "run", "step", "alert"):
        grid.add_column(name, justify="right" if name == "step" else "left")
    for alert in page["items"]:
        colour = LEVEL_COLOURS[alert["level"]]
        step = "" if alert["step"] is None else str(alert["step"])
        ago = f"{_span(time.time() - alert['at'])} ago"
        grid.add_row(ago, f"[{colour}]{alert['level']}[/]", escape(alert["run"]), step, escape(alert["message"]))
    Console().print(grid if page["items"] else "No alerts.")
    if page["n"] < page["of"]:
        Console().print(f"{page['n']} of {page['of']} alerts", style="dim")


def add(
    store: StoreArgument,
    learning_rate: Annotated[
        list[float], typer.Option("--learning-rate", help="Learning rate of new runs; may be repeated.")
    ],
    initial_conditions: Annotated[
        int | None, typer.Option(min=1, help="Initial conditions per learning rate (default: as in the experiment).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Add runs to an experiment; they start now if it is running, else with the next `resume`."""
    import streamscalar

    names = streamscalar.open(store).add_runs(learning_rate, initial_conditions)
    if json:
        show.document({"schema": 1, "runs": names})
    else:
        if names:
            text = f"requested {', '.join(names)}; if the experiment is not running: streamscalar resume {store}"
        else:
            text = "nothing to add: the experiment has these runs"
        typer.echo(text)


def cancel(
    store: StoreArgument,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, as listed by `ls STORE`.")],
) -> None:
    """Cancel a run, and the other runs of its pack; recorded rows are kept."""
    import streamscalar

    streamscalar.open(store).cancel(run)
    typer.echo(f"requested the end of {run}")


def _table(page: Mapping[str, Any]) -> Table:
    """Return the table of runs."""
    grid = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("run", "state", "regime", "exponent", "lr", "rows", "loss", "accuracy", "scalar", "alerts"):
        grid.add_column(name, justify="right" if name in ("exponent", "lr", "rows", "loss", "accuracy") else "left")
    for item in page["items"]:
        regime = item["regime"]
        planned = "" if item["n_planned"] is None else f"/{item['n_planned']}"
        grid.add_row(
            escape(item["id"]),
            f"{MARKS[item['state']]} {item['state']}",
            "[dim]...[/]" if regime is None else f"[{show.COLOURS[Regime(regime)]}]{regime}[/]",
            "" if item["exponent"] is None else show.interval(item["exponent"]),
            _short(item["learning_rate"]),
            f"{item['n_rows']}{planned}",
            _short(item["loss"]),
            _short(item["accuracy"]),
            sparkline([] if item["sparkline"] is None else item["sparkline"]["values"]),
            str(item["n_alerts"] or ""),
        )
    grid.caption = f"{page['n']} of {page['of']} runs, {page['n_analysed']} analysed"
    grid.caption_justify = "left"
    return grid


def sparkline(values: Sequence[Any], width: int = 16) -> str:
    """Return a curve as one line of text; values that are not finite leave a gap.

    Examples
    --------
    >>> sparkline([0, 1, 2, 3, "nan", 7])
    '▁▂▃▄ █'
    """
    every = max(1, -(-len(values) // width))
    numbers = [float(value) for value in values[::every]]
    finite = [value for value in numbers if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in numbers)


def _print(document: Mapping[str, Any]) -> None:
    """Print a document as a table, or as JSON if it is not tabular."""
    console = Console()
    grid = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    if "estimates" in document:
        for name in ("quantity", "value", "n", "status"):
            grid.add_column(name)
        for name, estimate in document["estimates"].items():
            grid.add_row(name, show.interval(estimate), str(estimate["n"]), estimate["status"].replace("_", " "))
        console.print(grid)
        console.print(f"{document['regime']}: {document['regime_reason']}", style="dim", markup=False)
    elif "values" in document:
        for name in ("step", *document["replicas"]):
            grid.add_column(name, justify="right")
        for step, *row in zip(document["steps"], *document["values"], strict=True):
            grid.add_row(str(step), *(_short(value) for value in row))
        console.print(grid)
        basis = "" if document["basis"] is None else f", basis {document['basis']}"
        console.print(f"{document['n']} of {document['of']} rows{basis}", style="dim")
    elif "items" in document:
        for name in ("run", "distance", "steps"):
            grid.add_column(name, justify="left" if name == "run" else "right")
        for item in document["items"]:
            grid.add_row(escape(item["run"]), _short(item["distance"]), str(item["n_steps"]))
        console.print(grid)
        console.print(document["message"], style="dim", markup=False)
    else:
        console.print_json(data=document)


def _short(value: Any) -> str:
    return "" if value is None else f"{float(value):.3g}"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
