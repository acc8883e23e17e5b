"""The analysis of an experiment: every run, every setting, and the ladder over epsilons."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.quantities import advised, keys
from streamscalar.analysis.run import RunEstimates, analyze_run
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.setting_estimates import SettingEstimates, analyze_setting
from streamscalar.numerics.exponents.ladder import LEAST_RUNGS, extrapolate
from streamscalar.types import Estimate

if TYPE_CHECKING:
    import pandas as pd

AnyRun = TypeVar("AnyRun", RunSeries, RunEstimates)

SCHEMA = 1
"""Version of the JSON document."""


@dataclass(frozen=True, slots=True)
class Table:
    """The analysis of an experiment.

    Attributes
    ----------
    experiment
        Facts about the experiment that the caller gives, copied to the document.
    settings
        By rising learning rate, then epsilon.
    runs
        By rising learning rate, then epsilon, then initial condition.
    ladders
        For each learning rate with three epsilons or more, the exponents of level `ladder` in `quantities.py`,
        extrapolated to epsilon = 0, by key.
    """

    experiment: Mapping[str, Any]
    settings: Sequence[SettingEstimates]
    runs: Sequence[RunEstimates] = field(repr=False)
    ladders: Mapping[float, Mapping[str, Estimate]] = field(default_factory=dict)

    def of_known_rates(self) -> "Table":
        """Return the table without the runs of unknown learning rate, which have no position on an axis of rates."""
        settings = [setting for setting in self.settings if not math.isnan(setting.learning_rate)]
        runs = [run for run in self.runs if not math.isnan(run.learning_rate)]
        return replace(self, settings=settings, runs=runs)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `analyze --json`; non-finite floats are strings."""
        return {
            "schema": SCHEMA,
            "experiment": dict(self.experiment),
            "settings": [setting.to_json() for setting in self.settings],
            "ladders": [
                {"learning_rate": rate, **{name: estimate.to_json() for name, estimate in ladder.items()}}
                for rate, ladder in self.ladders.items()
            ],
            "runs": [run.to_json() for run in self.runs],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per setting: each estimate as its value, `_low`, `_high`, `_n` and `_status`."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "learning_rate": setting.learning_rate,
                    "epsilon": setting.epsilon,
                    "variant": setting.variant,
                    "regime": str(setting.regime),
                    "n_runs": setting.n_runs,
                    **_columns(setting.estimates),
                }
                for setting in self.settings
            ]
        )

    def runs_to_pandas(self) -> "pd.DataFrame":
        """Return one row per run, with its estimates as in `to_pandas`."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "run_id": run.run_id,
                    "learning_rate": run.learning_rate,
                    "epsilon": run.epsilon,
                    "variant": run.variant,
                    "initial_condition": run.initial_condition,
                    "n_rows": run.n_rows,
                    "regime": str(run.regime),
                    **_columns(run.estimates),
                    "asymptotic_status": str(run.states.status),
                    "control_divergence": run.control_divergence,
                    "eigengap": run.eigengap,
                    "loss": run.loss,
                    "accuracy": run.accuracy,
                }
                for run in self.runs
            ]
        )


def _columns(estimates: Mapping[str, Estimate]) -> dict[str, object]:
    row: dict[str, object] = {}
    for name, estimate in estimates.items():
        row[name] = estimate.value
        row[f"{name}_low"] = estimate.low
        row[f"{name}_high"] = estimate.high
        row[f"{name}_n"] = estimate.n
        row[f"{name}_status"] = str(estimate.status)
    return row


def analyze(
    runs: Sequence[RunSeries],
    options: Options,
    experiment: Mapping[str, Any],
    analyze_one: Callable[[RunSeries, Options], RunEstimates] = analyze_run,
) -> Table:
    """Analyse an experiment: every run, and the initial conditions of each setting together.

    Parameters
    ----------
    runs
        Series in any order, complete or not.
    options
        How to analyse.
    experiment
        Facts about the experiment for the document; passed through.
    analyze_one
        Analyses one run; a caller may cache results or report progress here.
    """
    return tabulate([analyze_one(series, options) for series in _ordered(runs)], options, experiment)


def tabulate(runs: Sequence[RunEstimates], options: Options, experiment: Mapping[str, Any]) -> Table:
    """Combine runs that were analysed one by one; see `analyze`."""
    analyzed = _ordered(runs)
    groups = [list(group) for _, group in groupby(analyzed, key=_setting)]
    settings = [analyze_setting(group, options) for group in groups]
    ladders = {
        rate: _ladder(list(group), options)
        for rate, group in groupby(analyzed, key=lambda run: run.learning_rate)
        if not math.isnan(rate)
    }
    return Table(experiment, settings, analyzed, {rate: ladder for rate, ladder in ladders.items() if ladder})


def _ordered(runs: Sequence[AnyRun]) -> list[AnyRun]:
    return sorted(runs, key=lambda run: (*_setting(run), run.initial_condition, run.run_id))


def _setting(run: RunSeries | RunEstimates) -> tuple[float, float, str]:
    """Return the key of a setting; unknown learning rates sort first and count as one setting."""
    rate, epsilon, variant = run.key
    return -math.inf if math.isnan(rate) else rate, epsilon, variant


def _ladder(runs: Sequence[RunEstimates], options: Options) -> dict[str, Estimate]:
    """Extrapolate the exponents of one learning rate, over initial conditions that have every rung."""
    epsilons = sorted({run.epsilon for run in runs})
    if len(epsilons) < LEAST_RUNGS or len({run.variant for run in runs}) > 1:
        return {}
    by_condition = {
        index: {run.epsilon: run for run in runs if run.initial_condition == index}
        for index in sorted({run.initial_condition for run in runs})
    }
    whole = [rungs for rungs in by_condition.values() if len(rungs) == len(epsilons)]
    return {
        name: advised(
            name,
            extrapolate(
                np.array(epsilons),
                [[rungs[epsilon].estimates[name] for epsilon in epsilons] for rungs in whole],
                options.confidence,
            ),
            is_tracked=options.is_tracked,
        )
        for name in keys("ladder")
    }
