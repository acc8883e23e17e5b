"""Shared by all figures: drawings, colours, marks, names of settings."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from streamscalar.analysis.quantities import QUANTITIES
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.types import Regime

WIDTH_IN = 10.0
RESOLUTION_DPI = 200
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.3,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
}
SMALL = 8.5
"""Font size of labels inside a panel."""

COLOURS = {
    Regime.REGULAR: "#0072B2",
    Regime.ONSET: "#E69F00",
    Regime.CHAOTIC: "#D55E00",
    Regime.DIVERGED: "#AA4499",
    Regime.UNDECIDED: "#777777",
}
"""Colour of each regime, distinguishable under the common colour-vision deficiencies."""

MARKS = {
    Regime.REGULAR: "o",
    Regime.ONSET: "^",
    Regime.CHAOTIC: "s",
    Regime.DIVERGED: "X",
    Regime.UNDECIDED: "D",
}
DASHES: dict[Regime, str] = {
    Regime.REGULAR: "-",
    Regime.ONSET: "--",
    Regime.CHAOTIC: "-",
    Regime.DIVERGED: "-.",
    Regime.UNDECIDED: ":",
}
INK = "#222222"


@dataclass(frozen=True, slots=True)
class Look:
    """Style of one estimate in every figure."""

    label: str
    colour: str
    mark: str
    dashes: str

    @property
    def size(self) -> float:
        """Size of the mark in points."""
        return 7.0 if self.mark == "*" else 5.0


LOOKS = {
    key: Look(QUANTITIES[key].short, *look)
    for key, look in {
        "ftle": ("#332288", "v", "--"),
        "nmle": ("#000000", "o", "-"),
        "nmle_all_pairs": ("#117733", "^", "--"),
        "nmle_best_r2": ("#999933", "D", "-."),
        "nmle_embedded": ("#1F9ED1", "s", "-"),
        "nmle_random_direction": ("#777777", "x", ":"),
        "tangent_exponent": ("#882255", "*", "--"),
        "recurrence_exponent": ("#CC6677", "P", ":"),
        "steps_to_accuracy": ("#000000", "o", "-"),
        "explained_variance": ("#1F9ED1", "s", "-"),
        "explained_variance_walk": ("#777777", "x", ":"),
    }.items()
}
"""Colour, mark and dashes of each estimate that is drawn."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, or the reason why there is none.

    Attributes
    ----------
    name
        Stem of its files.
    text
        Alternative text; without a figure, one sentence that gives the reason.
    figure
        The figure, or `None`.
    """

    name: str
    text: str
    figure: Figure | None = None

    def svg(self) -> str:
        """Return the figure as an SVG element for a page with several figures."""
        if self.figure is None:
            raise ValueError(f"{self.name} has no figure: {self.text}")
        buffer = io.StringIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}):
            _lay_out(self.figure)
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = buffer.getvalue()
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        # Ids are unique in a figure only; the page holds many.
        for before in ('id="', "url(#", 'href="#'):
            text = text.replace(before, f"{before}{self.name}-")
        return text.replace("<svg ", f"<svg role='img' aria-label={quoteattr(self.text)} ", 1)

    def save(self, folder: Path) -> list[Path]:
        """Write the figure as PNG and PDF; return the files. Without a figure, remove those of an earlier report."""
        paths = [folder / f"{self.name}.{form}" for form in ("png", "pdf")]
        if self.figure is None:
            for path in paths:
                path.unlink(missing_ok=True)
            return []
        for path in paths:
            form = path.suffix[1:]
            partial = path.with_name(path.name + ".partial")
            metadata = {"CreationDate": None} if form == "pdf" else None
            with mpl.rc_context(STYLE):
                _lay_out(self.figure)
                self.figure.savefig(partial, format=form, dpi=RESOLUTION_DPI, metadata=metadata)
            partial.replace(path)
        return paths


def _lay_out(figure: Figure) -> None:
    """Fix the layout: it costs as much as a drawing, and each figure is drawn three times."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def new_figure(height_in: float) -> Figure:
    """Return an empty figure of the common width; call it inside `style()`."""
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


@contextmanager
def style() -> Iterator[None]:
    """Apply the common style inside the block."""
    with mpl.rc_context(STYLE):
        yield


def one_epsilon(settings: Sequence[SettingEstimates]) -> tuple[float, list[SettingEstimates]]:
    """Return the epsilon with most runs (of several, the nearest to 1e-8) and its settings by learning rate.

    A figure over learning rates shows one epsilon, as exponents depend on it.
    """
    n_runs: dict[float, int] = {}
    for setting in settings:
        n_runs[setting.epsilon] = n_runs.get(setting.epsilon, 0) + setting.n_runs
    chosen = min(n_runs, key=lambda epsilon: (-n_runs[epsilon], abs(math.log10(max(epsilon, 1e-300)) + 8.0)))
    return chosen, [setting for setting in settings if setting.epsilon == chosen]


def setting_name(setting: SettingEstimates, has_ladder: bool) -> str:
    """Return the words that name a setting."""
    return f"lr {setting.learning_rate:g}" + (f", ε {setting.epsilon:g}" if has_ladder else "")


def thin(settings: Sequence[SettingEstimates], most: int) -> list[SettingEstimates]:
    """Return at most `most` settings, evenly spaced, including the first and the last."""
    if len(settings) <= most:
        return list(settings)
    chosen = np.unique(np.linspace(0, len(settings) - 1, most).round().astype(int))
    return [settings[index] for index in chosen]
