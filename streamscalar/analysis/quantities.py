"""The registry of estimates: name, unit, source and meaning of each, and what to do where one has no value.

A new estimate touches two files: the entry here, and the estimator in `run.py` (`ESTIMATORS`) or
`setting_estimates.py`. Tables, figures, conclusions, the API schema and the dashboard read the registry, in its order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from streamscalar.types import ADVICE, Estimate, Status

EstimateLevel = Literal["run", "setting", "ladder"]
"""`run`: one run; `setting`: all initial conditions of a setting; `ladder`: extrapolated to epsilon = 0."""

BOTH: tuple[EstimateLevel, ...] = ("run", "setting")
ALL: tuple[EstimateLevel, ...] = ("run", "setting", "ladder")
SETTING: tuple[EstimateLevel, ...] = ("setting",)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about a failing status, for the two ways to record a run.

    Attributes
    ----------
    config
        For an experiment that streamscalar trains: names the config key.
    track
        For a training loop of the user: names the argument of `ss.track`.
    """

    config: str
    track: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """One estimate.

    Attributes
    ----------
    key
        Name in tables, documents and `estimates`.
    label
        Name in sentences, without an article.
    short
        Name in column heads and legends.
    unit
        `per step`, `steps`, `share`, `p-value` or `correlation`.
    source
        What it is computed from.
    meaning
        One sentence.
    reference
        Publication of the method, and where it differs.
    levels
        Where it is computed.
    advice
        What to do about a failing status, where that is more than the advice of the status itself.
    """

    key: str
    label: str
    short: str
    unit: str
    source: str
    meaning: str
    reference: str
    levels: tuple[EstimateLevel, ...] = BOTH
    advice: Mapping[Status, Advice] = field(default_factory=dict)


NO_TANGENT = Advice(
    "No tangent vector was carried: set training.n_tangents.",
    "No tangent vector was carried: pass tangent=True to ss.track.",
)
FEW_PAIRS = Advice(
    "raise experiment.n_initial_conditions.",
    "track more runs of the group, each from other initial weights.",
)

_ENTRIES = (
    Quantity(
        "positive_fraction",
        "share of runs with a positive exponent",
        "share positive",
        "share",
        "weights",
        "Share of the initial conditions whose finite-time exponent lies above the bound of regular training.",
        "arXiv 2506.08523",
        SETTING,
    ),
    Quantity(
        "ftle",
        "finite-time exponent of the weights",
        "FTLE, weights",
        "per step",
        "weights",
        "Growth rate of separations from the start to their saturation or the end.",
        "arXiv 2404.05782",
        ALL,
    ),
    Quantity(
        "nmle",
        "exponent of the exponential phase",
        "nMLE, weights",
        "per step",
        "weights",
        "Growth rate of separations while they grow exponentially.",
        "arXiv 2404.05782, arXiv 2506.08523; window bounded by amplitude",
        ALL,
    ),
    Quantity(
        "nmle_all_pairs",
        "exponent over all pairs of replicas",
        "nMLE, all pairs",
        "per step",
        "weights",
        "As nmle, over every pair of replicas instead of the distances from the reference.",
        "as nMLE, over all pairs of replicas",
    ),
    Quantity(
        "nmle_best_r2",
        "exponent in the window of best fit",
        "nMLE, best R²",
        "per step",
        "weights",
        "As nmle, in the window whose line has the largest R², as published.",
        "arXiv 2404.05782, as published",
        ALL,
    ),
    Quantity(
        "tangent_exponent",
        "exponent of the tangent vector",
        "tangent vector",
        "per step",
        "tangent vector",
        "Growth rate of an infinitesimal perturbation.",
        "Benettin et al., Meccanica 15, 9 and 21 (1980)",
        advice={Status.MISSING: NO_TANGENT},
    ),
    Quantity(
        "nmle_embedded",
        "exponent of the scalar",
        "nMLE, scalar",
        "per step",
        "scalar",
        "As nmle, of the separations between scalars.",
        "arXiv 2606.30384; window bounded by amplitude",
        ALL,
    ),
    Quantity(
        "nmle_random_direction",
        "exponent along a random direction",
        "nMLE, random direction",
        "per step",
        "random direction",
        "Control of the exponent of the scalar: as nmle, of the separations along one random direction.",
        "control for arXiv 2606.30384",
    ),
    Quantity(
        "recurrence_exponent",
        "exponent from recurrences",
        "recurrences",
        "per step",
        "coordinates of the reference",
        "Growth rate of the distance between near returns of one trajectory; needs no replica.",
        "arXiv 2301.12966",
    ),
    Quantity(
        "characteristic_time",
        "characteristic time",
        "characteristic time",
        "steps",
        "scalar",
        "Step at which the exponential growth of separations between scalars ends.",
        "arXiv 2606.30384, with a test that growth is exponential",
    ),
    Quantity(
        "characteristic_time_published",
        "characteristic time by the published rule",
        "characteristic time, as published",
        "steps",
        "scalar",
        "As characteristic_time, by the rule of the publication.",
        "arXiv 2606.30384, as published",
    ),
    Quantity(
        "decorrelation_time",
        "decorrelation time",
        "decorrelation time",
        "steps",
        "accuracy",
        "Step at which the accuracies of reference and replicas are no longer correlated.",
        "arXiv 2606.30384, with a tested null",
    ),
    Quantity(
        "decorrelation_time_published",
        "decorrelation time by the published rule",
        "decorrelation time, as published",
        "steps",
        "accuracy",
        "As decorrelation_time, by the rule of the publication.",
        "arXiv 2606.30384, as published",
    ),
    Quantity(
        "times_correlation",
        "correlation of characteristic and decorrelation time",
        "r of both times",
        "correlation",
        "scalar and accuracy",
        "Correlation of the two times over initial conditions.",
        "arXiv 2606.30384",
        SETTING,
        {Status.TOO_FEW_INITIAL_CONDITIONS: FEW_PAIRS},
    ),
    Quantity(
        "times_correlation_published",
        "correlation of both times by the published rules",
        "r of both times, as published",
        "correlation",
        "scalar and accuracy",
        "As times_correlation, of the times by the rules of the publication.",
        "arXiv 2606.30384, as published",
        SETTING,
        {Status.TOO_FEW_INITIAL_CONDITIONS: FEW_PAIRS},
    ),
    Quantity(
        "steps_to_accuracy",
        "number of steps to the target accuracy",
        "steps to target",
        "steps",
        "accuracy",
        "First step at which the test accuracy of the reference reaches the target.",
        "arXiv 2506.08523",
    ),
    Quantity(
        "explained_variance",
        "share of the variance along the scalar",
        "explained variance",
        "share",
        "weights",
        "Share of the variance of the trajectory that the scalar holds.",
        "arXiv 2412.02715, arXiv 2606.30384",
    ),
    Quantity(
        "explained_variance_walk",
        "share of the variance of a random walk",
        "random walk, same moves",
        "share",
        "weights",
        "Control of the explained variance: the share that a random walk with the same moves has.",
        "arXiv 1806.08805",
    ),
    Quantity(
        "spacing_collapse",
        "p-value of one law for all spacings",
        "collapse of spacings, p",
        "p-value",
        "asymptotic states",
        "p-value of the hypothesis that the rescaled spacings of all runs follow one law.",
        "arXiv 2606.30384; Scholz and Stephens, JASA 82, 918 (1987)",
        SETTING,
    ),
    Quantity(
        "spacing_difference",
        "p-value of the spacings against independent draws",
        "spacings against chance, p",
        "p-value",
        "asymptotic states",
        "p-value of the hypothesis that the spacings are those of states drawn independently.",
        "control for arXiv 2606.30384",
        SETTING,
    ),
)

