"""Distributions of rescaled spacings, with the fitted law and with independent draws."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.stats import skewnorm

from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.numerics.asymptotic.independent_draws import SpacingNull
from streamscalar.report.figures.drawing import COLOURS, INK, Drawing, new_figure, setting_name, style
from streamscalar.types import Regime

NAME = "spacings"
MOST_SETTINGS = 2
LAW = "skew lognormal"
FEWEST_BINS = 8
MOST_BINS = 30

Floats = NDArray[np.float64]


def most_spaced(settings: Sequence[SettingEstimates]) -> list[SettingEstimates]:
    """Return the settings with most spacings that a law was fitted to, sensitive ones first."""
    fitted = [setting for setting in settings if setting.spacings.fits.fits]
    fitted.sort(key=lambda setting: (setting.regime is not Regime.CHAOTIC, -setting.spacings.fits.n))
    return fitted[:MOST_SETTINGS]


def spacing_figure(settings: Sequence[SettingEstimates]) -> Drawing:
    """Return the density of log10 spacings, the fitted skew normal law, and the band of independent draws."""
    shown = most_spaced(settings)
    if not shown:
        most = max((setting.spacings.fits.n for setting in settings), default=0)
        reason = f"No setting has enough spacings of asymptotic states for a fit (at most {most})"
        largest = max(settings, key=lambda setting: setting.spacings.fits.n, default=None)
        return Drawing(NAME, f"{reason}." if largest is None else f"{reason}: {largest.spacings.fits.message}")
    has_ladder = len({setting.epsilon for setting in settings}) > 1
    with style():
        figure = new_figure(4.3)
        axes = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
        every = np.log10(np.concatenate([setting.spacings.pooled for setting in shown]))
        limits = (min(float(every.min()), -2.0) - 0.1, max(float(every.max()), 0.6) + 0.2)
        for axis, setting in zip(axes, shown, strict=True):
            _panel(axis, setting, limits)
            spacings = setting.spacings
            drifting = f", {spacings.n_drifting} still drifting" if spacings.n_drifting else ""
            axis.set_title(
                f"{setting_name(setting, has_ladder)}, {setting.regime}: {spacings.fits.n} spacings of "
                f"{len(spacings.samples)} runs{drifting}",
                fontsize=9.5,
            )
            axis.set_xlabel("log10 of spacing / mean spacing")
        axes[0].set_ylabel("density")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    text = (
        "Density of log10 rescaled spacings of asymptotic states: histogram, fitted skew lognormal law, and the mean "
        "density and pointwise band of the same fit to independent normal draws. Settings: "
        f"{', '.join(setting_name(setting, has_ladder) for setting in shown)}."
    )
    return Drawing(NAME, text, figure)


def _panel(axis: Axes, setting: SettingEstimates, limits: tuple[float, float]) -> None:
    values = np.log10(setting.spacings.pooled)
    n_bins = int(np.clip(np.sqrt(len(values)) * 1.5, FEWEST_BINS, MOST_BINS))
    colour = COLOURS[setting.regime]
    axis.hist(values, n_bins, density=True, color=colour, alpha=0.3, edgecolor="white", label="observed")
    axis.plot(values, np.zeros_like(values), "|", color=colour, ms=9, mew=1.0)
    low, high = limits
    grid = np.linspace(low, high, 300)
    null = setting.spacings.null
    if null is not None:
        bottom, top = _band(null, grid)
        axis.fill_between(
            grid, bottom, top, color="#777777", alpha=0.25, lw=0, label=f"independent draws, {null.confidence:.0%} band"
        )
        middles = (null.edges[1:] + null.edges[:-1]) / 2
        inside = (middles >= low) & (middles <= high)
        axis.plot(middles[inside], null.density[inside], color=INK, lw=1.2, ls=(0, (1, 1.5)), label="their mean")
    law = setting.spacings.fits[LAW].parameters
    density = skewnorm.pdf(grid, law["shape"], law["loc"], law["scale"])
    axis.plot(grid, density, color=colour, lw=2.0, label="fitted skew lognormal")
    axis.set_xlim(low, high)


def _band(null: SpacingNull, grid: Floats) -> tuple[Floats, Floats]:
    """Return the pointwise band of the laws fitted to independent draws."""
    shape, loc, scale = null.fits.T[:, :, None]
    densities = skewnorm.pdf(grid, shape, loc, scale)
    tail = (1.0 - null.confidence) / 2.0
    low, high = np.quantile(densities, [tail, 1.0 - tail], axis=0)
    return low, high
