"""Characteristic against decorrelation time, one point per initial condition."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.numerics.intervals import LEAST_INITIAL_CONDITIONS
from streamscalar.report.figures.drawing import COLOURS, INK, MARKS, SMALL, Drawing, new_figure, setting_name, style
from streamscalar.types import Estimate

NAME = "times"
KINDS = (("", "validated estimators"), ("_published", "rules as published"))

Pairs = list[tuple[float, float]]


def times_figure(runs: Sequence[RunEstimates], settings: Sequence[SettingEstimates]) -> Drawing:
    """Return both pairs of times, each at the setting with most initial conditions that have both."""
    best = {
        suffix: max(((_pairs(runs, s, suffix), s) for s in settings), key=_count, default=None) for suffix, _ in KINDS
    }
    enough = [found is not None and len(found[0]) >= LEAST_INITIAL_CONDITIONS for found in best.values()]
    if not any(enough):
        return Drawing(NAME, _why_not(runs, max((len(found[0]) for found in best.values() if found), default=0)))
    has_ladder = len({setting.epsilon for setting in settings}) > 1
    with style():
        figure = new_figure(4.3)
        axes = figure.subplots(1, len(KINDS))
        for axis, (suffix, title) in zip(axes, KINDS, strict=True):
            found = best[suffix]
            if found is None or len(found[0]) < LEAST_INITIAL_CONDITIONS:
                n = 0 if found is None else len(found[0])
                axis.set_axis_off()
                words = f"{title}:\nonly {n} initial conditions\nhave both times"
                axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes)
                continue
            pairs, setting = found
            correlation = setting.estimates[f"times_correlation{suffix}"]
            _scatter(axis, pairs, setting)
            axis.set_title(f"{title}, {setting_name(setting, has_ladder)}\n{_correlation(correlation)}")
            axis.set(xlabel="characteristic time of the scalar (steps)", ylabel="decorrelation time (steps)")
    text = (
        "Decorrelation time of the test accuracy against characteristic time of the scalar, in steps, one point per "
        "initial condition, with validated estimators and with the published rules."
    )
    return Drawing(NAME, text, figure)


def _pairs(runs: Sequence[RunEstimates], setting: SettingEstimates, suffix: str) -> Pairs:
    found = []
    for run in runs:
        if run.key == setting.key:
            first = run.estimates[f"characteristic_time{suffix}"].value
            second = run.estimates[f"decorrelation_time{suffix}"].value
            if first is not None and second is not None:
                found.append((first, second))
    return found


def _why_not(runs: Sequence[RunEstimates], most: int) -> str:
    """Return how many runs have each time, and how many are needed."""
    parts = []
    for suffix, title in KINDS:
        first, second = (
            sum(run.estimates[f"{kind}_time{suffix}"].is_ok for run in runs)
            for kind in ("characteristic", "decorrelation")
        )
        parts.append(f"by {title}, {first} of {len(runs)} runs have a characteristic and {second} a decorrelation time")
    return (
        f"At most {most} initial conditions of one setting have both times, and {LEAST_INITIAL_CONDITIONS} are needed: "
        f"{'; '.join(parts)}. More initial conditions or longer training may give both."
    )


def _count(found: tuple[Pairs, SettingEstimates]) -> int:
    return len(found[0])


def _scatter(axis: Axes, pairs: Pairs, setting: SettingEstimates) -> None:
    """Draw the points, larger where several coincide, and the line of equal times."""
    distinct, counts = np.unique(np.array(pairs), axis=0, return_counts=True)
    axis.scatter(
        distinct[:, 0],
        distinct[:, 1],
        s=26 * counts,
        marker=MARKS[setting.regime],
        color=COLOURS[setting.regime],
        edgecolor="white",
        linewidth=0.6,
        alpha=0.85,
        zorder=3,
    )
    margin = 0.06 * max(float(np.ptp(distinct)), 1.0)
    limits = (float(distinct.min()) - margin, float(distinct.max()) + margin)
    axis.axline((0.0, 0.0), slope=1.0, color=INK, lw=0.8, ls=(0, (4, 2)))
    axis.annotate("dashed: equal times", (0.98, 0.02), xycoords="axes fraction", ha="right", fontsize=SMALL)
    axis.set(xlim=limits, ylim=limits)


def _correlation(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"r: {estimate.status.words} (n = {estimate.n})"
    interval = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"r = {estimate.value:.2f}{interval}, n = {estimate.n}"
