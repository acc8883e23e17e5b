"""The alert about ranks of a distributed training that differ from each other."""

from collections.abc import Iterator, Sequence

from streamscalar.analysis.rules import RULES, Alert
from streamscalar.config.models import AlertsSection
from streamscalar.store.rank_comparison import Drift


def ranks_drifted(run_id: str, drifts: Sequence[Drift], rules: AlertsSection | None = None) -> Iterator[Alert]:
    """Yield the alert of a run whose ranks drifted: one for the first step at which any of them did.

    Parameters
    ----------
    run_id
        Name of the run.
    drifts
        First differences of its ranks.
    rules
        Levels.
    """
    rules = rules or AlertsSection()
    if rules.ranks_drifted == "none" or not drifts:
        return
    first = min(drifts, key=lambda drift: (drift.step, drift.rank))
    together = sorted({drift.rank for drift in drifts if drift.step == first.step})
    evidence = {
        "rank": first.rank,
        "reference": first.reference,
        "layer": next(iter(first.tensors)),
        "equal_at": first.equal_at,
        "ranks": together,
        "tensors": list(first.tensors),
        "n_tensors": first.n_tensors,
    }
    n_more = len(together) - 1
    others = f" So {'does 1 more rank' if n_more == 1 else f'do {n_more} more ranks'}." if n_more else ""
    message = RULES["ranks_drifted"].message.format(step=first.step, drift=first, others=others)
    name = f"{run_id}.ranks_drifted.{first.step}"
    yield Alert(name, run_id, "ranks_drifted", rules.ranks_drifted, first.step, None, message, evidence)
