"""Share of the variance along the scalar, compared with a random walk, and the eigengap of its direction."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.report.figures.drawing import COLOURS, INK, MARKS, SMALL, Drawing, new_figure, one_epsilon, style
from streamscalar.report.figures.rates import RateScale, draw_points, has_points

NAME = "explained-variance"
ILL_DEFINED_BELOW = 0.1
"""Eigengap below which the leading direction is ill-defined (compare subspaces instead)."""


def variance_figure(runs: Sequence[RunEstimates], settings: Sequence[SettingEstimates]) -> Drawing:
    """Return explained variance with its random-walk control, and the eigengap of every run."""
    if not settings:
        return Drawing(NAME, "No run has started.")
    epsilon, shown = one_epsilon(settings)
    if not has_points(shown, runs, "explained_variance"):
        return Drawing(NAME, "No run has an embedding yet.")
    scale = RateScale([setting.learning_rate for setting in shown])
    with style():
        figure = new_figure(3.7)
        left, right = figure.subplots(1, 2)
        for axis in (left, right):
            scale.apply(axis, share=0.5)
            scale.shade(axis, shown)
            axis.set(xlabel=scale.label, ylim=(0.0, 1.03))
        draw_points(left, scale, shown, runs, "explained_variance", -0.004)
        draw_points(left, scale, shown, runs, "explained_variance_walk", 0.004)
        left.set_ylabel("share of variance along the scalar")
        left.legend(loc="best")
        _gaps(right, scale, [run for run in runs if run.epsilon == epsilon], shown)
    text = (
        "Left: share of the variance along the scalar over learning rates, with intervals, and of a random walk with "
        "the same moves. Right: eigengap of every run, one minus the ratio of the two leading eigenvalues; near 0 the "
        "leading direction is ill-defined."
    )
    return Drawing(NAME, text, figure)


def _gaps(axis: Axes, scale: RateScale, runs: Sequence[RunEstimates], settings: Sequence[SettingEstimates]) -> None:
    means = []
    for setting, x in zip(settings, scale.at(scale.rates), strict=True):
        gaps = [run.eigengap for run in runs if run.learning_rate == setting.learning_rate and run.eigengap is not None]
        if gaps:
            means.append((float(x), float(np.mean(gaps))))
            axis.plot(
                [float(x)] * len(gaps),
                gaps,
                MARKS[setting.regime],
                color=COLOURS[setting.regime],
                ms=5,
                alpha=0.8,
                mec="white",
                mew=0.5,
            )
    axis.plot(*np.array(means, dtype=np.float64).reshape(-1, 2).T, color=INK, lw=1.0)
    axis.axhspan(0.0, ILL_DEFINED_BELOW, facecolor="none", edgecolor="#777777", hatch="////", lw=0, alpha=0.5)
    axis.annotate(
        "hatched: direction ill-defined",
        (0.98, 0.97),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=SMALL,
    )
    axis.set_ylabel("eigengap (one mark per run, line: mean)")
