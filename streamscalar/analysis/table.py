"""The table of an experiment: exponents, regime and speed of each run and of each setting."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.series import RunSeries
from streamscalar.numerics.exponents import Average, ftle, nmle, steps_to_accuracy
from streamscalar.numerics.intervals import (
    IntervalMethod,
    binomial,
    over_initial_conditions,
    steps_over_initial_conditions,
)
from streamscalar.numerics.regime import REGULAR_BELOW, RunEvidence, classify
from streamscalar.types import Estimate, Regime, Status, json_float

if TYPE_CHECKING:
    import pandas as pd

Estimator = Callable[[NDArray[np.int64], NDArray[np.float64], Average, float], Estimate]

SCHEMA = 1
"""Version of the JSON document."""


@dataclass(frozen=True, slots=True)
class Options:
    """How an experiment is analysed.

    Attributes
    ----------
    confidence
        Stated coverage of all intervals.
    interval
        Interval over initial conditions.
    n_bootstrap
        Resamples of `bootstrap_t`.
    average
        How divergence curves are averaged over replicas.
    regular_below
        Exponent per step under which training counts as regular.
    accuracy_target
        Test accuracy for `steps_to_accuracy`; `None` where the task has none.
    seed
        Seed of the resamples. Each number draws from its own stream, so it does not depend on which others
        are computed.
    """

    confidence: float = 0.95
    interval: IntervalMethod = "student"
    n_bootstrap: int = 2000
    average: Average = "mean_log"
    regular_below: float = REGULAR_BELOW
    accuracy_target: float | None = None
    seed: int = 0


QUANTITIES = (
    "ftle",
    "nmle",
    "nmle_embedded",
    "nmle_random_direction",
    "steps_to_accuracy",
    "explained_variance",
)
"""Estimates that a run and a setting both have."""


@dataclass(frozen=True, slots=True)
class RunEstimates:
    """What one run says.

    Attributes
    ----------
    run_id, learning_rate, epsilon, initial_condition, is_complete, n_planned
        As in its series.
    n_rows
        Rows that were there to analyse.
    estimates
        The `QUANTITIES` by name.
    regime, regime_reason
        Regime by the run alone.
    has_diverged
        Whether its loss ended above where it began or is not finite.
    control_divergence
        Largest l1 distance between control and reference, `None` without a control.
    loss, accuracy
        Latest values of the reference, `None` where not recorded.
    """

    run_id: str
    learning_rate: float
    epsilon: float
    initial_condition: int
    is_complete: bool
    n_rows: int
    n_planned: int
    estimates: Mapping[str, Estimate]
    regime: Regime
    regime_reason: str
    has_diverged: bool
    control_divergence: float | None
    loss: float | None
    accuracy: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "run_id": self.run_id,
            "learning_rate": self.learning_rate,
            "epsilon": self.epsilon,
            "initial_condition": self.initial_condition,
            "is_complete": self.is_complete,
            "n_rows": self.n_rows,
            "n_planned": self.n_planned,
            "regime": str(self.regime),
            "regime_reason": self.regime_reason,
            **{name: estimate.to_json() for name, estimate in self.estimates.items()},
            "control_divergence": json_float(self.control_divergence),
            "loss": json_float(self.loss),
            "accuracy": json_float(self.accuracy),
        }


@dataclass(frozen=True, slots=True)
class SettingEstimates:
    """What all initial conditions of one setting say together.

    Attributes
    ----------
    learning_rate, epsilon
        The setting.
    regime, regime_reason
        Regime and the sentence that justifies it.
    n_runs
        Initial conditions, whatever became of them.
    estimates
        `positive_fraction` and the `QUANTITIES` by name.
    """

    learning_rate: float
    epsilon: float
    regime: Regime
    regime_reason: str
    n_runs: int
    estimates: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "learning_rate": self.learning_rate,
            "epsilon": self.epsilon,
            "regime": str(self.regime),
            "regime_reason": self.regime_reason,
            "n_runs": self.n_runs,
            **{name: estimate.to_json() for name, estimate in self.estimates.items()},
        }


@dataclass(frozen=True, slots=True)
class Table:
    """The analysis of an experiment.

    Attributes
    ----------
    experiment
        What the caller says about the experiment, copied to the document.
    settings
        By rising learning rate, then epsilon.
    runs
        By rising learning rate, then epsilon, then initial condition.
    """

    experiment: Mapping[str, Any]
    settings: Sequence[SettingEstimates]
    runs: Sequence[RunEstimates] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `analyze --json`; non-finite floats are strings."""
        return {
            "schema": SCHEMA,
            "experiment": dict(self.experiment),
            "settings": [setting.to_json() for setting in self.settings],
            "runs": [run.to_json() for run in self.runs],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per setting: each estimate as its value, `_low`, `_high`, `_n` and `_status`."""
        import pandas as pd

        rows = []
        for setting in self.settings:
            row: dict[str, object] = {
                "learning_rate": setting.learning_rate,
                "epsilon": setting.epsilon,
                "regime": str(setting.regime),
                "n_runs": setting.n_runs,
            }
            for name, estimate in setting.estimates.items():
                row[name] = estimate.value
                row[f"{name}_low"] = estimate.low
                row[f"{name}_high"] = estimate.high
                row[f"{name}_n"] = estimate.n
                row[f"{name}_status"] = str(estimate.status)
            rows.append(row)
        return pd.DataFrame(rows)


def analyze_run(series: RunSeries, options: Options) -> RunEstimates:
    """Analyse the rows of one run that are there, finished or not.

    Separations in the full space are the l1 ones.
    """
    full_ftle = _exponent(ftle, series, "l1", options)
    full_nmle = _exponent(nmle, series, "l1", options)
    evidence = RunEvidence(full_ftle, full_nmle, series.has_diverged)
    regime, reason = classify([evidence], regular_below=options.regular_below)
    return RunEstimates(
        run_id=series.run_id,
        learning_rate=series.learning_rate,
        epsilon=series.epsilon,
        initial_condition=series.initial_condition,
        is_complete=series.is_complete,
        n_rows=len(series.steps),
        n_planned=series.n_planned,
        estimates={
            "ftle": full_ftle,
            "nmle": full_nmle,
            "nmle_embedded": _exponent(nmle, series, "embedded", options),
            "nmle_random_direction": _exponent(nmle, series, "random", options),
            "steps_to_accuracy": _steps_to_accuracy(series, options),
            "explained_variance": _explained_variance(series),
        },
        regime=regime,
        regime_reason=reason,
        has_diverged=series.has_diverged,
        control_divergence=series.control_divergence,
        loss=_latest(series, "loss"),
        accuracy=_latest(series, "accuracy"),
    )


def analyze(runs: Sequence[RunSeries], options: Options, experiment: Mapping[str, Any]) -> Table:
    """Analyse an experiment: every run, and the initial conditions of each setting together.

    Parameters
    ----------
    runs
        Series in any order, complete or not.
    options
        How to analyse.
    experiment
        What to say about the experiment in the document; passed through.
    """
    ordered = sorted(runs, key=lambda run: (run.learning_rate, run.epsilon, run.initial_condition, run.run_id))
    analyzed = [analyze_run(series, options) for series in ordered]
    groups = groupby(analyzed, key=lambda run: (run.learning_rate, run.epsilon))
    settings = [_setting(*key, list(group), options) for key, group in groups]
    return Table(experiment, settings, analyzed)


def is_positive(exponent: Estimate, regular_below: float = REGULAR_BELOW) -> bool | None:
    """Return whether a run's exponent counts as positive.

    It does when its lower bound over the replicas lies above `regular_below`; with under three replicas,
    which give no bound, the value itself has to. So the slow growth of regular training does not count. A
    contraction does not either. `None` where there is no exponent to judge.
    """
    if exponent.status is Status.CONTRACTED:
        return False
    if exponent.value is None:
        return None
    return (exponent.value if exponent.low is None else exponent.low) > regular_below


def _setting(learning_rate: float, epsilon: float, runs: list[RunEstimates], options: Options) -> SettingEstimates:
    found: dict[str, Estimate] = {"positive_fraction": _positive_fraction(runs, options)}
    for name in QUANTITIES:
        combine = steps_over_initial_conditions if name == "steps_to_accuracy" else over_initial_conditions
        stream = zlib.crc32(f"{name} {learning_rate!r} {epsilon!r}".encode())
        rng = np.random.default_rng([options.seed, stream])
        single = [run.estimates[name] for run in runs]
        found[name] = combine(single, options.interval, options.confidence, options.n_bootstrap, rng)
    evidence = [RunEvidence(run.estimates["ftle"], run.estimates["nmle"], run.has_diverged) for run in runs]
    regime, reason = classify(evidence, found["ftle"], found["nmle"], options.regular_below)
    return SettingEstimates(learning_rate, epsilon, regime, reason, len(runs), found)


def _positive_fraction(runs: list[RunEstimates], options: Options) -> Estimate:
    """Return the share of initial conditions with a positive exponent, with a Clopper-Pearson interval."""
    method = f"share with ftle > {options.regular_below:g}, Clopper-Pearson"
    judged = [is_positive(run.estimates["ftle"], options.regular_below) for run in runs]
    known = [verdict for verdict in judged if verdict is not None]
    if not known:
        first = runs[0].estimates["ftle"]
        return Estimate.failed(first.status, method=method, what="No run has an exponent.")
    low, high = binomial(sum(known), len(known), options.confidence)
    message = f"{sum(known)} of {len(known)} initial conditions."
    if len(known) < len(runs):
        message += f" {len(runs) - len(known)} without an exponent were left out."
    value = sum(known) / len(known)
    return Estimate(value, Status.OK, low, high, options.confidence, len(known), method, message=message)


def _exponent(estimator: Estimator, series: RunSeries, distance: str, options: Options) -> Estimate:
    divergence = series.perturbed(distance)
    if divergence is None:
        what = f"No {distance} divergence."
        return Estimate.failed(Status.MISSING, method=distance, what=what)
    return estimator(series.steps, divergence, options.average, options.confidence)


def _steps_to_accuracy(series: RunSeries, options: Options) -> Estimate:
    accuracy = series.reference("accuracy")
    if accuracy is None or options.accuracy_target is None:
        absent = "No accuracy." if accuracy is None else "No accuracy target."
        return Estimate.failed(Status.MISSING, method="first step with accuracy", what=absent)
    return steps_to_accuracy(series.steps, accuracy, options.accuracy_target)


def _explained_variance(series: RunSeries) -> Estimate:
    method = "exact embedding" if series.embedding_is_exact else "live embedding"
    if series.explained_variance is None:
        return Estimate.failed(Status.MISSING, method=method, what="No embedding yet.")
    return Estimate(series.explained_variance, Status.OK, n=len(series.steps), method=method)


def _latest(series: RunSeries, metric: str) -> float | None:
    values = series.reference(metric)
    return None if values is None or len(values) == 0 else float(values[-1])
