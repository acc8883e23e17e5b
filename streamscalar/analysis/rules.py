"""Which alerts there are, how grave each is, from where on it speaks, and what one says."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from streamscalar.analysis.series import RunSeries
from streamscalar.config.models import AlertsSection
from streamscalar.types import AlertLevel


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that happened to a run.

    Attributes
    ----------
    id
        `<run id>.<rule>.<row>`: the same whenever it is found.
    run_id, rule, level
        Which run, which field of `AlertsSection`, how grave.
    step, row
        Training step and index of the newest row that was needed to see it; `None` where there is none.
    message
        One sentence.
    evidence
        What justifies it, as JSON holds it.
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
    """Yield the numbers of rows after `n_checked`, itself one of them or 0, at which estimates are asked for.

    They follow from `rules` alone, but for the last one: the end of a complete run.

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
    rules: AlertsSection, series: RunSeries, rule: str, row: int, message: str, evidence: dict[str, Any]
) -> Alert:
    """Return the alert of a rule that is on, at a row of a run; -1 where there is no row."""
    step = int(series.steps[row]) if row >= 0 else None
    level: AlertLevel = getattr(rules, rule)
    name = f"{series.run_id}.{rule}.{row}"
    return Alert(name, series.run_id, rule, level, step, row if row >= 0 else None, message, evidence)
