"""The regime map: regime, exponents and training time by learning rate, with intervals."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.report.figures.drawing import COLOURS, MARKS, SMALL, Drawing, new_figure, one_epsilon, style
from streamscalar.report.figures.rates import RateScale, draw_points, has_points, points
from streamscalar.types import Regime, Status

NAME = "regime-map"
MISSED = {Status.NOT_REACHED: "never", Status.PARTLY_REACHED: "not all"}
SHOWN = ("ftle", "nmle", "nmle_random_direction")


def regime_map(
    runs: Sequence[RunEstimates],
    settings: Sequence[SettingEstimates],
    accuracy_target: float | None,
    regular_below: float,
) -> Drawing:
    """Return regimes, exponents and training time over one axis of learning rates."""
    if not settings:
        return Drawing(NAME, "No run has started.")
    epsilon, shown = one_epsilon(settings)
    if len(shown) < 2:
        return Drawing(NAME, "A map needs two learning rates; this experiment has one (its numbers are in the table).")
    has_exponents = any(has_points(shown, runs, name) for name in SHOWN)
    has_times = has_points(shown, runs, "steps_to_accuracy")
    heights = [0.32, *([1.9] if has_exponents else []), *([1.25] if has_times else [])]
    with style():
        figure = new_figure(0.9 + 1.55 * sum(heights))
        axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        scale = RateScale([setting.learning_rate for setting in shown])
        scale.apply(axes[0])
        for axis in axes:
            scale.shade(axis, shown)
        _strip(axes[0], scale, shown)
        if has_exponents:
            _exponents(axes[1], scale, shown, runs, regular_below)
        if has_times:
            _times(axes[-1], scale, shown, runs, accuracy_target)
        axes[-1].set_xlabel(scale.label)
        figure.legend(
            handles=[
                Line2D([], [], color=COLOURS[regime], marker=MARKS[regime], ls="", ms=7, label=str(regime))
                for regime in Regime
                if any(setting.regime is regime for setting in shown)
            ],
            loc="outside upper center",
            ncols=len(Regime),
        )
    regimes = "; ".join(f"{setting.learning_rate:g} {setting.regime}" for setting in shown)
    parts = [f"Regime by learning rate (epsilon {epsilon:g}): {regimes}."]
    if has_exponents:
        parts.append(
            "Below, exponents per step with intervals over initial conditions; a random direction is the control."
        )
    if has_times:
        parts.append(f"At the bottom, steps to {accuracy_target or 0.0:.0%} test accuracy.")
    return Drawing(NAME, " ".join(parts), figure)


def _strip(axis: Axes, scale: RateScale, settings: Sequence[SettingEstimates]) -> None:
    """Mark the regime of each rate by colour and shape, with its share of positive exponents as text."""
    named = scale.with_room(0.032)
    for setting, x in zip(settings, scale.at(scale.rates), strict=True):
        share = setting.estimates["positive_fraction"]
        axis.plot(x, 0.0, MARKS[setting.regime], color=COLOURS[setting.regime], ms=8, mec="white", mew=0.6)
        if share.value is not None and setting.learning_rate in named:
            words = f"{round(share.value * share.n)}/{share.n}"
            axis.annotate(
                words, (x, 0.0), xytext=(0, -8), textcoords="offset points", ha="center", va="top", fontsize=SMALL
            )
    axis.set(ylim=(-1.4, 0.8), yticks=[])
    axis.set_ylabel("share\npositive", rotation=0, ha="right", va="center", fontsize=SMALL)
    axis.spines["left"].set_visible(False)
    axis.tick_params(bottom=False)


def _exponents(
    axis: Axes,
    scale: RateScale,
    settings: Sequence[SettingEstimates],
    runs: Sequence[RunEstimates],
    regular_below: float,
) -> None:
    axis.axhline(0.0, color="#444444", lw=0.8)
    axis.axhline(regular_below, color="#444444", lw=0.8, ls=(0, (1, 2)), label=f"regular below {regular_below:g}")
    for name, shift in zip(SHOWN, (-0.006, 0.0, 0.006), strict=True):
        draw_points(axis, scale, settings, runs, name, shift)
    axis.set_ylabel("exponent per step")
    _focus(axis, settings, SHOWN)
    axis.legend(loc="best", handlelength=2.6)


def _times(
    axis: Axes,
    scale: RateScale,
    settings: Sequence[SettingEstimates],
    runs: Sequence[RunEstimates],
    target: float | None,
) -> None:
    """Draw steps to the target with a ring around the fastest, and a text where not all runs reached it."""
    draw_points(axis, scale, settings, runs, "steps_to_accuracy")
    rates, values, _ = points(settings, "steps_to_accuracy")
    if len(values):
        best = int(np.argmin(values))
        axis.plot(scale.at(rates[best : best + 1]), values[best], "o", ms=12, mfc="none", mec="#444444", mew=1.0)
    named = scale.with_room(0.055)
    for setting, x in zip(settings, scale.at(scale.rates), strict=True):
        short = MISSED.get(setting.estimates["steps_to_accuracy"].status)
        if short is not None and setting.learning_rate in named:
            at = (float(x), 0.04)
            axis.annotate(short, at, xycoords=("data", "axes fraction"), ha="center", fontsize=SMALL, color="#444444")
    axis.set_ylabel(f"steps to {target or 0.0:.0%}\ntest accuracy")
    axis.set_ylim(bottom=0.0)


def _focus(axis: Axes, settings: Sequence[SettingEstimates], names: Sequence[str]) -> None:
    """Cut off intervals that are much larger than all values."""
    values = np.concatenate([points(settings, name)[1] for name in names])
    if not len(values):
        return
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = max(high - low, 1e-3)
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(bottom, low - 0.6 * room), min(top, high + 0.6 * room))
