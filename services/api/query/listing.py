"""The list of runs: its rows, filters, order and pages."""

import base64
import fnmatch
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from streamscalar.errors import BadCall, Kind
from streamscalar_services.api.estimate_schemas import EstimateDocument, Number, number
from streamscalar_services.api.schemas import RunItem, Sparkline
from streamscalar_services.api.watch.entries import Entry


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and limit that the state of a run depends on besides its files."""

    now: float
    silent_after_s: float


Value = float | str | None
Read = Callable[[Entry, Clock], Value]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


KEYS: dict[str, Read] = {
    "id": lambda entry, _: entry.id,
    "experiment": lambda entry, _: entry.source.name,
    "run": lambda entry, _: entry.run_id,
    "run_id": lambda entry, _: entry.run_id,
    "state": lambda entry, clock: entry.state(clock.now, clock.silent_after_s),
    "group": lambda entry, _: group_of(entry),
    "regime": lambda entry, _: None if entry.glance is None else str(entry.glance.regime),
    "learning_rate": lambda entry, _: _number(entry.setting.learning_rate),
    "epsilon": lambda entry, _: _number(entry.setting.epsilon),
    "initial_condition": lambda entry, _: _number(entry.setting.initial_condition),
    "exponent": lambda entry, _: None if entry.glance is None else entry.glance.exponent.value,
    "explained_variance": lambda entry, _: entry.explained_variance,
    "loss": lambda entry, _: _number(entry.loss),
    "accuracy": lambda entry, _: _number(entry.accuracy),
    "n_rows": lambda entry, _: float(entry.n_rows),
    "n_planned": lambda entry, _: _number(entry.n_planned),
    "step": lambda entry, _: _number(entry.step),
    "n_alerts": lambda entry, _: float(entry.n_alerts),
    "updated_at": lambda entry, _: entry.updated_at,
}
"""Keys by which runs can be filtered and sorted."""

TEXTS = frozenset({"id", "experiment", "run", "run_id", "state", "group", "regime"})

_TERM = re.compile(r"([a-z_]+)(!=|>=|<=|=|>|<)(.+)")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def group_of(entry: Entry) -> str:
    """Return the group of a run: its own, that of its experiment, or the name of the experiment."""
    return str(entry.setting.group or entry.source.config.experiment.group or entry.source.name)


def tags_of(entry: Entry) -> list[str]:
    """Return the tags of a run, and of its experiment."""
    return [str(tag) for tag in (*entry.setting.tags, *entry.source.config.experiment.tags)]


def matcher(text: str) -> Callable[[Entry, Clock], bool]:
    """Return the test for a filter.

    All terms, separated by spaces, must hold: `key=value` and `key!=value`, where texts may contain `*`; `<`, `<=`, `>`
    and `>=` for numbers; `tag=value`. Any other word must be part of the id of the run.

    Raises
    ------
    BadCall
        A key is unknown, or a number is required.
    """
    tests = [_test(term) for term in text.split()]
    return lambda entry, clock: all(test(entry, clock) for test in tests)


def _test(term: str) -> Callable[[Entry, Clock], bool]:
    found = _TERM.fullmatch(term)
    if found is None:
        word = term.lower()
        return lambda entry, _: word in entry.id.lower()
    key, sign, value = found.groups()
    if key == "tag" and sign in ("=", "!="):
        return lambda entry, _: (value in tags_of(entry)) is (sign == "=")
    read = KEYS.get(key)
    if read is None:
        raise BadCall("filter", f"must name one of {', '.join([*KEYS, 'tag'])}", key, kind=Kind.CONFIG)
    if key in TEXTS:
        if sign not in ("=", "!="):
            raise BadCall("filter", f"must compare {key} by = or !=", term, kind=Kind.CONFIG)
        return lambda entry, clock: fnmatch.fnmatchcase(str(read(entry, clock) or ""), value) is (sign == "=")
    try:
        bound = float(value)
    except ValueError:
        raise BadCall("filter", f"must compare {key} with a number", value, kind=Kind.CONFIG) from None
    if sign in ("=", "!="):
        return lambda entry, clock: (read(entry, clock) == bound) is (sign == "=")
    order = _ORDERS[sign]
    return lambda entry, clock: (held := read(entry, clock)) is not None and order(held, bound)


def ordered(entries: Iterable[Entry], sort: str, clock: Clock) -> list[Entry]:
    """Return runs in the order of a key, descending for `-key`; runs without a value come last, ties by id.

    Raises
    ------
    BadCall
        The key is unknown.
    """
    key = sort.removeprefix("-")
    read = KEYS.get(key)
    if read is None:
        raise BadCall("sort", f"must be one of {', '.join(KEYS)}, or one of them with a minus", sort, kind=Kind.CONFIG)
    keyed: list[tuple[Any, str, Entry]] = []
    without: list[Entry] = []
    for entry in entries:
        value = read(entry, clock)
        if value is None:
            without.append(entry)
        else:
            keyed.append((value, entry.id, entry))
    keyed.sort(key=lambda item: item[1])
    keyed.sort(key=lambda item: item[0], reverse=sort.startswith("-"))
    return [entry for _, _, entry in keyed] + sorted(without, key=lambda entry: entry.id)


@dataclass(frozen=True, slots=True)
class Slice:
    """The first item of a page, and the cursor of the next page."""

    first: int
    next_cursor: str | None


def page(ids: Sequence[str], cursor: str | None, limit: int) -> Slice:
    """Return the items of a list that a page holds.

    The cursor holds the last item of the previous page and its position: the page starts after that item, at its
    current position, or at the old position if the item no longer exists.

    Raises
    ------
    BadCall
        The text is not a cursor.
    """
    first = 0
    if cursor is not None:
        last, place = _decoded(cursor)
        first = ids.index(last) + 1 if last in ids else min(place, len(ids))
    stop = first + limit
    return Slice(first, _encoded(ids[stop - 1], stop) if stop < len(ids) else None)


def _encoded(last: str, place: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([last, place]).encode()).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[str, int]:
    try:
        last, place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if isinstance(last, str) and isinstance(place, int) and place >= 0:
            return last, place
    except (ValueError, TypeError):
        pass
    raise BadCall("cursor", "must be one from an earlier page", cursor[:80], kind=Kind.CONFIG)


def item(entry: Entry, clock: Clock) -> RunItem:
    """Return the row of a run."""
    glance, setting = entry.glance, entry.setting
    exponent = None if glance is None else EstimateDocument.model_validate(glance.exponent.to_json())
    sparkline = None
    if entry.curve is not None:
        steps, values, of = entry.curve
        thin = [cast(Number, number(value)) for value in values]
        sparkline = Sparkline.model_construct(steps=steps, values=thin, of=of)
    return RunItem.model_construct(
        id=entry.id,
        experiment=entry.source.name,
        run_id=entry.run_id,
        state=entry.state(clock.now, clock.silent_after_s),
        is_tracked=entry.is_tracked,
        group=group_of(entry),
        tags=tags_of(entry),
        learning_rate=setting.learning_rate,
        epsilon=setting.epsilon,
        initial_condition=setting.initial_condition,
        n_rows=entry.n_rows,
        n_planned=entry.n_planned,
        step=entry.step,
        loss=number(entry.loss),
        accuracy=number(entry.accuracy),
        updated_at=entry.updated_at,
        parent=entry.parent,
        reason=entry.reason,
        regime=None if glance is None else glance.regime,
        exponent=exponent,
        explained_variance=entry.explained_variance,
        sparkline=sparkline,
        n_alerts=entry.n_alerts,
    )
