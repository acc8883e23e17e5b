"""Figures of an experiment, as SVG text."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.table import SettingEstimates
from streamscalar.experiment import Run
from streamscalar.numerics.exponents import mean_log
from streamscalar.types import REFERENCE, Regime

COLOURS = {
    Regime.REGULAR: "#2a9d8f",
    Regime.ONSET: "#e9a23b",
    Regime.CHAOTIC: "#d1495b",
    Regime.DIVERGED: "#7b2d8b",
    Regime.UNDECIDED: "#888888",
}


def divergence_figure(series: Sequence[RunSeries], settings: Sequence[SettingEstimates]) -> str:
    """Return ln divergence over steps, one line per run, in weight space and in the scalar."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    regimes = {setting.learning_rate: setting.regime for setting in settings}
    for axis, distance, title in (
        (axes[0], "l1", "Weight space: ln L1 distance"),
        (axes[1], "embedded", "Scalar embedding: ln |z_j - z_0|"),
    ):
        for run in series:
            apart = run.perturbed(distance)
            if apart is not None and apart.size:
                with np.errstate(all="ignore"):
                    axis.plot(
                        run.steps,
                        mean_log(apart),
                        color=COLOURS[regimes[run.learning_rate]],
                        lw=0.9,
                        alpha=0.8,
                    )
        for rate, run_end in _ends(series, distance):
            axis.annotate(f"{rate:g}", run_end, fontsize=7, xytext=(3, 0), textcoords="offset points", va="center")
        axis.set(xlabel="step", title=title)
    _legend(figure, [setting.regime for setting in settings])
    return _svg(figure)


def _ends(series: Sequence[RunSeries], distance: str) -> list[tuple[float, tuple[float, float]]]:
    """Return where to write each learning rate: the last finite point of its first run."""
    ends: dict[float, tuple[float, float]] = {}
    for run in series:
        apart = run.perturbed(distance)
        if run.learning_rate in ends or apart is None or not apart.size:
            continue
        with np.errstate(all="ignore"):
            curve = mean_log(apart)
        finite = np.flatnonzero(np.isfinite(curve))
        if finite.size:
            ends[run.learning_rate] = (float(run.steps[finite[-1]]), float(curve[finite[-1]]))
    return list(ends.items())


def _legend(figure: Figure, regimes: Sequence[Regime]) -> None:
    lines = [Line2D([], [], color=COLOURS[regime], label=str(regime)) for regime in Regime if regime in regimes]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)


def exponent_figure(settings: Sequence[SettingEstimates], accuracy_target: float) -> str:
    """Return exponents and training speed over learning rates, with intervals."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label, marker in (
        ("ftle", "FTLE, weights", "."),
        ("nmle", "nMLE, weights", "o"),
        ("nmle_embedded", "nMLE, scalar", "s"),
        ("nmle_random_direction", "nMLE, random direction", "x"),
    ):
        _with_intervals(left, settings, name, label, marker)
    left.axhline(0, color="#bbbbbb", lw=0.8)
    left.set(xlabel="learning rate", title="Exponents per step")
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=8)
    _with_intervals(right, settings, "steps_to_accuracy", "", "o")
    right.set(xlabel="learning rate", title=f"Steps to {accuracy_target:.0%} test accuracy")
    rates = [setting.learning_rate for setting in settings]
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlim(0.8 * min(rates), 1.25 * max(rates))
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize=7)
        axis.minorticks_off()
    return _svg(figure)


def _with_intervals(axis: Axes, settings: Sequence[SettingEstimates], name: str, label: str, marker: str) -> None:
    points = [
        (
            s.learning_rate,
            e.value,
            e.low if e.low is not None else e.value,
            e.high if e.high is not None else e.value,
        )
        for s in settings
        if (e := s.estimates[name]).value is not None
    ]
    if points:
        rates, values, low, high = np.array(points, dtype=float).T
        spread = np.maximum([values - low, high - values], 0)
        axis.errorbar(rates, values, spread, fmt=f"{marker}-", lw=1, ms=5, capsize=2, label=label)


def embedding_figure(runs: Sequence[Run], settings: Sequence[SettingEstimates]) -> str:
    """Return the scalar embedding of reference and perturbed replicas, one panel per learning rate."""
    first = {float(run.setting["learning_rate"]): run for run in reversed(runs)}
    shown = [setting for setting in settings if setting.learning_rate in first][:16]
    n_columns = min(4, max(1, len(shown)))
    n_rows = -(-len(shown) // n_columns) or 1
    figure = Figure(figsize=(10, 2.2 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True).ravel()
    for panel, setting in zip(panels, shown, strict=False):
        run = first[setting.learning_rate]
        series = run.embedding()
        stop = 1 + run.layout.n_perturbed
        panel.plot(series.steps, series.values[:, 1:stop], color=COLOURS[setting.regime], lw=0.7, alpha=0.6)
        panel.plot(series.steps, series.values[:, REFERENCE], color="black", lw=0.9)
        panel.set_title(f"lr {setting.learning_rate:g}, {setting.regime}", fontsize=9)
        panel.tick_params(labelsize=7)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "streamscalar", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
