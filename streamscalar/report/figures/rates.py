"""Axes over learning rates, and estimates drawn over them."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.report.figures.drawing import COLOURS, LOOKS
from streamscalar.report.figures.labels import with_room
from streamscalar.types import Estimate, Status

LEAST_GAP = 0.045
"""Least share of a logarithmic axis between neighbours; with less, rates are spaced evenly."""

MOST_EVEN = 24
"""Maximum number of rates that are spaced evenly; a finer sweep keeps its logarithmic scale."""

LABEL_WIDTH = 0.05
"""Share of a full-width axis that the label of a rate takes."""


class RateScale:
    """Positions of learning rates on an axis.

    Logarithmic, unless rates would then overlap: a grid such as 0.0005 ... 10, 12.5, 15 is spaced evenly, and the
    label of the axis shows that.

    Attributes
    ----------
    rates
        Rising learning rates.
    limits
        Ends of the axis.

    Examples
    --------
    >>> scale = RateScale([0.001, 0.01, 10, 10.1])
    >>> scale.at([0.01, 10.1]).tolist()
    [1.0, 3.0]
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = list(rates)
        logs = np.log10(np.array(self.rates, dtype=np.float64))
        span = float(logs[-1] - logs[0])
        is_crowded = len(rates) > 2 and float(np.diff(logs).min()) < LEAST_GAP * span
        self.is_even = is_crowded and len(rates) <= MOST_EVEN
        self._x = np.arange(len(rates), dtype=np.float64) if self.is_even else logs
        margin = max(0.06 * float(self._x[-1] - self._x[0]), 0.08)
        self.limits = (float(self._x[0]) - margin, float(self._x[-1]) + margin)

    def at(self, rates: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the positions of some of the rates, `(n,)`."""
        return self._x[np.searchsorted(self.rates, rates)]

    @property
    def label(self) -> str:
        """Name of the axis."""
        return "learning rate (evenly spaced)" if self.is_even else "learning rate"

    def apply(self, axis: Axes, share: float = 1.0) -> None:
        """Set limits and ticks of an axis that takes a share of the width of a figure."""
        axis.set_xlim(*self.limits)
        named = with_room(self._x.tolist(), self.limits, LABEL_WIDTH / share)
        labels = [f"{rate:g}" if is_named else "" for rate, is_named in zip(self.rates, named, strict=True)]
        axis.set_xticks(self._x, labels)

    def with_room(self, least: float) -> list[float]:
        """Return the rates with room for a text that takes a share `least` of the axis."""
        named = with_room(self._x.tolist(), self.limits, least)
        return [rate for rate, is_named in zip(self.rates, named, strict=True) if is_named]

    def shade(self, axis: Axes, settings: Sequence[SettingEstimates]) -> None:
        """Colour the band of each learning rate by its regime."""
        middles = [float(a + b) / 2 for a, b in pairwise(self._x)]
        edges = [self.limits[0], *middles, self.limits[1]]
        for setting, (left, right) in zip(settings, pairwise(edges), strict=True):
            axis.axvspan(left, right, color=COLOURS[setting.regime], alpha=0.13, lw=0, zorder=0)

    @property
    def gap(self) -> float:
        """Least share of the axis between neighbours; 1 for a single rate."""
        least = float(np.diff(self._x).min()) if len(self._x) > 1 else math.inf
        return min(1.0, least / (self.limits[1] - self.limits[0]))


def is_drawable(estimate: Estimate) -> bool:
    """Whether there is a finite number to draw."""
    return estimate.value is not None and math.isfinite(estimate.value)


def with_ends(estimates: Sequence[Estimate]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values `(n,)` of drawable estimates and the lengths `(2, n)` of their intervals below and above."""
    rows = [
        (value, *(abs(end - value) if end is not None and math.isfinite(end) else 0.0 for end in (e.low, e.high)))
        for e in estimates
        if (value := e.value) is not None
    ]
    found = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return found[:, 0], found[:, 1:].T


def points(
    settings: Sequence[SettingEstimates], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return rates `(n,)`, values and lengths of the intervals of an estimate, for settings with a number."""
    drawable = [setting for setting in settings if is_drawable(setting.estimates[name])]
    values, spread = with_ends([setting.estimates[name] for setting in drawable])
    return np.array([setting.learning_rate for setting in drawable], dtype=np.float64), values, spread


def draw_points(
    axis: Axes,
    scale: "RateScale",
    settings: Sequence[SettingEstimates],
    runs: Sequence[RunEstimates],
    name: str,
    shift: float = 0.0,
) -> None:
    """Draw an estimate with its intervals over learning rates.

    With too few initial conditions for a mean, single runs are drawn, smaller and pale, with their intervals over
    replicas. `shift` moves the points sideways by a share of the axis, so that several quantities stay
    apart.
    """
    low, high = scale.limits
    moved = shift * (high - low)
    look = LOOKS[name]
    draw = partial(axis.errorbar, fmt=look.mark, color=look.colour)
    label = look.label
    rates, values, spread = points(settings, name)
    if len(rates):
        draw(
            scale.at(rates) + moved,
            values,
            spread,
            ls=look.dashes,
            ms=look.size,
            lw=1.2,
            elinewidth=1.0,
            capsize=2.5,
            label=label,
        )
        label = ""
    single = alone(settings, runs, name)
    if single:
        values, spread = with_ends([run.estimates[name] for run in single])
        at = scale.at([run.learning_rate for run in single]) + moved
        label = label and f"{label}, single runs"
        draw(at, values, spread, mfc="white", ms=look.size - 1.0, elinewidth=0.7, alpha=0.6, label=label)


def alone(settings: Sequence[SettingEstimates], runs: Sequence[RunEstimates], name: str) -> list[RunEstimates]:
    """Return the runs with a number, at settings with too few of them for a mean."""
    keys = {setting.key for setting in settings if setting.estimates[name].status is Status.TOO_FEW_INITIAL_CONDITIONS}
    return [run for run in runs if run.key in keys and is_drawable(run.estimates[name])]


def has_points(settings: Sequence[SettingEstimates], runs: Sequence[RunEstimates], name: str) -> bool:
    """Whether there is anything to draw of an estimate."""
    return any(is_drawable(setting.estimates[name]) for setting in settings) or bool(alone(settings, runs, name))
