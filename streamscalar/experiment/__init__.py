"""Handles on a stored experiment and its runs."""

from streamscalar.experiment.series import Series
from streamscalar.experiment.stored_experiment import Experiment, open  # noqa: A004  (`ss.open` is the public name)
from streamscalar.experiment.stored_run import Run

__all__ = ["Experiment", "Run", "Series", "open"]
