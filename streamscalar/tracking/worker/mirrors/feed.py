"""What a mirror sends: the results of a run since the last time, from its stored and embedded rows."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from streamscalar.analysis.alerts import RunWatch
from streamscalar.analysis.rank_alerts import ranks_drifted
from streamscalar.analysis.rules import Alert
from streamscalar.analysis.run import exponents_and_regime
from streamscalar.analysis.series import RunSeries
from streamscalar.experiment import Experiment
from streamscalar.numerics.exponents.curves import mean_log
from streamscalar.types import REFERENCE, Regime

PREFIX = "streamscalar/"

REGIME_NUMBERS = {Regime.REGULAR: 0.0, Regime.ONSET: 1.0, Regime.CHAOTIC: 2.0, Regime.DIVERGED: 3.0}
"""Regimes as numbers; an undecided one has none."""


@dataclass(frozen=True)
class News:
    """Results since the last ones.

    Attributes
    ----------
    values
        Values by name, by training step. NaN for a name whose last number no longer holds.
    notes
        Texts by name.
    alerts
        Alerts that were not sent.
    n_rows
        Number of rows that everything up to now comes from.
    numbered
        Names whose newest value is a number.
    """

    values: dict[int, dict[str, float]]
    notes: dict[str, str]
    alerts: list[Alert]
    n_rows: int
    numbered: set[str]


class Feed:
    """Reads the results of one run while it grows.

    Parameters
    ----------
    experiment, run_id
        The run.
    n_rows, alerts, numbered
        Number of rows, and identifiers of the alerts, that were sent; names whose newest value is a number.
    """

    def __init__(
        self, experiment: Experiment, run_id: str, n_rows: int, alerts: Iterable[str], numbered: Iterable[str]
    ) -> None:
        self._options = experiment.options
        self._reader = experiment.store.reader(run_id)
        self._run = experiment.run(run_id)
        self._rules = experiment.config.analysis.alerts
        self._watch = RunWatch(self._rules, self._options)
        self._ranks = self._reader.rank_watch()
        self._n_rows = n_rows
        self._known = set(alerts)
        self._numbered = set(numbered)
        self._notes: dict[str, str] = {}

    def read(self, *, is_over: bool) -> News:
        """Return the results since the last call; with `is_over`, no row follows."""
        n_rows = self._reader.embedding.n_rows
        alerts = self._rank_alerts(is_over=is_over)
        values: dict[int, dict[str, float]] = {}
        notes: dict[str, str] = {}
        if n_rows > self._n_rows:
            series = self._run.series(n_rows)
            values = self._rows(series)
            estimates, notes = self._estimates(series)
            newest = values[int(series.steps[-1])]
            newest |= estimates
            numbered = {name for found in values.values() for name in found}
            newest |= dict.fromkeys(self._numbered - numbered, math.nan)
            alerts += self._watch.update(series)
            self._n_rows, self._numbered = n_rows, numbered
        changed = {name: text for name, text in notes.items() if self._notes.get(name) != text}
        self._notes |= changed
        alerts = [alert for alert in alerts if alert.id not in self._known]
        self._known |= {alert.id for alert in alerts}
        return News(values, changed, alerts, self._n_rows, self._numbered)

    def _rows(self, series: RunSeries) -> dict[int, dict[str, float]]:
        """Return the finite values of each new row: coordinates as they were first published, and the separation."""
        first = self._n_rows
        scores = self._reader.embedding.published_scores()[first : len(series.steps), REFERENCE, :2]
        columns = {f"{PREFIX}z{1 + k}": scores[:, k] for k in range(scores.shape[1])}
        if series.n_perturbed:
            with np.errstate(all="ignore"):
                columns[f"{PREFIX}separation"] = np.exp(mean_log(series.perturbed("l1")[first:]))
        return {
            step: {name: float(column[at]) for name, column in columns.items() if np.isfinite(column[at])}
            for at, step in enumerate(series.steps[first:].tolist())
        }

    def _estimates(self, series: RunSeries) -> tuple[dict[str, float], dict[str, str]]:
        """Return the exponents that have a value, and the regime if it is decided; statuses as texts."""
        found, regime = exponents_and_regime(series, self._options)
        numbers: dict[str, float | None] = {"regime": REGIME_NUMBERS.get(regime)}
        texts = {"regime_name": str(regime)}
        for key, estimate in found.items():
            numbers |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
            texts[f"{key}_status"] = str(estimate.status)
        return (
            {PREFIX + name: number for name, number in numbers.items() if number is not None},
            {PREFIX + name: text for name, text in texts.items()},
        )

    def _rank_alerts(self, *, is_over: bool) -> list[Alert]:
        self._ranks.update(is_over=is_over)
        run_id = self._reader.run_id
        return [alert for drifts in self._ranks.drifts() for alert in ranks_drifted(run_id, drifts, self._rules)]
