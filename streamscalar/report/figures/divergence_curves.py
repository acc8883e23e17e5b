"""Divergence curves of the replicas in weight space, in the scalar, and along a random direction."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.numerics.exponents.curves import Average, mean_log
from streamscalar.report.figures.drawing import (
    COLOURS,
    DASHES,
    INK,
    SMALL,
    Drawing,
    new_figure,
    style,
)
from streamscalar.report.figures.labels import clusters, in_short, spread_labels
from streamscalar.types import Regime

NAME = "divergence"
PANELS = (
    ("l1", "nmle", "Weight space", "ln of the L1 distance"),
    ("embedded", "nmle_embedded", "Scalar embedding", "ln of the separation"),
    ("random", "nmle_random_direction", "Random direction (control)", ""),
)
MOST_CURVES = 16

Curve = tuple[RunSeries, NDArray[np.float64], RunEstimates, Regime]


def divergence_figure(
    shown: Mapping[str, RunSeries],
    runs: Sequence[RunEstimates],
    settings: Sequence[SettingEstimates],
    average: Average,
) -> Drawing:
    """Return ln divergence over steps of the runs in `shown`, one panel per distance, fitted windows marked."""
    regimes = {setting.key: setting.regime for setting in settings}
    own = [run for run in runs if run.run_id in shown]
    curves = [run for run in own if shown[run.run_id].n_perturbed and len(shown[run.run_id].steps) > 1]
    if not curves:
        return Drawing(NAME, "No run with a perturbed replica has two rows yet.")
    has_ladder = len({run.epsilon for run in curves}) > 1
    has_rates = len({run.learning_rate for run in curves}) > 1
    with style():
        figure = new_figure(4.6)
        axes = figure.subplots(1, len(PANELS), sharex=True)
        axes[1].sharey(axes[2])
        drawn: list[list[Curve]] = [[] for _ in PANELS]
        for axis, own_curves, (distance, exponent, title, unit) in zip(axes, drawn, PANELS, strict=True):
            for run in curves:
                series = shown[run.run_id]
                curve = mean_log(series.perturbed(distance), average)
                regime = regimes[run.key]
                _curve(axis, series.steps, curve, run, exponent, regime)
                own_curves.append((series, curve, run, regime))
            axis.set(xlabel="step", title=title)
            axis.set_ylabel(unit)
            axis.margins(x=0.01)
        # The limits of the shared axis are known only now.
        for axis in axes[:2]:
            bottom, top = axis.get_ylim()
            axis.set_ylim(bottom - 0.06 * (top - bottom), top)
        _floor(axes[0], curves)
        for axis, own_curves in zip(axes, drawn, strict=True):
            if has_rates or not has_ladder:
                _name_ends(axis, own_curves)
            if has_ladder:
                _name_starts(axis, own_curves)
        axes[2].tick_params(labelleft=False)
        if has_ladder:
            left, right = axes[0].get_xlim()
            ticks = [tick for tick in axes[0].get_xticks() if left <= tick <= right]
            axes[0].set_xlim(left - 0.2 * (right - left), right)
            axes[0].set_xticks(ticks)
        sides = ["right: learning rate"] if has_rates or not has_ladder else []
        sides += ["left: ε"] if has_ladder else []
        _legend(figure, [regimes[run.key] for run in curves], ", ".join(sides))
    text = (
        f"Mean ln divergence of the perturbed replicas from their reference over training steps: L1 distance in weight "
        f"space, along the scalar embedding, and along one random direction. {len(curves)} runs, the first initial "
        f"condition of each setting shown, coloured by regime; thick where an exponent was fitted."
    )
    return Drawing(NAME, text, figure)


def _curve(
    axis: Axes, steps: NDArray[np.int64], curve: NDArray[np.float64], run: RunEstimates, exponent: str, regime: Regime
) -> None:
    finite = np.isfinite(curve)
    colour = COLOURS[regime]
    axis.plot(steps[finite], curve[finite], color=colour, ls=DASHES[regime], lw=1.1)
    window = run.estimates[exponent].window
    if run.estimates[exponent].is_ok and window is not None:
        inside = finite & (steps >= window[0]) & (steps <= window[1])
        axis.plot(steps[inside], curve[inside], color=colour, lw=4.0, alpha=0.35, solid_capstyle="butt")
        at = np.flatnonzero(inside)
        at = at[[0, -1]] if len(at) else at
        axis.plot(steps[at], curve[at], "|", color=INK, ms=7, mew=1.2)


def _floor(axis: Axes, runs: Sequence[RunEstimates]) -> None:
    """Mark the largest distance of unperturbed copies from their reference."""
    floors = [run.control_divergence for run in runs if run.control_divergence is not None]
    highest = max((floor for floor in floors if np.isfinite(floor)), default=None)
    if highest is None:
        return
    if highest > 0.0:
        axis.axhline(np.log(highest), color=INK, lw=0.9, ls=(0, (4, 2)))
        words = "noise floor: unperturbed copies"
        axis.annotate(words, (0.02, np.log(highest)), xycoords=("axes fraction", "data"), va="bottom", fontsize=SMALL)
    else:
        axis.annotate(
            "unperturbed copies: exactly 0",
            (0.98, 0.015),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            fontsize=SMALL,
        )


def _name_ends(axis: Axes, ends: Sequence[Curve]) -> None:
    """Write the learning rate at the end of each curve, without overlaps."""
    last = [
        (float(series.steps[finite[-1]]), float(curve[finite[-1]]), run.learning_rate, regime)
        for series, curve, run, regime in ends
        if (finite := np.flatnonzero(np.isfinite(curve))).size
    ]
    if not last:
        return
    bottom, top = axis.get_ylim()
    least = 0.052 * (top - bottom)
    labels = []
    for regime in Regime:
        own = [end for end in last if end[3] is regime]
        for members in clusters([end[1] for end in own], least / 2):
            height = float(np.mean([own[member][1] for member in members]))
            words = in_short([own[member][2] for member in members], [end[2] for end in last])
            labels.append((height, words, regime))
    right = max(end[0] for end in last)
    heights = spread_labels([label[0] for label in labels], bottom, top, least)
    for (height, words, regime), placed in zip(labels, heights, strict=True):
        axis.annotate(
            words,
            (right, height),
            xytext=(1.03, (placed - bottom) / (top - bottom)),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL,
            color=COLOURS[regime],
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": COLOURS[regime], "shrinkA": 0, "shrinkB": 1},
        )
    axis.set_ylim(bottom, top)


def _name_starts(axis: Axes, starts: Sequence[Curve]) -> None:
    """Write each epsilon once, at the start of its first curve, in the left margin."""
    named = set()
    for series, curve, run, regime in starts:
        if run.epsilon in named or not np.isfinite(curve[0]):
            continue
        named.add(run.epsilon)
        axis.annotate(
            f"{run.epsilon:g}",
            (float(series.steps[0]), float(curve[0])),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=SMALL,
            color=COLOURS[regime],
        )


def _legend(figure: Figure, regimes: Sequence[Regime], sides: str) -> None:
    lines = [
        Line2D([], [], color=COLOURS[regime], ls=DASHES[regime], label=str(regime))
        for regime in Regime
        if regime in regimes
    ]
    lines.append(Line2D([], [], color="#555555", lw=4.0, alpha=0.4, label="fitted window"))
    lines.append(Line2D([], [], ls="", label=sides))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), handlelength=2.6)
