"""The pictures of the concept pages, from the experiment of `streamscalar demo`.

Run `python -m docs.generate.pictures` after a change of the figures: it trains the experiment again (a minute of
processor time) and replaces the files. `python -m docs.generate.pictures STORE` draws a stored experiment.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import streamscalar
from streamscalar.experiment import Experiment
from streamscalar.numerics.exponents.curves import mean_log
from streamscalar.report.figures import COLOURS, Drawing
from streamscalar.report.figures.drawing import new_figure, style
from streamscalar.report.page import draw
from streamscalar.types import REFERENCE, Regime

FOLDER = Path(__file__).parents[1] / "concepts"
RATES = (0.5, 2.5)
"""A regular and a chaotic learning rate of the experiment."""
CHAOTIC = "lr2.5_ic0"


def main(arguments: list[str]) -> None:
    """Draw all pictures."""
    if arguments:
        pictures(streamscalar.open(arguments[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        overrides = {"store": {"url": folder + "/store"}, "cluster": {"executor": "inline"}}
        pictures(streamscalar.run(streamscalar.load_config(preset="digits-sweep", overrides=overrides)))


def pictures(experiment: Experiment) -> None:
    """Write every picture of the concept pages."""
    drawings = draw(experiment, experiment.analyze())
    _write("trajectory", _trajectory(experiment))
    _write("replica", _replica(experiment))
    _write("scalar", _figure(drawings["trajectories"]))
    _write("exponent", _exponent(experiment))
    _write("regime", _figure(drawings["regime-map"]))


def _figure(drawing: Drawing) -> Figure:
    if drawing.figure is None:
        raise ValueError(f"{drawing.name}: {drawing.text}")
    return drawing.figure


def _write(name: str, figure: Figure) -> None:
    # The same experiment gives the same file: no date, and ids that follow from the content.
    with style(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


def _trajectory(experiment: Experiment) -> Figure:
    """Draw the reference's snapshots in the plane of the two leading coordinates, coloured by step."""
    with style():
        figure = new_figure(3.6)
        panels = figure.subplots(1, len(RATES))
        for panel, rate in zip(panels, RATES, strict=True):
            run = experiment.run(f"lr{rate:g}_ic0")
            scores, _ = run.coordinates()
            x, y = scores[:, REFERENCE, :2].T
            panel.plot(x, y, color="#bbbbbb", lw=0.8)
            points = panel.scatter(x, y, c=run.steps(), s=14, cmap="viridis", zorder=2)
            panel.set(title=f"learning rate {rate:g}", xlabel="first coordinate (the scalar)")
            panel.locator_params(nbins=5)
        panels[0].set_ylabel("second coordinate")
        figure.colorbar(points, ax=panels, label="step", pad=0.01)
    return figure


def _replica(experiment: Experiment) -> Figure:
    """Draw the distance of every replica of a chaotic run from its reference."""
    run = experiment.run(CHAOTIC)
    apart = run.divergence("l1")
    with style():
        figure = new_figure(3.4)
        axis = figure.subplots()
        for index in range(*run.layout.perturbed.indices(run.layout.n_replicas)):
            label = "perturbed replicas" if index == 1 else None
            axis.plot(apart.steps, apart.values[:, index], color=COLOURS[Regime.CHAOTIC], label=label)
        axis.set(yscale="log", xlabel="step", ylabel="L1 distance from the reference")
        if run.layout.control is not None:
            largest = float(apart.values[:, run.layout.control].max())
            axis.plot([], [], color="black", label=f"control: largest distance {largest:g}")
        axis.legend(loc="lower right")
    return figure


def _exponent(experiment: Experiment) -> Figure:
    """Draw the averaged logarithm of the distance with the lines of the two exponents."""
    run = experiment.run(CHAOTIC)
    apart = run.divergence("l1")
    curve = mean_log(apart.values[:, run.layout.perturbed].astype(np.float64))
    estimates = run.estimates().estimates
    with style():
        figure = new_figure(3.4)
        axis = figure.subplots()
        axis.plot(apart.steps, curve, color="#777777", lw=2.2, label="mean of ln d over replicas")
        for name, label, colour in (("ftle", "FTLE", "#332288"), ("nmle", "nMLE", COLOURS[Regime.CHAOTIC])):
            found = estimates[name]
            if found.value is None or found.window is None:
                raise ValueError(f"{name} of {CHAOTIC}: {found.message}")
            window = np.array(found.window)
            inside = (apart.steps >= window[0]) & (apart.steps <= window[1])
            if name == "nmle":
                line = curve[inside].mean() + found.value * (window - apart.steps[inside].mean())
            else:
                line = curve[inside][0] + found.value * (window - window[0])
            axis.plot(window, line, color=colour, label=f"{label} {found.value:.2f} per step")
        axis.set(xlabel="step", ylabel="ln of the L1 distance")
        axis.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
