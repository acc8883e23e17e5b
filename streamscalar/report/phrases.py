"""Numbers, settings and lists as words."""

from collections.abc import Sequence

from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.analysis.table import Table
from streamscalar.types import Estimate

LEAST_SPAN = 4
"""Number of neighbouring settings from which a list becomes a span."""


def interval(estimate: Estimate) -> str:
    """Return value and interval of an estimate, or its status in words.

    Examples
    --------
    >>> from streamscalar.types import Status
    >>> interval(Estimate(0.7081, Status.OK, 0.61, 0.8, 0.95, 5))
    '0.708 [0.61, 0.8]'
    """
    if estimate.value is None:
        return estimate.status.words
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def label(setting: SettingEstimates, table: Table) -> str:
    """Return the words that distinguish a setting from the others."""
    rates = {other.learning_rate for other in table.settings}
    epsilons = {other.epsilon for other in table.settings}
    if len(epsilons) == 1:
        return f"lr {setting.learning_rate:g}"
    if len(rates) == 1:
        return f"epsilon {setting.epsilon:g}"
    return f"lr {setting.learning_rate:g} (epsilon {setting.epsilon:g})"


def labels(settings: Sequence[SettingEstimates], table: Table) -> str:
    """Return the words that distinguish some settings from the others, as one list; neighbours become a span."""
    if len(settings) == len(table.settings) > 1:
        return "every setting"
    rates = {other.learning_rate for other in table.settings}
    epsilons = {other.epsilon for other in table.settings}
    if len(rates) > 1 and len(epsilons) > 1:
        return listed(_by_rate(settings, table))
    ordered = [label(setting, table) for setting in table.settings]
    chosen = [label(setting, table) for setting in settings]
    first = ordered.index(chosen[0])
    if len(chosen) >= LEAST_SPAN and ordered[first : first + len(chosen)] == chosen:
        return f"{chosen[0]} to {chosen[-1].split(' ')[-1]}"
    return listed(chosen)


def _by_rate(settings: Sequence[SettingEstimates], table: Table) -> list[str]:
    """Return one name per learning rate, with its epsilons where only some of them are meant."""
    found = []
    for rate in sorted({setting.learning_rate for setting in settings}):
        own = [setting.epsilon for setting in settings if setting.learning_rate == rate]
        n_all = sum(setting.learning_rate == rate for setting in table.settings)
        some = "" if len(own) == n_all else f" (epsilon {', '.join(f'{epsilon:g}' for epsilon in own)})"
        found.append(f"lr {rate:g}{some}")
    return found


def listed(names: Sequence[str]) -> str:
    """Return names as one list; a first word that all share is written once.

    Examples
    --------
    >>> listed(["lr 1", "lr 2.5", "lr 5"])
    'lr 1, 2.5 and 5'
    """
    first = names[0].split(" ")[0] + " "
    if first in ("lr ", "epsilon ") and all(name.startswith(first) for name in names):
        names = [names[0], *(name.removeprefix(first) for name in names[1:])]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def span(values: Sequence[float]) -> str:
    """Return least and greatest share in percent.

    Examples
    --------
    >>> span([0.5, 0.93, 0.16])
    '16% to 93%'
    """
    low, high = min(values), max(values)
    return f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "run"), counted(3, "run")
    ('1 run', '3 runs')
    """
    return f"{n} {noun}" + ("" if n == 1 else "s")


def are(n: int) -> str:
    """Return the verb for a number of things."""
    return "is" if n == 1 else "are"


def lower(sentence: str) -> str:
    """Return a sentence for use after a colon; abbreviations keep their capitals."""
    return sentence if sentence[:2].isupper() else sentence[:1].lower() + sentence[1:]
