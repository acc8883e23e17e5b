"""What a mirror sends: the results of a run since the last time, from its stored and embedded rows."""

import math
from collections.abc import Iterator
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
        Values by name, by training step.
    notes
        Texts by name.
    alerts
        Alerts that were not sent.
    n_rows
        Number of rows that everything up to now comes from.
    """

    values: list[tuple[int, dict[str, float]]]
    notes: dict[str, str]
    alerts: list[Alert]
    n_rows: int


class Feed:
    """Reads the results of one run while it grows.

    Parameters
    ----------
    experiment, run_id
        The run.
    n_rows
        Number of rows that were sent.
    alerts
        Identifiers of the alerts that were sent.
    """

    def __init__(self, experiment: Experiment, run_id: str, n_rows: int, alerts: set[str]) -> None:
        self._experiment = experiment
        self._reader = experiment.store.reader(run_id)
        self._run = experiment.run(run_id)
        self._rules = experiment.config.analysis.alerts
        self._watch = RunWatch(self._rules, experiment.options)
        self._ranks = self._reader.rank_watch()
        self._n_rows = n_rows
        self._known = set(alerts)
        self._notes: dict[str, str] = {}
        # After a restart it is not known which estimates had a number.
        self._had_number: set[str] | None = set() if n_rows == 0 else None

    def read(self, *, is_over: bool) -> News:
        """Return the results since the last call; with `is_over`, no row follows."""
        n_rows = self._reader.embedding.n_rows
        drifts = self._rank_alerts(is_over=is_over)
        if n_rows <= self._n_rows:
            return News([], {}, self._fresh(drifts), self._n_rows)
        series = self._run.series(n_rows)
        values = dict(self._rows(series))
        estimates, notes = self._estimates(series)
        values.setdefault(int(series.steps[-1]), {}).update(estimates)
        changed = {name: text for name, text in notes.items() if self._notes.get(name) != text}
        self._notes = notes
        alerts = self._fresh([*self._watch.update(series), *drifts])
        self._n_rows = n_rows
        return News([(step, found) for step, found in values.items() if found], changed, alerts, n_rows)

    def _rows(self, series: RunSeries) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield the values of each new row: coordinates as they were first published, and the separation."""
        first = self._n_rows
        scores = self._reader.embedding.published_scores()[: len(series.steps), REFERENCE, :2]
        columns = {f"{PREFIX}z{1 + k}": scores[first:, k] for k in range(scores.shape[1])}
        if series.n_perturbed:
            with np.errstate(all="ignore"):
                columns[f"{PREFIX}separation"] = np.exp(mean_log(series.perturbed("l1")[first:]))
        for at, step in enumerate(series.steps[first:].tolist()):
            # NaN or infinity raise an alert; back ends do not agree on how to show them.
            yield step, {name: float(column[at]) for name, column in columns.items() if math.isfinite(column[at])}

    def _estimates(self, series: RunSeries) -> tuple[dict[str, float], dict[str, str]]:
        """Return exponents and regime: numbers where they hold, and their statuses as texts."""
        found, regime = exponents_and_regime(series, self._experiment.options)
        numbers: dict[str, float | None] = {f"{PREFIX}regime": REGIME_NUMBERS.get(regime)}
        notes = {f"{PREFIX}regime_name": str(regime)}
        for key, estimate in found.items():
            parts = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
            numbers |= {f"{PREFIX}{key}{suffix}": part if estimate.is_ok else None for suffix, part in parts.items()}
            notes[f"{PREFIX}{key}_status"] = str(estimate.status)
        held = {name: number for name, number in numbers.items() if number is not None}
        had = set(numbers) if self._had_number is None else self._had_number
        self._had_number = set(held)
        # The newest number of a name must not stay when it no longer holds.
        return held | dict.fromkeys(had - set(held), math.nan), notes

    def _rank_alerts(self, *, is_over: bool) -> list[Alert]:
        self._ranks.update(is_over=is_over)
        return [
            alert
            for drifts in self._ranks.drifts()
            for alert in ranks_drifted(self._reader.run_id, drifts, self._rules)
        ]

    def _fresh(self, alerts: list[Alert]) -> list[Alert]:
        """Return the alerts that were not sent, and remember them."""
        fresh = [alert for alert in alerts if alert.id not in self._known]
        self._known |= {alert.id for alert in fresh}
        return fresh
