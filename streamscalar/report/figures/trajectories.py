"""Trajectories in the scalar embedding: reference and perturbed replicas, one panel per setting."""

from collections.abc import Mapping, Sequence

import numpy as np

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.report.figures.drawing import COLOURS, SMALL, Drawing, new_figure, setting_name, style
from streamscalar.types import REFERENCE

NAME = "trajectories"


def trajectory_figure(
    shown: Mapping[str, RunSeries], runs: Sequence[RunEstimates], settings: Sequence[SettingEstimates]
) -> Drawing:
    """Return the scalar over steps of the runs in `shown`, with the share of variance it holds."""
    drawn = [run for run in runs if run.run_id in shown and shown[run.run_id].scores.size]
    if not drawn:
        return Drawing(NAME, "No run has an embedding yet.")
    by_key = {setting.key: setting for setting in settings}
    has_ladder = len({run.epsilon for run in drawn}) > 1
    n_columns = min(4, len(drawn))
    n_rows = -(-len(drawn) // n_columns)
    with style():
        figure = new_figure(0.4 + 2.05 * n_rows)
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True).ravel()
        for panel, run in zip(panels, drawn, strict=False):
            series = shown[run.run_id]
            setting = by_key[run.key]
            scores = np.where(np.isfinite(series.scores[..., 0]), series.scores[..., 0], np.nan)
            panel.plot(series.steps, scores[:, REFERENCE], color="black", lw=2.2)
            # On top and thinner, so that both are visible while replicas follow the reference.
            colour = COLOURS[setting.regime]
            panel.plot(series.steps, scores[:, 1 : 1 + series.n_perturbed], color=colour, lw=0.9)
            panel.set_title(f"{setting_name(setting, has_ladder)}, {setting.regime}\n{_shares(run)}", fontsize=SMALL)
            panel.tick_params(labelsize=SMALL)
        for panel in panels[len(drawn) :]:
            panel.set_axis_off()
        for column in range(n_columns):
            lowest = panels[max(i for i in range(len(drawn)) if i % n_columns == column)]
            lowest.set_xlabel("step")
            lowest.tick_params(labelbottom=True)
        figure.supylabel("scalar (RMS distance units)", fontsize=10)
    text = (
        f"Scalar embedding over training steps, one panel per setting ({len(drawn)}): reference in black, perturbed "
        f"replicas in the colour of the regime. Titles hold the share of the variance along the scalar, and that of a "
        f"random walk with the same moves."
    )
    return Drawing(NAME, text, figure)


def _shares(run: RunEstimates) -> str:
    explained, walk = run.estimates["explained_variance"], run.estimates["explained_variance_walk"]
    if explained.value is None:
        return "variance unknown"
    words = f"variance {explained.value:.2f}"
    return words if walk.value is None else f"{words}, random walk {walk.value:.2f}"
