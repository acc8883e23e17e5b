"""The live view of a running experiment."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from streamscalar.protocol.progress import RunView, Snapshot
from streamscalar.protocol.schedule import Phase

if TYPE_CHECKING:
    from streamscalar.analysis.table import Table
    from streamscalar.experiment import Experiment

LOG_EVERY_S = 10.0
MAX_LINES = 12
SHOWN = (Phase.TRAINING, Phase.TRAINED, Phase.FAILED)


@contextmanager
def live_view(*, quiet: bool) -> Iterator[Callable[[Snapshot], None]]:
    """Yield a function that shows a snapshot on stderr: a live table on a terminal, else a line every 10 s."""
    if quiet:
        yield lambda _: None
        return
    console = Console(stderr=True)
    meter = _Meter()
    if not console.is_terminal:
        yield lambda snapshot: meter.log(snapshot)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda snapshot: live.update(meter.render(snapshot))


def analyzed(experiment: "Experiment", *, quiet: bool) -> "Table":
    """Return the analysis of an experiment; on a terminal, show a progress bar meanwhile."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return experiment.analyze()
    with Progress(
        TextColumn("analysing"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("", total=None)
        return experiment.analyze(lambda done, total: progress.update(task, completed=done, total=total))


class _Meter:
    def __init__(self) -> None:
        self._started: tuple[float, int] | None = None
        self._logged_at = -math.inf
        self._noted = ""

    def _speed(self, snapshot: Snapshot) -> tuple[float, float]:
        """Return rows per second since the first snapshot, and seconds left."""
        now = time.monotonic()
        if self._started is None:
            self._started = (now, snapshot.n_rows)
        since, rows_before = self._started
        rate = (snapshot.n_rows - rows_before) / max(now - since, 1e-9)
        left = snapshot.n_runs * snapshot.n_rows_planned - snapshot.n_rows
        return rate, left / rate if rate > 0 else math.nan

    def _headline(self, snapshot: Snapshot) -> str:
        rate, left_s = self._speed(snapshot)
        left = f", about {left_s:.0f} s left" if math.isfinite(left_s) and not snapshot.is_over else ""
        if snapshot.note:
            return f"{snapshot.count(Phase.DONE)} of {snapshot.n_runs} runs done; {snapshot.note}"
        failed = f", {n} failed" if (n := snapshot.count(Phase.FAILED)) else ""
        return f"{snapshot.count(Phase.DONE)} of {snapshot.n_runs} runs done{failed}, {rate:.0f} rows/s{left}"

    def log(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S or snapshot.is_over or snapshot.note != self._noted:
            self._logged_at, self._noted = now, snapshot.note
            sys.stderr.write(self._headline(snapshot) + "\n")

    def render(self, snapshot: Snapshot) -> Group:
        table = Grid(box=None, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("run", "", "steps", "scalar", "ln divergence", ""):
            table.add_column(name, justify="right" if name in ("scalar", "ln divergence") else "left")
        active = [run for run in snapshot.runs if run.phase in SHOWN]
        for run in active[:MAX_LINES]:
            table.add_row(*_cells(run, snapshot.n_rows_planned))
        total = snapshot.n_runs * snapshot.n_rows_planned
        # A progress bar does not end its line.
        bar = Padding(ProgressBar(total, snapshot.n_rows, width=60), (0, 0, 1, 0))
        return Group(Text(self._headline(snapshot)), bar, table)


def _cells(run: RunView, n_rows: int) -> tuple[str, str, str, str, str, str]:
    progress = run.progress
    note = run.reason if run.phase == Phase.FAILED or run.attempts > 1 else ""
    if progress is None:
        return run.run_id, run.phase, f"0/{n_rows}", "", "", note
    scalar = f"{progress.coordinate:+.4f}" if math.isfinite(progress.coordinate) else "-"
    apart = f"{progress.divergence:.2f}" if math.isfinite(progress.divergence) else "-"
    return run.run_id, run.phase, f"{progress.n_rows}/{n_rows}", scalar, apart, note
