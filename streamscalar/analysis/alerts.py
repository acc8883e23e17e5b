"""What happened to a run that somebody should know: rules over its stored rows, and nothing else.

Alerts follow from the rows alone, so a server that starts again finds the same ones with the same names, and none has
to be stored. For that each rule asks, at a row, only for what was known there and does not change afterwards:

- rules by row (`jumped`, `diverged`, `non_finite`) look at that row and those before it;
- rules by estimate (`became_chaotic`, `left_regular`, `stalled`, `decorrelated`) are asked at checkpoints, numbers of
  rows that do not depend on how the rows arrived.

Coordinates of the live embedding are no such thing: they are turned and flipped whenever its basis changes. What the
rules read instead never changes: the l1 divergence in the full space, the metrics, and how far the reference moved
since the row before, in the full space. Its scalar moves at most that far, whatever the basis.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.rules import Alert, checkpoints, make_alert
from streamscalar.analysis.series import RunSeries
from streamscalar.config.models import AlertsSection
from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.exponents.divergence import ftle, nmle
from streamscalar.numerics.exponents.regime import RunEvidence, classify
from streamscalar.numerics.series.changes import following, level_changes, trend
from streamscalar.types import REFERENCE, Estimate, Regime, json_float

Floats = NDArray[np.float64]

JUMP_ROWS = (40, 5)
"""Rows before a jump that say what was to be expected, and rows after it that have to leave that."""

FROZEN_SHARE = 1e-9
"""A reference whose moves are at most this share of its largest one no longer moves."""

FOLLOWS_ABOVE = 0.5
"""Correlation that tells following from not following; its interval has to lie on one side."""

LEAST_WINDOW = 62
"""Rows that a rule by estimate looks back on, at least: two for each of the blocks of a correlation."""

LEAST_GROUP = 4
"""Runs of a group from which the median of the others says what is usual."""


class RunWatch:
    """The rules that need one run, asked while it grows.

    Memory is a few numbers. A call costs as much as the new rows need, a microsecond each, plus the checkpoints among
    them: each reads all rows up to it, but they lie so far apart that this adds up to a constant per row.

    Parameters
    ----------
    rules, options
        What to look for; how estimates are made.
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
        """Return what is new since the last call, by row.

        Parameters
        ----------
        series
            The run up to now; rows seen before are not looked at again, but have to be there.

        Raises
        ------
        BadCall
            The series is that of another run.
        """
        if self._run_id not in (None, series.run_id):
            raise BadCall("series", f"must be of the watched run {self._run_id}", series.run_id, kind=Kind.DATA)
        self._run_id = series.run_id
        n_rows = len(series.steps)
        if n_rows <= self._n_rows and not series.is_complete:
            return []
        # The losses of a run that diverges overflow in any mean; the rules tell it as an alert.
        with np.errstate(all="ignore"):
            found = [*self._non_finite(series), *self._diverged(series), *self._jumped(series)]
            self._n_rows = max(self._n_rows, n_rows)
            for n in checkpoints(self._n_checked, n_rows, series.is_complete, self._rules):
                self._n_checked = n
                seen = _first_rows(series, n)
                found += [*self._regime(seen), *self._stalled(seen)]
        return sorted(found, key=lambda alert: (alert.row or 0, alert.rule))

    def _alert(self, series: RunSeries, rule: str, row: int, message: str, **evidence: Any) -> Iterator[Alert]:
        """Yield the alert unless its rule is off or spoke lately."""
        last = self._last_row.get(rule)
        if getattr(self._rules, rule) == "none" or (last is not None and row - last < self._rules.cool_down_rows):
            return
        self._last_row[rule] = row
        yield make_alert(self._rules, series, rule, row, message, evidence)

    def _non_finite(self, series: RunSeries) -> Iterator[Alert]:
        new = slice(self._n_rows, None)
        parts = {
            "separations": series.divergence["l1"][new, series.members],
            "moves": _moves(series, self._n_rows)[:, None],
        }
        if "loss" in series.metrics:
            parts = {"loss": series.metrics["loss"][new, series.members]} | parts
        finite = {name: np.asarray(np.isfinite(values).all(axis=1)) for name, values in parts.items()}
        for at, is_finite in enumerate(np.logical_and.reduce(list(finite.values()))):
            if self._was_finite and not is_finite:
                what = [name for name, known in finite.items() if not known[at]]
                row = self._n_rows + at
                message = f"NaN or infinity in {' and '.join(what)} at step {series.steps[row]}."
                yield from self._alert(series, "non_finite", row, message, found_in=what)
            self._was_finite = bool(is_finite)

    def _diverged(self, series: RunSeries) -> Iterator[Alert]:
        loss = series.metrics.get("loss")
        if loss is None or len(loss) == 0:
            return
        start = float(loss[0, series.members].mean())
        for at, value in enumerate(loss[self._n_rows :, series.members].mean(axis=1)):
            self._n_above = self._n_above + 1 if value > start else 0
            if self._n_above == self._rules.diverged_rows:
                row = self._n_rows + at
                message = (
                    f"The loss has been above its start, {start:.3g}, for {self._n_above} rows: {value:.3g} "
                    f"at step {series.steps[row]}."
                )
                numbers = {"start": json_float(start), "loss": json_float(float(value)), "n_rows": self._n_above}
                yield from self._alert(series, "diverged", row, message, **numbers)

    def _jumped(self, series: RunSeries) -> Iterator[Alert]:
        width = sum(JUMP_ROWS)
        first = max(0, self._n_rows - width + 1)
        # Row 0 has no move, and one of 0 has no logarithm: stretches that hold either are not tested.
        log_move = _log(_moves(series, first))
        screened = level_changes(log_move, *JUMP_ROWS, self._rules.jump_run_length)
        least = math.log(self._rules.jump_factor)
        # Sums over many rows at once may differ in the last bit from those over few: the verdict is that of one row.
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
        way = "longer" if shift > 0.0 else "shorter"
        message = (
            f"From step {step} on moves are at least {np.exp(abs(shift)):.3g} times {way} than the {n_before} rows "
            "before suggest."
        )
        yield from self._alert(
            series,
            "jumped",
            row,
            message,
            change_row=change,
            change_step=step,
            statistic=json_float(statistic),
            threshold=json_float(threshold),
            factor=json_float(float(np.exp(shift))),
            rms_move_before=math.exp(float(stretch[:n_before].mean())),
            rms_move_after=math.exp(float(stretch[n_before:].mean())),
        )

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
            # Less of it is no end of it; only regular training is.
            return
        settled, self._settled = self._settled, regime
        row = len(seen.steps) - 1
        step = int(seen.steps[row])
        details = {
            "regime": str(regime),
            "regime_before": None if settled is None else str(settled),
            "reason": reason,
            "ftle": exponents[0].to_json(),
            "nmle": exponents[1].to_json(),
        }
        told = False
        if regime is Regime.CHAOTIC:
            message = f"Training is chaotic by step {step}: {reason}"
            for alert in self._alert(seen, "became_chaotic", row, message, **details):
                told = True
                yield alert
        if settled is Regime.REGULAR and not told:
            message = f"Training was regular and is {regime} by step {step}: {reason}"
            yield from self._alert(seen, "left_regular", row, message, **details)

    def _stalled(self, seen: RunSeries) -> Iterator[Alert]:
        is_end = seen.n_planned is not None and len(seen.steps) >= seen.n_planned
        why = None if is_end or seen.has_diverged else self._why_stalled(seen)
        self._n_stalled = 0 if why is None else self._n_stalled + 1
        if why is None or self._n_stalled != self._rules.n_confirm:
            return
        row = len(seen.steps) - 1
        message, evidence = why
        yield from self._alert(seen, "stalled", row, f"{message} (step {seen.steps[row]}).", **evidence)

    def _why_stalled(self, seen: RunSeries) -> tuple[str, dict[str, Any]] | None:
        accuracy, target = seen.reference("accuracy"), self._options.accuracy_target
        if accuracy is not None and target is not None and accuracy[-1] >= target:
            return None
        n_window = _window(len(seen.steps))
        moves = _moves(seen)[1:]
        newest, largest = float(moves[-n_window:].max()), float(moves.max())
        loss = seen.reference("loss")
        if newest <= FROZEN_SHARE * largest and (loss is None or loss[-1] != 0.0):
            numbers = {"rms_move": json_float(newest), "largest_rms_move": json_float(largest), "n_rows": n_window}
            return f"Moves fell to nothing: at most {newest:.3g} in {n_window} rows", numbers
        if loss is None or not (loss[-n_window:] > 0.0).all():
            return None
        fall = trend(-np.log(loss[-n_window:]), self._options.confidence)
        if fall.high is None or fall.high >= -math.log1p(-self._rules.stalled_below):
            return None
        share = max(0.0, -math.expm1(-fall.high))
        message = f"The loss falls by at most {share:.2%} in {n_window} rows, before the planned end"
        return message, {"fall_of_log_loss": fall.to_json(), "n_rows": n_window, "n_planned": seen.n_planned}


