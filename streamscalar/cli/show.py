"""Output of the commands: tables, JSON documents and notes."""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamscalar.analysis.quantities import QUANTITIES
from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.missing import is_missing
from streamscalar.types import Regime, Status, json_float

if TYPE_CHECKING:
    from streamscalar.analysis.claims import ClaimResult
    from streamscalar.analysis.table import Table as Analysis
    from streamscalar.bench import Figure
    from streamscalar.experiment import Series
    from streamscalar.runtime import Prepared

COLOURS = {
    Regime.REGULAR: "green",
    Regime.ONSET: "yellow",
    Regime.CHAOTIC: "red",
    Regime.DIVERGED: "magenta",
    Regime.UNDECIDED: "dim",
}
SHORT = {
    Status.TOO_FEW_INITIAL_CONDITIONS: "too few runs",
    Status.NO_EXPONENTIAL_PHASE: "no exp. phase",
}
COLUMNS = ("ftle", "nmle", "nmle_embedded", "steps_to_accuracy", "explained_variance")
"""Estimates in the table of settings."""


def document(data: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(data, indent=2))


def price(prepared: "Prepared") -> None:
    """Print the expected size and time of an experiment on stderr, and a warning about its file system if any."""
    from streamscalar.store import medium_of, place

    cost = prepared.cost
    sys.stderr.write(
        f"{cost.n_runs} runs, {cost.n_rows:,} rows of {_bytes(cost.row_bytes)}; weights before compression: "
        f"{_bytes(cost.kept_bytes)} kept, {_bytes(cost.peak_bytes)} at most; "
        f"about {prepared.seconds:.0f} s of training, {prepared.n_concurrent} trainers at a time\n"
    )
    root = place(prepared.config.store_path)
    if warning := medium_of(root).warning(root):
        sys.stderr.write(f"{warning}\n")


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def table(analysis: "Analysis", *, as_json: bool) -> None:
    """Print the estimates per learning rate."""
    if as_json:
        document(analysis.to_json())
        return
    grid = Table(title=str(analysis.experiment.get("name", "")), title_justify="left", header_style="bold")
    has_ladder = len({setting.epsilon for setting in analysis.settings}) > 1
    grid.add_column("lr", justify="right")
    if has_ladder:
        grid.add_column("epsilon", justify="right")
    has_variants = any(setting.variant for setting in analysis.settings)
    if has_variants:
        grid.add_column("variant")
    grid.add_column("regime")
    for key in COLUMNS:
        grid.add_column(QUANTITIES[key].short)
    for setting in analysis.settings:
        grid.add_row(
            f"{setting.learning_rate:g}",
            *([f"{setting.epsilon:g}"] if has_ladder else []),
            *([escape(setting.variant)] if has_variants else []),
            f"[{COLOURS[setting.regime]}]{setting.regime}[/]",
            *(interval(setting.estimates[key].to_json()) for key in COLUMNS),
        )
    console = Console()
    console.print(grid)
    console.print(
        "Exponents are per step; confidence intervals are over initial conditions.",
        style="dim",
        markup=False,
    )


def interval(estimate: Mapping[str, Any]) -> str:
    """Return an estimate (a document of `Estimate.to_json`) as short text: value and interval, or its status."""
    value, low, high = (None if estimate[name] is None else float(estimate[name]) for name in ("value", "low", "high"))
    if value is None:
        status = Status(estimate["status"])
        return f"[dim]{SHORT.get(status, status.replace('_', ' '))}[/]"
    if low is None or high is None:
        return f"{value:.3g}"
    half = (high - low) / 2
    if abs(low + half - value) <= 1e-9 * abs(half):
        return f"{value:.3g} ± {half:.2g}"
    return f"{value:.3g} \\[{low:.3g}, {high:.3g}]"


def claims(judged: "list[ClaimResult]", *, as_json: bool) -> None:
    """Print the verdict on each claim."""
    if as_json:
        document({"schema": 1, "claims": [claim.to_json() for claim in judged]})
        return
    grid = Table(header_style="bold", show_lines=True)
    for name in ("claim", "found here", "verdict"):
        grid.add_column(name)
    for claim in judged:
        grid.add_row(f"{claim.claim}\n[dim]{claim.source}[/]", escape(claim.found), str(claim.verdict))
    Console().print(grid)


