"""Estimates over all initial conditions of one setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.quantities import advised, keys
from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.spacing_analysis import Spacings, analyze_spacings
from streamscalar.numerics.exponents.regime import REGULAR_BELOW, RunEvidence, classify
from streamscalar.numerics.intervals import binomial, over_initial_conditions, steps_over_initial_conditions
from streamscalar.numerics.times.correlation import correlate_times
from streamscalar.types import Estimate, Regime, Status, json_float

Combine = Callable[..., Estimate]

STEPS_TO = frozenset({"steps_to_accuracy"})
"""Estimates whose mean over only the runs that have a value would be too small."""


@dataclass(frozen=True, slots=True)
class SettingEstimates:
    """Estimates over all initial conditions of one setting.

    Attributes
    ----------
    learning_rate, epsilon, variant
        The setting; the last one says in words what else differs between settings of tracked runs.
    regime, regime_reason
        Regime and the sentence that justifies it.
    n_runs
        Initial conditions, also those that failed.
    estimates
        The estimates of level `setting` in `quantities.py`, by key and in that order.
    spacings
        Asymptotic states.
    """

    learning_rate: float
    epsilon: float
    variant: str
    regime: Regime
    regime_reason: str
    n_runs: int
    estimates: Mapping[str, Estimate]
    spacings: Spacings

    @property
    def key(self) -> tuple[float, float, str]:
        """Learning rate, epsilon and variant."""
        return self.learning_rate, self.epsilon, self.variant

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "learning_rate": json_float(self.learning_rate),
            "epsilon": json_float(self.epsilon),
            **({"variant": self.variant} if self.variant else {}),
            "regime": str(self.regime),
            "regime_reason": self.regime_reason,
            "n_runs": self.n_runs,
            **{name: estimate.to_json() for name, estimate in self.estimates.items()},
            "spacings": self.spacings.to_json(),
        }


def analyze_setting(runs: Sequence[RunEstimates], options: Options) -> SettingEstimates:
    """Combine the runs of one setting, one per initial condition."""
    learning_rate, epsilon, variant = runs[0].key
    key = f"{learning_rate!r} {epsilon!r} {variant}".rstrip()
    found: dict[str, Estimate] = {"positive_fraction": _positive_fraction(runs, options)}
    for name in keys("run"):
        combine: Combine = steps_over_initial_conditions if name in STEPS_TO else over_initial_conditions
        single = [run.estimates[name] for run in runs]
        found[name] = combine(
            single, options.interval, options.confidence, options.n_bootstrap, options.rng(f"{name} {key}")
        )
    for suffix in ("", "_published"):
        first, second = (
            [run.estimates[f"{kind}_time{suffix}"] for run in runs] for kind in ("characteristic", "decorrelation")
        )
        rng = options.rng(f"times_correlation{suffix} {key}")
        found[f"times_correlation{suffix}"] = correlate_times(first, second, options.confidence, rng)
    spacings = analyze_spacings(runs, options, key)
    found |= {"spacing_collapse": spacings.collapse, "spacing_difference": spacings.difference}
    found = {name: advised(name, found[name], is_tracked=options.is_tracked) for name in keys("setting")}
    evidence = [RunEvidence(run.estimates["ftle"], run.estimates["nmle"], run.has_diverged) for run in runs]
    regime, reason = classify(evidence, found["ftle"], found["nmle"], options.regular_below)
    return SettingEstimates(learning_rate, epsilon, variant, regime, reason, len(runs), found, spacings)


def is_positive(exponent: Estimate, regular_below: float = REGULAR_BELOW) -> bool | None:
    """Return whether a run's exponent counts as positive.

    It does if its lower bound over the replicas is above `regular_below`; with fewer than three replicas, which
    give no bound, if the value itself is. So the slow growth of regular training does not count, and neither does a
    contraction. `None` without an exponent.
    """
    if exponent.status is Status.CONTRACTED:
        return False
    if exponent.value is None:
        return None
    return (exponent.value if exponent.low is None else exponent.low) > regular_below


def _positive_fraction(runs: Sequence[RunEstimates], options: Options) -> Estimate:
    """Return the share of initial conditions with a positive exponent, with a Clopper-Pearson interval."""
    method = f"share with ftle > {options.regular_below:g}, Clopper-Pearson"
    judged = [is_positive(run.estimates["ftle"], options.regular_below) for run in runs]
    known = [verdict for verdict in judged if verdict is not None]
    if not known:
        first = runs[0].estimates["ftle"]
        return Estimate.failed(first.status, method=method, what="No run has an exponent.")
    low, high = binomial(sum(known), len(known), options.confidence)
    message = f"{sum(known)} of {len(known)} initial conditions."
    if len(known) < len(runs):
        message += f" {len(runs) - len(known)} without an exponent were left out."
    value = sum(known) / len(known)
    return Estimate(value, Status.OK, low, high, options.confidence, len(known), method, message=message)
