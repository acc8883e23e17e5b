"""Alerts of a run: the conditions of `rules.py`, tested on its stored rows alone.

Alerts depend on the rows only, so a service that restarts finds the same alerts with the same ids, and none has to be
stored. For that, a rule uses at each row only values that were known there and never change afterwards:

- rules by row (`jumped`, `diverged`, `non_finite`) use that row and the rows before it;
- rules by estimate (`became_chaotic`, `left_regular`, `stalled`, `decorrelated`) run at checkpoints, numbers of rows
  that do not depend on how the rows arrived.

Coordinates of the live embedding do change: each new basis rotates and flips them. The rules use the l1 divergence in
the full space, the metrics, and the move of the reference since the row before, in the full space. The scalar moves at
most that far in any basis.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.rules import Alert, checkpoints, make_alert
from streamscalar.analysis.series import RunSeries
from streamscalar.config.models import AlertsSection
from streamscalar.errors import BadCall, Kind
from streamscalar.missing import is_missing
from streamscalar.numerics.exponents.divergence import ftle, nmle
from streamscalar.numerics.exponents.regime import RunEvidence, classify
from streamscalar.numerics.series.changes import following, level_changes, trend
from streamscalar.types import REFERENCE, Estimate, Regime, json_float

Floats = NDArray[np.float64]

JUMP_ROWS = (40, 5)
"""Rows before a jump, from which its normal level is estimated, and rows after it, which have to differ from that."""

FROZEN_SHARE = 1e-9
"""A reference whose moves are at most this share of its largest move counts as frozen."""

FOLLOWS_ABOVE = 0.5
"""Correlation above which a run follows its group; the interval has to lie on one side of it."""

LEAST_WINDOW = 62
"""Least window of a rule by estimate, in rows: two for each block of a correlation."""

LEAST_GROUP = 4
"""Least number of runs in a group for a median of the others."""


class RunWatch:
    """The rules of single runs, applied to one run while it grows.

    Memory is a few numbers. A call costs a microsecond per new row, plus the checkpoints among them: each reads all
    rows up to it, but they are so far apart that this adds up to a constant per row.

    Parameters
    ----------
    rules, options
        Levels and thresholds; options of the estimates.
    """

    def __init__(self, rules: AlertsSection | None = None, options: Options | None = None) -> None:
        self._rules = rules or AlertsSection()
        self._options = options or Options()
        self._run_id: str | None = None
        self._n_rows = 0
        self._n_checked = 0
        self._last_row: dict[str, int] = {}
        self._n_above = 0
        self._was_finite = True
        self._settled: Regime | None = None
        self._candidate: tuple[Regime, int] = (Regime.UNDECIDED, 0)
        self._n_stalled = 0

    def update(self, series: RunSeries) -> list[Alert]:
        """Return the new alerts since the last call, by row.

        Parameters
        ----------
        series
            The run up to now, including the rows of earlier calls, which are not tested again.

        Raises
        ------
        BadCall
            The series belongs to another run.
        """
        if self._run_id not in (None, series.run_id):
            raise BadCall("series", f"must be of the watched run {self._run_id}", series.run_id, kind=Kind.DATA)
        self._run_id = series.run_id
        n_rows = len(series.steps)
        if n_rows <= self._n_rows and not series.is_complete:
            return []
        # The losses of a diverging run overflow in any mean; the rules raise an alert for that.
        with np.errstate(all="ignore"):
            found = [*self._non_finite(series), *self._diverged(series), *self._jumped(series)]
            self._n_rows = max(self._n_rows, n_rows)
            for n in checkpoints(self._n_checked, n_rows, series.is_complete, self._rules):
                self._n_checked = n
                seen = _first_rows(series, n)
                found += [*self._regime(seen), *self._stalled(seen)]
        return sorted(found, key=lambda alert: (alert.row or 0, alert.rule))

    def _alert(
        self, series: RunSeries, rule: str, row: int, words: Mapping[str, Any], evidence: dict[str, Any]
    ) -> Iterator[Alert]:
        """Yield the alert unless its rule is off or raised one recently."""
        last = self._last_row.get(rule)
        if getattr(self._rules, rule) == "none" or (last is not None and row - last < self._rules.cool_down_rows):
            return
        self._last_row[rule] = row
        yield make_alert(self._rules, series, rule, row, words, evidence)

    def _non_finite(self, series: RunSeries) -> Iterator[Alert]:
        new = slice(self._n_rows, None)
        parts = {
            "separations": series.divergence["l1"][new, series.members],
            "moves": _moves(series, self._n_rows)[:, None],
        }
        if "loss" in series.metrics:
            loss = series.metrics["loss"][new, series.members]
            parts = {"loss": np.where(is_missing(loss), 0.0, loss)} | parts
        finite = {name: np.asarray(np.isfinite(values).all(axis=1)) for name, values in parts.items()}
        for at, is_finite in enumerate(np.logical_and.reduce(list(finite.values()))):
            if self._was_finite and not is_finite:
                what = [name for name, known in finite.items() if not known[at]]
                row = self._n_rows + at
                yield from self._alert(series, "non_finite", row, {"parts": " and ".join(what)}, {"found_in": what})
            self._was_finite = bool(is_finite)

    def _diverged(self, series: RunSeries) -> Iterator[Alert]:
        loss = series.metrics.get("loss")
        if loss is None:
            return
        rows = np.flatnonzero(series.reported("loss"))
        if len(rows) == 0:
            return
        start = float(loss[rows[0], series.members].mean())
        for row in rows[rows >= self._n_rows].tolist():
            value = loss[row, series.members].mean()
            self._n_above = self._n_above + 1 if value > start else 0
            if self._n_above == self._rules.diverged_rows:
                words = {"start": start, "loss": float(value), "n_rows": self._n_above}
                numbers = {"start": json_float(start), "loss": json_float(float(value)), "n_rows": self._n_above}
                yield from self._alert(series, "diverged", row, words, numbers)

    def _jumped(self, series: RunSeries) -> Iterator[Alert]:
        width = sum(JUMP_ROWS)
        first = max(0, self._n_rows - width + 1)
        # Row 0 has no move, and a move of 0 has no logarithm: stretches with either are not tested.
        log_move = _log(_moves(series, first))
        screened = level_changes(log_move, *JUMP_ROWS, self._rules.jump_run_length)
        least = math.log(self._rules.jump_factor)
        # Sums over many rows may differ in the last bit from those over few, so each row is decided alone.
        is_near = (np.abs(screened.statistic) > 0.99 * screened.threshold) & (np.abs(screened.shift) > 0.99 * least)
        for at in np.flatnonzero(is_near):
            stretch = log_move[at - width + 1 : at + 1]
            found = level_changes(stretch, *JUMP_ROWS, self._rules.jump_run_length)
            statistic, threshold, shift = (float(x[-1]) for x in (found.statistic, found.threshold, found.shift))
            if abs(statistic) > threshold and abs(shift) > least:
                yield from self._jump(series, first + int(at), stretch, statistic, threshold, shift)

    def _jump(
        self, series: RunSeries, row: int, stretch: Floats, statistic: float, threshold: float, shift: float
    ) -> Iterator[Alert]:
        n_before, n_after = JUMP_ROWS
        change = row - n_after + 1
        step = int(series.steps[change])
        words = {
            "change_step": step,
            "factor": float(np.exp(abs(shift))),
            "comparison": "longer" if shift > 0.0 else "shorter",
            "n_before": n_before,
        }
        evidence = {
            "change_row": change,
            "change_step": step,
            "statistic": json_float(statistic),
            "threshold": json_float(threshold),
            "factor": json_float(float(np.exp(shift))),
            "rms_move_before": math.exp(float(stretch[:n_before].mean())),
            "rms_move_after": math.exp(float(stretch[n_before:].mean())),
        }
        yield from self._alert(series, "jumped", row, words, evidence)

    def _regime(self, seen: RunSeries) -> Iterator[Alert]:
        options = self._options
        exponents = [
            estimator(seen.steps, seen.perturbed("l1"), options.average, options.confidence)
            for estimator in (ftle, nmle)
        ]
        evidence = RunEvidence(exponents[0], exponents[1], seen.has_diverged)
        regime, reason = classify([evidence], regular_below=options.regular_below)
        before, count = self._candidate
        self._candidate = (regime, count + 1 if regime is before else 1)
        is_open = regime in (Regime.UNDECIDED, Regime.DIVERGED) or regime is self._settled
        if is_open or self._candidate[1] < self._rules.n_confirm:
            return
        if regime is Regime.ONSET and self._settled is Regime.CHAOTIC:
            # Weaker growth does not end chaos; only regular training does.
            return
        settled, self._settled = self._settled, regime
        row = len(seen.steps) - 1
        words = {"reason": reason, "regime": str(regime)}
        details = {
            "regime": str(regime),
            "regime_before": None if settled is None else str(settled),
            "reason": reason,
            "ftle": exponents[0].to_json(),
            "nmle": exponents[1].to_json(),
        }
        chaotic = list(self._alert(seen, "became_chaotic", row, words, details)) if regime is Regime.CHAOTIC else []
        yield from chaotic
        if settled is Regime.REGULAR and not chaotic:
            yield from self._alert(seen, "left_regular", row, words, details)

    def _stalled(self, seen: RunSeries) -> Iterator[Alert]:
        is_end = seen.n_planned is not None and len(seen.steps) >= seen.n_planned
        why = None if is_end or seen.has_diverged else self._why_stalled(seen)
        self._n_stalled = 0 if why is None else self._n_stalled + 1
        if why is None or self._n_stalled != self._rules.n_confirm:
            return
        row = len(seen.steps) - 1
        reason, evidence = why
        yield from self._alert(seen, "stalled", row, {"reason": reason}, evidence)

    def _why_stalled(self, seen: RunSeries) -> tuple[str, dict[str, Any]] | None:
        accuracy, target = _reported(seen, "accuracy"), self._options.accuracy_target
        if accuracy is not None and len(accuracy) and target is not None and accuracy[-1] >= target:
            return None
        n_window = _window(len(seen.steps))
        moves = _moves(seen)[1:]
        newest, largest = float(moves[-n_window:].max()), float(moves.max())
        loss = _reported(seen, "loss")
        if newest <= FROZEN_SHARE * largest and (loss is None or len(loss) == 0 or loss[-1] != 0.0):
            numbers = {"rms_move": json_float(newest), "largest_rms_move": json_float(largest), "n_rows": n_window}
            return f"The weights no longer move: at most {newest:.3g} in {n_window} rows", numbers
        if loss is None or len(loss) < n_window or not (loss[-n_window:] > 0.0).all():
            return None
        fall = trend(-np.log(loss[-n_window:]), self._options.confidence)
        if fall.high is None or fall.high >= -math.log1p(-self._rules.stalled_below):
            return None
        share = max(0.0, -math.expm1(-fall.high))
        reason = f"The loss falls by at most {share:.2%} in {n_window} rows, before the planned end"
        return reason, {"fall_of_log_loss": fall.to_json(), "n_rows": n_window, "n_planned": seen.n_planned}


def watch_group(
    runs: Sequence[RunSeries], rules: AlertsSection | None = None, options: Options | None = None
) -> list[Alert]:
    """Return an alert for each run of a group whose loss stopped following the median of the others, at equal rows.

    A run follows at a checkpoint where the lower end of the correlation of its changes with those of the median is
    above `FOLLOWS_ABOVE`, and no longer follows at a later one where the upper end is below it and the two losses are
    `apart_factor` apart. Without a loss, the sizes of the moves are compared.

    Parameters
    ----------
    runs
        Runs of one setting and several initial conditions. Only rows that all of them have are used, so that alerts
        never change; leave out runs that ended early. Fewer than `LEAST_GROUP` runs give no alert.
    rules, options
        As for `RunWatch`.

    Returns
    -------
    list of Alert
        All alerts, by row; call it again when the group is longer. Cost: a few numbers per row, run and checkpoint.
    """
    rules, options = rules or AlertsSection(), options or Options()
    if rules.decorrelated == "none" or len(runs) < LEAST_GROUP:
        return []
    n_rows = min(len(run.steps) for run in runs)
    is_complete = all(run.is_complete and len(run.steps) == n_rows for run in runs)
    curves = np.stack([_log_curve(run)[:n_rows] for run in runs])
    followed: set[int] = set()
    last: dict[int, int] = {}
    found = []
    for n in checkpoints(0, n_rows, is_complete, rules):
        window = curves[:, n - _window(n) : n]
        is_whole = np.isfinite(window).all(axis=1)
        for index, run in enumerate(runs):
            # A run with NaN must not suppress the alerts of the others.
            others = window[is_whole & (np.arange(len(runs)) != index)]
            if len(others) < LEAST_GROUP - 1:
                continue
            median = np.median(others, axis=0)
            correlation = following(window[index], median, options.confidence)
            if correlation.low is not None and correlation.low > FOLLOWS_ABOVE:
                followed.add(index)
            is_quiet = index in last and n - 1 - last[index] < rules.cool_down_rows
            if index not in followed or is_quiet or not _left(correlation, window[index], median, rules):
                continue
            followed.remove(index)
            last[index] = n - 1
            found.append(_decorrelated(run, n, correlation, window[index], median, 1 + len(others), rules))
    return found


def silent(series: RunSeries, updated_at: float, now: float, rules: AlertsSection | None = None) -> Alert | None:
    """Return an alert if an unfinished run has had no new row for `silent_after_s`.

    The id stays the same until a new row is written, so that a caller can drop repeats.

    Parameters
    ----------
    series
        The run up to now.
    updated_at, now
        Time of its newest row, and current time, in seconds of the same clock.
    """
    rules = rules or AlertsSection()
    quiet_s = now - updated_at
    if rules.silent == "none" or series.is_complete or quiet_s < rules.silent_after_s:
        return None
    row = len(series.steps) - 1
    rows = f"{row + 1} rows" if series.n_planned is None else f"{row + 1} of {series.n_planned} rows"
    evidence = {"silent_s": quiet_s, "silent_after_s": rules.silent_after_s, "updated_at": updated_at}
    return make_alert(rules, series, "silent", row, {"silent_s": quiet_s, "rows": rows}, evidence)


def _decorrelated(
    run: RunSeries, n: int, correlation: Estimate, own: Floats, median: Floats, n_runs: int, rules: AlertsSection
) -> Alert:
    words = {"curve": "loss" if "loss" in run.metrics else "size of the moves", "n_others": n_runs - 1}
    evidence = {
        "correlation": correlation.to_json(),
        "factor_to_median": json_float(float(np.exp(min(700.0, own[-1] - median[-1])))),
        "n_rows": len(own),
        "n_runs": n_runs,
    }
    return make_alert(rules, run, "decorrelated", n - 1, words, evidence)


def _left(correlation: Estimate, own: Floats, median: Floats, rules: AlertsSection) -> bool:
    is_apart = abs(float(own[-1] - median[-1])) > math.log(rules.apart_factor)
    return is_apart and correlation.high is not None and correlation.high < FOLLOWS_ABOVE


def _reported(series: RunSeries, metric: str) -> Floats | None:
    """Return the values of the reference at the rows that have one; `None` for a metric that is not recorded."""
    values = series.reference(metric)
    return None if values is None else values[~is_missing(values)]


def _log_curve(run: RunSeries) -> Floats:
    """Return the logarithm of the loss of the reference, or of its moves without a loss; NaN where undefined."""
    loss = run.reference("loss")
    values = _moves(run) if loss is None else loss
    return _log(values)


def _moves(series: RunSeries, first: int = 0) -> Floats:
    """Return the move of the reference since the row before, RMS over parameters, `(N - first,)`; 0 at row 0."""
    return np.asarray(np.sqrt(series.increments[first:, REFERENCE, REFERENCE]))


def _log(values: Floats) -> Floats:
    is_positive = (values > 0.0) & np.isfinite(values)
    return np.log(values, out=np.full(len(values), np.nan), where=is_positive)


def _window(n_rows: int) -> int:
    """Return the window in rows: a quarter of the run, in which a power law falls as much late as early."""
    return min(n_rows, max(LEAST_WINDOW, n_rows // 4))


def _first_rows(series: RunSeries, n: int) -> RunSeries:
    """Return the first `n` rows of the series that rules by estimate need, without a copy."""
    return replace(
        series,
        is_complete=False,
        steps=series.steps[:n],
        divergence={"l1": series.divergence["l1"][:n]},
        metrics={name: series.metrics[name][:n] for name in ("loss", "accuracy") if name in series.metrics},
        increments=series.increments[:n],
    )