def next_steps(store: str) -> None:
    """Print commands to try after the demo."""
    typer.echo(
        "\nNext:\n"
        f"  streamscalar show {store} lr2.5_ic0      setting and estimates of a run\n"
        f"  streamscalar analyze {store} --json      all estimates as JSON\n"
        "  streamscalar config show digits-sweep > my.yaml; streamscalar run my.yaml\n"
    )


def listing(where: str, *, as_json: bool) -> None:
    """Print the experiments in a folder, or the runs of a store."""
    import streamscalar
    from streamscalar.store import Store, medium_of, place

    root = place(where)
    medium = medium_of(root)
    if not medium.is_there(root):
        raise BadCall(str(root), "must be a store or a folder of stores", "nothing there", kind=Kind.STORE_MISSING)
    if not (root / "zarr.json").exists():
        stores = medium.stores_below(root)
        rows = [{"store": str(path), "runs": len(Store.open(path).run_ids())} for path in stores]
    else:
        rows = []
        for run in streamscalar.open(where).runs.values():
            series = run.steps()
            state = "complete" if run.is_complete else "incomplete"
            rows.append({"run": run.run_id, "rows": len(series), "state": state, "exact": bool(run.exact_info())})
    if as_json:
        document({"schema": 1, "entries": rows})
        return
    grid = Table(box=None, header_style="dim")
    for name in rows[0] if rows else ("nothing",):
        grid.add_column(name)
    for row in rows:
        grid.add_row(*(str(value) for value in row.values()))
    Console().print(grid)


def details(path: str, run_id: str | None, *, as_json: bool) -> None:
    """Print an experiment or one of its runs."""
    import streamscalar

    experiment = streamscalar.open(path)
    if run_id is None:
        data: dict[str, Any] = {"config": experiment.store.config, "provenance": experiment.store.provenance}
    else:
        run = experiment.run(run_id)
        data = {
            "setting": dict(run.setting),
            "status": experiment.store.status(run_id),
            "estimates": run.estimates().to_json(),
            "exact": run.exact_info(),
            "metrics": {name: _metric(run.logged(name)) for name in run.metric_names},
        }
    if as_json:
        document({"schema": 1, **data})
    else:
        Console().print_json(json.dumps(data))


def _metric(series: "Series") -> dict[str, Any]:
    """Return how many values of a metric there are, and the last one of the reference."""
    there = ~is_missing(series.values[:, 0].astype("float64"))
    if not there.any():
        return {"n": 0, "last_step": None, "last_value": None}
    last = float(series.values[there][-1, 0])
    return {"n": int(there.sum()), "last_step": int(series.steps[there][-1]), "last_value": json_float(last)}


def verification(path: str, *, as_json: bool, quiet: bool) -> None:
    """Print the damage that a verification finds; raise if there is any."""
    from streamscalar.store import Store, verify

    store = Store.open(path)
    findings = []
    for run_id in store.run_ids():
        if not quiet:
            sys.stderr.write(f"verifying {run_id}\n")
        findings += list(verify(store, run_id))
    if as_json:
        document(
            {
                "schema": 1,
                "findings": [{"run": f.run_id, "what": f.what, "message": f.message} for f in findings],
            }
        )
    else:
        for finding in findings:
            typer.echo(f"{finding.run_id}: {finding.message}")
    if findings:
        raise WorkFailed(path, f"is damaged in {len(findings)} places", kind=Kind.STORE_CORRUPT)
    if not as_json:
        typer.echo("all checksums agree")


def figures(name: str, measured: list["Figure"], *, as_json: bool) -> None:
    """Print the figures of a benchmark."""
    if as_json:
        document({"bench": name, "figures": [figure.to_json() for figure in measured]})
        return
    grid = Table(header_style="bold")
    for column in ("figure", "value", "unit", "baseline", "limit", "target"):
        grid.add_column(column, justify="left" if column in ("figure", "unit") else "right")
    for figure in measured:
        numbers = [figure.value, figure.baseline, figure.limit, figure.target]
        value, *others = ["" if x is None else f"{x:.3g}" for x in numbers]
        grid.add_row(figure.name, value, figure.unit, *others)
    Console().print(grid)
