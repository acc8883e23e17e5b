"""The figures of a report, each a `Drawing`, which may be a reason instead of a figure."""

from streamscalar.report.figures.divergence_curves import divergence_figure
from streamscalar.report.figures.drawing import COLOURS, Drawing
from streamscalar.report.figures.exponent_rates import exponent_figure, ladder_figure
from streamscalar.report.figures.local_exponents import local_figure
from streamscalar.report.figures.regimes import regime_map
from streamscalar.report.figures.spacing_laws import most_spaced, spacing_figure
from streamscalar.report.figures.times import times_figure
from streamscalar.report.figures.trajectories import trajectory_figure
from streamscalar.report.figures.variance import variance_figure

__all__ = [
    "COLOURS",
    "Drawing",
    "divergence_figure",
    "exponent_figure",
    "ladder_figure",
    "local_figure",
    "most_spaced",
    "regime_map",
    "spacing_figure",
    "times_figure",
    "trajectory_figure",
    "variance_figure",
]
