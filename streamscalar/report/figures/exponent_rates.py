"""Exponents by every estimator over learning rates, and their ladder over epsilons."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.report.figures.drawing import LOOKS, SMALL, Drawing, new_figure, one_epsilon, style
from streamscalar.report.figures.rates import RateScale, draw_points, has_points, is_drawable, with_ends
from streamscalar.types import Estimate

NAME = "exponents"
LADDER_NAME = "epsilon-ladder"
SHOWN = (
    "nmle",
    "nmle_embedded",
    "nmle_random_direction",
    "nmle_all_pairs",
    "nmle_best_r2",
    "tangent_exponent",
    "recurrence_exponent",
)
LADDER_RATES = 4


def exponent_figure(runs: Sequence[RunEstimates], settings: Sequence[SettingEstimates]) -> Drawing:
    """Return the exponents of all estimators, with intervals over initial conditions."""
    if not settings:
        return Drawing(NAME, "No run has started.")
    epsilon, shown = one_epsilon(settings)
    names = [name for name in SHOWN if has_points(shown, runs, name)]
    if not names:
        return Drawing(NAME, f"No setting has an exponent: {_first_reason(shown)}")
    with style():
        figure = new_figure(4.2)
        axis = figure.subplots()
        scale = RateScale([setting.learning_rate for setting in shown])
        scale.apply(axis)
        scale.shade(axis, shown)
        axis.axhline(0.0, color="#444444", lw=0.8)
        step = min(0.6 * scale.gap / len(names), 0.02 if len(shown) > 1 else 1.0)
        for index, name in enumerate(names):
            draw_points(axis, scale, shown, runs, name, step * (index - (len(names) - 1) / 2))
        named = scale.with_room(0.05)
        for setting, x in zip(shown, scale.at(scale.rates), strict=True):
            if setting.learning_rate in named and not any(has_points([setting], runs, name) for name in names):
                at = (float(x), 0.0)
                axis.annotate("none", at, xytext=(0, 4), textcoords="offset points", ha="center", fontsize=SMALL)
        axis.set(xlabel=scale.label, ylabel="exponent per step")
        figure.legend(loc="outside upper center", ncols=min(3, len(names)), handlelength=2.8)
    estimators = ", ".join(LOOKS[name].label for name in names)
    text = (
        f"Exponents per step over learning rates (epsilon {epsilon:g}) with intervals over initial conditions: "
        f"{estimators}. Points are shifted sideways so that they do not overlap; the background is coloured "
        f"by regime."
    )
    return Drawing(NAME, text, figure)


def ladder_figure(settings: Sequence[SettingEstimates], ladders: Mapping[float, Mapping[str, Estimate]]) -> Drawing:
    """Return exponents over 1 / ln(1 / epsilon) with their extrapolation to an infinitesimal perturbation."""
    rates = [rate for rate, ladder in ladders.items() if any(is_drawable(estimate) for estimate in ladder.values())]
    if not ladders:
        return Drawing(LADDER_NAME, "The experiment has fewer than three epsilons, so nothing is extrapolated to 0.")
    if not rates:
        first = next(iter(next(iter(ladders.values())).values()))
        return Drawing(LADDER_NAME, f"No exponent could be extrapolated to epsilon 0: {first.message or first.status}")
    chosen = rates if len(rates) <= LADDER_RATES else [rates[i] for i in np.linspace(0, len(rates) - 1, 4).astype(int)]
    with style():
        figure = new_figure(4.2)
        panels = figure.subplots(1, len(chosen), squeeze=False, sharey=True)[0]
        for panel, rate in zip(panels, chosen, strict=True):
            rungs = [setting for setting in settings if setting.learning_rate == rate]
            x = np.array([-1.0 / math.log(setting.epsilon) for setting in rungs])
            for index, (name, limit) in enumerate(ladders[rate].items()):
                _rungs(panel, x, rungs, name, limit, 0.006 * float(x.max()) * (2 * index + 1 - len(ladders[rate])))
            panel.axvline(0.0, color="#444444", lw=0.8)
            panel.axhline(0.0, color="#444444", lw=0.8)
            panel.set_xlim(-0.006, 1.08 * float(x.max()))
            panel.set_xticks([0.0, *x], ["0", *(f"{setting.epsilon:.0e}".replace("e-0", "e-") for setting in rungs)])
            panel.set(xlabel="ε, placed at 1 / ln(1/ε)", title=f"learning rate {rate:g}")
        panels[0].set_ylabel("exponent per step")
        drawn = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            drawn.values(), drawn.keys(), loc="outside upper center", ncols=max(1, len(drawn)), handlelength=2.8
        )
    text = (
        "Exponents per step against 1 / ln(1 / epsilon), with intervals over initial conditions, and at the left edge "
        "their extrapolation to an infinitesimal perturbation."
    )
    return Drawing(LADDER_NAME, text, figure)


def _rungs(
    panel: Axes,
    x: NDArray[np.float64],
    rungs: Sequence[SettingEstimates],
    name: str,
    limit: Estimate,
    shift: float,
) -> None:
    """Draw one exponent at every rung, and its limit at 0 joined by a thin line."""
    look = LOOKS[name]
    is_there = [is_drawable(setting.estimates[name]) for setting in rungs]
    if not any(is_there):
        return
    at = x[is_there] + shift
    found = [setting.estimates[name] for setting, there in zip(rungs, is_there, strict=True) if there]
    values, spread = with_ends(found)
    draw = partial(panel.errorbar, fmt=look.mark, color=look.colour, elinewidth=1.0, capsize=2.5, ms=look.size)
    draw(at, values, spread, ls=look.dashes, lw=1.2, label=look.label)
    if is_drawable(limit):
        value, ends = with_ends([limit])
        nearest = int(np.argmin(at))
        panel.plot([shift, at[nearest]], [value[0], values[nearest]], color=look.colour, lw=0.8, ls=(0, (1, 2)))
        draw([shift], value, ends, mfc="white", mew=1.4)


def _first_reason(settings: Sequence[SettingEstimates]) -> str:
    estimate = settings[0].estimates["nmle"]
    return estimate.message or str(estimate.status)
