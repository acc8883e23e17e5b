"""The alerts of all runs: applies the rules, keeps the newest alerts, and sends fresh ones to the sinks.

Alerts depend on the stored rows, so a service that restarts finds the earlier ones again; only alerts of rows written
while it runs are sent to sinks and clients.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

from streamscalar.analysis.alerts import RunWatch, silent, watch_group
from streamscalar.analysis.rank_alerts import ranks_drifted
from streamscalar.analysis.rules import Alert
from streamscalar.analysis.series import RunSeries
from streamscalar.store import RankWatch
from streamscalar.store.change_stamps import segment_written_at
from streamscalar.store.schema import RunFiles
from streamscalar.types import ALERT_LEVELS, AlertLevel
from streamscalar_services.api.query.listing import group_of, page
from streamscalar_services.api.schemas import AlertDocument, AlertPage
from streamscalar_services.api.sinks import AlertSinks
from streamscalar_services.api.watch.entries import Entry

_log = logging.getLogger(__name__)

KEPT = 10_000
"""Number of newest alerts that are kept; `of` counts these."""
MOST_IN_GROUP = 64
"""Maximum number of runs of a group that are compared with each other."""
ENDED_EARLY = ("failed", "cancelled")
GROWTH = 1.1
"""A group is compared again when the rows of all of its runs have grown by this factor."""


class Alarms:
    """Alerts of all runs.

    `take` must be called from the thread of the analyst; everything else may be called from any thread.
    """

    def __init__(self, sinks: AlertSinks) -> None:
        self._sinks = sinks
        self._started_at = time.time()
        self._watches: dict[str, RunWatch] = {}
        self._ranks: dict[str, RankWatch] = {}
        self._groups: dict[tuple[object, ...], int] = {}
        self._silent_since: dict[str, float] = {}
        self._found: dict[str, AlertDocument] = {}
        self._fresh: deque[AlertDocument] = deque(maxlen=KEPT)
        self._guard = Lock()

    def take(self, entry: Entry, series: RunSeries, read: Callable[[Entry], RunSeries]) -> None:
        """Apply the rules to the new rows of a run, and to its group if that has grown; `read` reads the other runs."""
        experiment = entry.source.experiment
        rules = experiment.config.analysis.alerts
        watch = self._watches.get(entry.id)
        if watch is None:
            watch = self._watches[entry.id] = RunWatch(rules, experiment.options)
        self._add(entry, watch.update(series))
        if entry.has_exact:
            del self._watches[entry.id]
        group = self._grown(entry)
        if group:
            members = {other.run_id: other for other in group}
            runs = [series if other is entry else read(other) for other in group]
            for alert in watch_group(runs, rules, experiment.options):
                self._add(members[alert.run_id], [alert])

    def is_watched(self, entry: Entry) -> bool:
        """Return whether the rules are applied to a run while it grows."""
        return entry.id in self._watches

    def check_silent(self, entry: Entry, now: float, read: Callable[[Entry], RunSeries], change_id: str) -> None:
        """Raise an alert if an unfinished run has had no row for too long; the run is read once per silence."""
        rules = entry.source.experiment.config.analysis.alerts
        is_known = self._silent_since.get(entry.id) == entry.updated_at
        if is_known or not entry.n_rows or now - entry.updated_at < rules.silent_after_s:
            return
        self._silent_since[entry.id] = entry.updated_at
        series = read(entry)
        # Including rows that are not embedded yet.
        steps = entry.source.store.reader(entry.run_id, hash_weights=False).steps()
        alert = silent(replace(series, steps=steps), entry.updated_at, now, rules)
        if alert is not None:
            self._add(entry, [alert], at=now, change_id=change_id)

    def check_ranks(self, entry: Entry, change_id: str) -> None:
        """Raise an alert if ranks of the distributed training that records a run differ from each other."""
        ranks = RunFiles(entry.path).ranks
        if not entry.is_tracked or ranks is None or (entry.parent is None and not ranks.is_dir()):
            return
        watch = self._ranks.pop(entry.id, None) or RankWatch(RunFiles(entry.path))
        is_over = entry.is_complete or entry.phase in ENDED_EARLY
        try:
            watch.update(is_over=is_over)
        except (OSError, ValueError) as error:
            _log.warning("ranks of run %s cannot be compared: %s [change %s]", entry.id, error, change_id)
            return
        rules = entry.source.experiment.config.analysis.alerts
        for drifts in watch.drifts():
            alerts = list(ranks_drifted(entry.run_id, drifts, rules))
            self._add(entry, alerts, at=drifts[0].at if drifts else None, change_id=change_id)
        if not is_over:
            self._ranks[entry.id] = watch

    def take_fresh(self) -> list[AlertDocument]:
        """Return the fresh alerts since the last call."""
        found = []
        while self._fresh:
            found.append(self._fresh.popleft())
        return found

    def page(self, run: str | None, level: AlertLevel, cursor: str | None, limit: int) -> AlertPage:
        """Return alerts of at least `level`, newest first."""
        passed = ALERT_LEVELS[ALERT_LEVELS.index(level) :]
        with self._guard:
            alerts = list(self._found.values())
        chosen = [alert for alert in alerts if alert.level in passed and run in (None, alert.run)]
        chosen.sort(key=lambda alert: (-alert.at, alert.id))
        part = page([alert.id for alert in chosen], cursor, limit)
        shown = chosen[part.first : part.first + limit]
        return AlertPage(items=shown, n=len(shown), of=len(chosen), next_cursor=part.next_cursor)

    def counts(self) -> dict[str, int]:
        """Return the number of alerts kept, by level."""
        with self._guard:
            levels = [alert.level for alert in self._found.values()]
        return {level: levels.count(level) for level in ALERT_LEVELS}

    def _add(
        self, entry: Entry, alerts: Sequence[Alert], at: float | None = None, change_id: str | None = None
    ) -> None:
        for alert in alerts:
            name = f"{entry.source.name}:{alert.id}"
            with self._guard:
                if name in self._found:
                    continue
                document = AlertDocument(
                    id=name,
                    run=entry.id,
                    rule=alert.rule,
                    level=alert.level,
                    step=alert.step,
                    row=alert.row,
                    at=_written_at(entry, alert.row) if at is None else at,
                    message=alert.message,
                    evidence=alert.evidence,
                    change_id=change_id or entry.change_id,
                )
                self._found[name] = document
                entry.n_alerts += 1
                if len(self._found) > KEPT:
                    del self._found[min(self._found.values(), key=lambda kept: kept.at).id]
            if document.at >= self._started_at:
                _log.info("alert %s: %s [change %s]", document.id, document.message, document.change_id)
                self._fresh.append(document)
                self._sinks.send([document])

    def _grown(self, entry: Entry) -> list[Entry]:
        """Return the runs of the same setting and group if all have grown enough to be compared again, else none."""
        key = _group(entry)
        group = [
            other
            for other in list(entry.source.runs.values())
            if _group(other) == key and (other.phase not in ENDED_EARLY or other.n_embedded >= entry.n_embedded)
        ]
        n_rows = min(other.n_embedded for other in group)
        if n_rows < GROWTH * self._groups.get(key, 1) and not (entry.has_exact and n_rows > self._groups.get(key, 1)):
            return []
        self._groups[key] = n_rows
        return group[:MOST_IN_GROUP]


def _group(entry: Entry) -> tuple[object, ...]:
    setting = entry.setting
    return entry.source.name, group_of(entry), setting.learning_rate, setting.epsilon, entry.layout


def _written_at(entry: Entry, row: int | None) -> float:
    """Return when a row was written: the time of its segment, or of the newest row if its segment is not complete."""
    written_at = None if row is None else segment_written_at(entry.path, row // entry.segment_rows)
    return entry.updated_at if written_at is None else written_at
