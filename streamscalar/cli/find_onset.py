"""The command `find-onset`."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from streamscalar.cli import show
from streamscalar.cli.shared_options import (
    AddressOption,
    ConfigArgument,
    ExecutorOption,
    JsonOption,
    PresetOption,
    QuietOption,
    SetOption,
    chosen_config,
)
from streamscalar.protocol.onset_search import OnsetResult, RateProbed
from streamscalar.protocol.progress import Snapshot

if TYPE_CHECKING:
    from streamscalar.store import Place

LOG_EVERY_S = 10.0


def find_onset(
    config: ConfigArgument = None,
    preset: PresetOption = None,
    low: Annotated[float, typer.Option(help="Lowest learning rate of the search.")] = 0.1,
    high: Annotated[float, typer.Option(help="Highest learning rate of the search.")] = 20.0,
    budget: Annotated[
        int | None,
        typer.Option(
            help="Maximum optimiser steps in total. One learning rate takes initial conditions x training.n_steps; "
            "replicas are not counted (default: enough for 16 learning rates).",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Relative width of the bracket at which the search ends.")] = 0.1,
    settings: SetOption = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="FOLDER",
            help="Folder for the stores of the search (default: ./streamscalar-runs/<experiment name>-onset).",
        ),
    ] = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search the learning rate at which training becomes sensitive, and the fastest one.

    The search starts with five learning rates spread over the range. Further
    rates narrow the bracket around the onset, and around the fastest rate,
    until the tolerance or the budget is reached.

    To continue after an interrupt, or with a larger --budget, repeat the
    command: stored stages are not trained again. Each stage has its own store,
    which `analyze` and `report` can open.

    Example:  streamscalar find-onset --preset digits-sweep --budget 6000
    """
    from streamscalar.runtime.onset_trials import find_onset as search
    from streamscalar.store import place

    chosen = chosen_config("find-onset", config, preset, settings, store, executor, address)
    steps_per_rate = chosen.experiment.n_initial_conditions * chosen.training.n_steps
    budget_steps = 16 * steps_per_rate if budget is None else budget
    root = place(chosen.store.url or f"streamscalar-runs/{chosen.experiment.name}-onset")
    log = _Log(budget_steps, quiet=quiet)
    result = search(
        chosen,
        root,
        low=low,
        high=high,
        budget_steps=budget_steps,
        tolerance=tolerance,
        on_snapshot=log.snapshot,
        on_probe=log.probe,
    )
    if json:
        show.document(result.to_json())
    else:
        _print(result, root)


class _Log:
    """Progress on stderr: a line per learning rate, and every 10 s in between."""

    def __init__(self, budget_steps: int, *, quiet: bool) -> None:
        self._budget, self._quiet = budget_steps, quiet
        self._spent = 0
        self._logged_at = time.monotonic()

    def snapshot(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._write(f"  {snapshot.count('done')} of {snapshot.n_runs} runs of this stage are done")

    def probe(self, probed: RateProbed) -> None:
        self._spent += probed.n_steps_spent
        steps = probed.steps_to_accuracy
        what = str(steps.status).replace("_", " ") if steps.value is None else f"{steps.value:.3g} steps"
        budget = f"{self._spent:,} of {self._budget:,} steps"
        self._write(f"learning rate {probed.learning_rate:g}: {probed.regime}; target accuracy: {what}; used {budget}")

    def _write(self, line: str) -> None:
        self._logged_at = time.monotonic()
        if not self._quiet:
            sys.stderr.write(line + "\n")


def _print(result: OnsetResult, root: "Place") -> None:
    grid = Table(header_style="bold")
    grid.add_column("lr", justify="right")
    for name in ("regime", "FTLE", "steps to target", ""):
        grid.add_column(name)
    notes = {result.low: "last regular", result.high: "first sensitive"}
    for probe in result.probes:
        rate = probe.learning_rate
        note = [notes.get(rate, ""), "fastest" if rate == result.fastest else ""]
        cells = [show.interval(each.to_json()) for each in (probe.ftle, probe.steps_to_accuracy)]
        cells.append(", ".join(filter(None, note)))
        grid.add_row(f"{rate:g}", f"[{show.COLOURS[probe.regime]}]{probe.regime}[/]", *cells)
    Console().print(grid)
    typer.echo(f"{result.message}\nresult: {root / 'onset.json'}")
    if result.ran_out:
        typer.echo("To continue, repeat the command with a larger --budget.")
