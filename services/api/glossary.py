"""The glossary of the API: the names that documents use and their meaning, so that clients need no copy of them."""

from streamscalar.analysis.quantities import QUANTITIES, EstimateLevel
from streamscalar.analysis.rules import RULES
from streamscalar.types import ADVICE, ALERT_LEVELS, REGIMES, AlertLevel, Regime, Status
from streamscalar_services.api.estimate_schemas import Document
from streamscalar_services.api.schemas import STATES, State


class QuantityDocument(Document):
    """One estimate."""

    label: str
    """Name in sentences."""
    short: str
    """Name in column heads and legends."""
    unit: str
    """`per step`, `steps`, `share`, `p-value` or `correlation`."""
    source: str
    """What it is computed from."""
    meaning: str
    """One sentence."""
    levels: list[EstimateLevel]
    """Where it is computed."""


class RuleDocument(Document):
    """One rule that raises alerts."""

    meaning: str
    """The condition under which it raises an alert."""
    thresholds: list[str]
    """Keys of `analysis.alerts` that it depends on."""


class Glossary(Document):
    """The names that documents use, each with its meaning, in the order in which tables show them."""

    quantities: dict[str, QuantityDocument]
    """Estimates by key."""
    regimes: dict[Regime, str]
    """What each regime means."""
    states: dict[State, str]
    """What each state of a run means."""
    statuses: dict[Status, str]
    """What each failing status of an estimate means, and what to try."""
    rules: dict[str, RuleDocument]
    """Alert rules by name."""
    levels: list[AlertLevel]
    """Levels of alerts, lowest first."""


def glossary() -> Glossary:
    """Return all names of this version, from the modules that define them."""
    return Glossary(
        quantities={
            key: QuantityDocument(
                label=quantity.label,
                short=quantity.short,
                unit=quantity.unit,
                source=quantity.source,
                meaning=quantity.meaning,
                levels=list(quantity.levels),
            )
            for key, quantity in QUANTITIES.items()
        },
        regimes=dict(REGIMES),
        states=dict(STATES),
        statuses={status: text for status, text in ADVICE.items() if status is not Status.OK},
        rules={
            name: RuleDocument(meaning=rule.meaning, thresholds=list(rule.thresholds)) for name, rule in RULES.items()
        },
        levels=list(ALERT_LEVELS),
    )
