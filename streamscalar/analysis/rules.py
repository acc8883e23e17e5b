"""The alert rules: name, default level, thresholds and message of each.

Level and thresholds are fields of `AlertsSection` (`analysis.alerts` in a config): the field with the name of the rule
is its level. A new rule is an entry here, its fields there, and the test of its condition in `alerts.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamscalar.analysis.series import RunSeries
from streamscalar.config.models import AlertsSection
from streamscalar.types import AlertLevel


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes
    ----------
    meaning
        The condition under which it raises an alert, as one sentence.
    thresholds
        Fields of `AlertsSection` that the condition depends on.
    message
        Format of its message; `step` is always given.
    """

    meaning: str
    thresholds: tuple[str, ...]
    message: str


CHECKPOINTS = ("check_every_rows", "least_rows", "n_confirm")

RULES: Mapping[str, Rule] = {
    "became_chaotic": Rule(
        "Separations grow exponentially and saturate.",
        CHECKPOINTS,
        "Training is chaotic by step {step}: {reason}",
    ),
    "left_regular": Rule(
        "Training was regular and no longer is.",
        CHECKPOINTS,
        "Training was regular and is {regime} by step {step}: {reason}",
    ),
    "diverged": Rule(
        "The loss stays above its start.",
        ("diverged_rows",),
        "The loss has been above its start, {start:.3g}, for {n_rows} rows: {loss:.3g} at step {step}.",
    ),
    "non_finite": Rule(
        "A loss or a weight is NaN or infinite.",
        (),
        "NaN or infinity in {parts} at step {step}.",
    ),
    "stalled": Rule(
        "The loss or the moves stop changing before the planned end, below the target accuracy.",
        (*CHECKPOINTS, "stalled_below"),
        "{reason} (step {step}).",
    ),
    "jumped": Rule(
        "The size of the moves changes suddenly.",
        ("jump_factor", "jump_run_length"),
        "From step {change_step} on, moves are at least {factor:.3g} times {comparison} than the {n_before} rows "
        "before suggest.",
    ),
    "decorrelated": Rule(
        "The loss stops following that of the other runs of its group.",
        ("check_every_rows", "least_rows", "apart_factor"),
        "The {curve} no longer follows the median of the {n_others} other runs of the group (step {step}).",
    ),
    "ranks_drifted": Rule(
        "The parameters or buffers of a rank of a distributed training are not those of the others.",
        (),
        "{drift}.{others}",
    ),
    "silent": Rule(
        "An unfinished run has no new row for a while.",
        ("silent_after_s",),
        "No row for {silent_s:.0f} s, after {rows}.",
    ),
}
"""All rules by name."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An event in a run that needs attention.

    Attributes
    ----------
    id
        `<run id>.<rule>.<row>`, with the step in place of the row for `ranks_drifted`: the same each time the alert is
        found.
    run_id, rule, level
        Run, name of the rule, and level.
    step, row
        Training step and index of the newest row that the rule needed; `None` if the run has no row, or the rule needs
        none.
    message
        One sentence.
    evidence
        The numbers behind it, as JSON values.
    """

    id: str
    run_id: str
    rule: str
    level: AlertLevel
    step: int | None
    row: int | None
    message: str
    evidence: dict[str, Any] = field(hash=False)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        names = ("id", "run_id", "rule", "level", "step", "row", "message", "evidence")
        return {name: getattr(self, name) for name in names}


def checkpoints(n_checked: int, n_rows: int, is_complete: bool, rules: AlertsSection) -> Iterator[int]:
    """Yield the numbers of rows after `n_checked` (a checkpoint, or 0) at which estimates are computed.

    They depend on `rules` alone, except for the last one: the end of a complete run.

    Examples
    --------
    >>> list(checkpoints(0, 121, True, AlertsSection()))
    [50, 75, 100, 121]
    """
    n = n_checked
    while (n := n + max(rules.check_every_rows, n // 20) if n else rules.least_rows) <= n_rows:
        n_checked = n
        yield n
    if is_complete and n_checked < n_rows and n_rows >= rules.least_rows:
        yield n_rows


def make_alert(
    rules: AlertsSection, series: RunSeries, rule: str, row: int, words: Mapping[str, Any], evidence: dict[str, Any]
) -> Alert:
    """Return the alert of a rule whose level is not `none`.

    Parameters
    ----------
    rules
        Levels.
    series, rule
        Run, and name of the rule.
    row
        Newest row that the rule needed; -1 if the run has no row.
    words
        Values for the message of the rule.
    evidence
        As in `Alert`.
    """
    step = int(series.steps[row]) if row >= 0 else None
    level: AlertLevel = getattr(rules, rule)
    message = RULES[rule].message.format(step=step, **words)
    name = f"{series.run_id}.{rule}.{row}"
    return Alert(name, series.run_id, rule, level, step, row if row >= 0 else None, message, evidence)