def watch_group(
    runs: Sequence[RunSeries], rules: AlertsSection | None = None, options: Options | None = None
) -> list[Alert]:
    """Return the runs of a group whose loss stopped following the median of the others, at equal rows.

    A run did follow at a checkpoint where the lower end of the correlation of its changes with those of the median lay
    over `FOLLOWS_ABOVE`, and does not at a later one where the upper end lies under it and the two losses are
    `apart_factor` apart. Without a loss the sizes of the moves are compared.

    Parameters
    ----------
    runs
        Runs that should be alike: one setting, several initial conditions. Only the rows that all of them have are
        used, so that alerts never change; leave out runs that ended early. Fewer than `LEAST_GROUP` give no alert.
    rules, options
        As for `RunWatch`.

    Returns
    -------
    list of Alert
        All of them, by row; call it again for a longer group. Cost: a few numbers per row, run and checkpoint.
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
            # A run that broke must not silence the others.
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
    """Return an alert where an unfinished run has had no new row for `silent_after_s`.

    Its id stays the same until a row comes, so that whoever asks again knows that it was told.

    Parameters
    ----------
    series
        The run up to now.
    updated_at, now
        When its newest row was written, and now, in seconds of the same clock.
    """
    rules = rules or AlertsSection()
    quiet_s = now - updated_at
    if rules.silent == "none" or series.is_complete or quiet_s < rules.silent_after_s:
        return None
    row = len(series.steps) - 1
    planned = "" if series.n_planned is None else f" of {series.n_planned}"
    message = f"No row for {quiet_s:.0f} s, after {row + 1}{planned}."
    evidence = {"silent_s": quiet_s, "silent_after_s": rules.silent_after_s, "updated_at": updated_at}
    return make_alert(rules, series, "silent", row, message, evidence)


def _decorrelated(
    run: RunSeries, n: int, correlation: Estimate, own: Floats, median: Floats, n_runs: int, rules: AlertsSection
) -> Alert:
    curve = "loss" if "loss" in run.metrics else "moves"
    message = f"The {curve} no longer follows the median of the {n_runs - 1} other runs of the group"
    evidence = {
        "correlation": correlation.to_json(),
        "factor_to_median": json_float(float(np.exp(min(700.0, own[-1] - median[-1])))),
        "n_rows": len(own),
        "n_runs": n_runs,
    }
    return make_alert(rules, run, "decorrelated", n - 1, f"{message} (step {run.steps[n - 1]}).", evidence)


def _left(correlation: Estimate, own: Floats, median: Floats, rules: AlertsSection) -> bool:
    is_apart = abs(float(own[-1] - median[-1])) > math.log(rules.apart_factor)
    return is_apart and correlation.high is not None and correlation.high < FOLLOWS_ABOVE


def _log_curve(run: RunSeries) -> Floats:
    """Return the logarithm of the reference's loss, or of its moves where there is none; NaN where undefined."""
    loss = run.reference("loss")
    values = _moves(run) if loss is None else loss
    return _log(values)


def _moves(series: RunSeries, first: int = 0) -> Floats:
    """Return how far the reference moved since the row before, RMS over parameters, `(N - first,)`; 0 at row 0."""
    return np.asarray(np.sqrt(series.increments[first:, REFERENCE, REFERENCE]))


def _log(values: Floats) -> Floats:
    is_positive = (values > 0.0) & np.isfinite(values)
    return np.log(values, out=np.full(len(values), np.nan), where=is_positive)


def _window(n_rows: int) -> int:
    """Return how many rows are looked back on: a quarter, in which a power law falls as much late as early."""
    return min(n_rows, max(LEAST_WINDOW, n_rows // 4))


def _first_rows(series: RunSeries, n: int) -> RunSeries:
    """Return what the rules by estimate need of the first `n` rows, without a copy."""
    return replace(
        series,
        is_complete=False,
        steps=series.steps[:n],
        divergence={"l1": series.divergence["l1"][:n]},
        metrics={name: series.metrics[name][:n] for name in ("loss", "accuracy") if name in series.metrics},
        increments=series.increments[:n],
    )