QUANTITIES: Mapping[str, Quantity] = {quantity.key: quantity for quantity in _ENTRIES}
"""All estimates by key, in the order of every table."""

TRACKED: Mapping[Status, str] = {
    Status.TOO_FEW_ROWS: "Record more steps: train longer, or pass a lower every_n_steps to ss.track.",
    Status.TOO_FEW_REPLICAS: "Train perturbed copies of the model: ss.track(..., shadow=True) trains one, shadow=3 "
    "three.",
    Status.TOO_FEW_INITIAL_CONDITIONS: "A confidence interval needs three: track three runs of one group and learning "
    "rate, each from other initial weights.",
    Status.NOT_SATURATED: "Separations still grow at the end; train longer or use ftle.",
    Status.NOT_REACHED: "No run reached the target; train longer.",
    Status.NOT_ENOUGH_RECURRENCES: "The trajectory rarely returns near itself; train a perturbed copy instead "
    "(ss.track(..., shadow=True)), or train longer.",
    Status.DRIFTING: "The series still drifts over its last window; train longer.",
    Status.NOT_DECORRELATED: "Reference and replicas stay correlated to the end; train longer.",
}
"""Advice for a training loop of the user, where that of `ADVICE` names a config key."""


def keys(level: EstimateLevel) -> list[str]:
    """Return the keys of the estimates of a level, in the order of the tables.

    Examples
    --------
    >>> keys("ladder")
    ['ftle', 'nmle', 'nmle_best_r2', 'nmle_embedded']
    """
    return [key for key, quantity in QUANTITIES.items() if level in quantity.levels]


def advice(status: Status, *, is_tracked: bool) -> str:
    """Return what to do about a failing status where the reader is: in a config, or at a call of `ss.track`.

    Examples
    --------
    >>> advice(Status.TOO_FEW_REPLICAS, is_tracked=False)
    'Use more perturbed replicas: raise perturbation.n_perturbed.'
    >>> advice(Status.TOO_FEW_REPLICAS, is_tracked=True)
    'Train perturbed copies of the model: ss.track(..., shadow=True) trains one, shadow=3 three.'
    """
    return TRACKED.get(status, ADVICE[status]) if is_tracked else ADVICE[status]


def advised(key: str, estimate: Estimate, *, is_tracked: bool) -> Estimate:
    """Return an estimate whose message names what the reader can do.

    Estimators write the advice for a config; for a tracked run it is replaced.
    """
    if estimate.is_ok or not is_tracked:
        return estimate
    message = for_tracked(estimate.message)
    own = QUANTITIES[key].advice.get(estimate.status)
    if own is not None:
        message = message.replace(own.config, own.track)
    return replace(estimate, message=message)


def for_tracked(message: str) -> str:
    """Return a message whose advice for a config is replaced by that for a call of `ss.track`.

    Examples
    --------
    >>> for_tracked("At least 10 rows. " + ADVICE[Status.DRIFTING])
    'At least 10 rows. The series still drifts over its last window; train longer.'
    """
    for status, text in TRACKED.items():
        message = message.replace(ADVICE[status], text)
    return message
