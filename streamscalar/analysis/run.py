"""Estimates of one run, from the rows stored so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.quantities import NO_TANGENT, advised, for_tracked, keys
from streamscalar.analysis.series import RunSeries
from streamscalar.missing import is_missing
from streamscalar.numerics.asymptotic.states import AsymptoticStates, asymptotic_states
from streamscalar.numerics.embedding.walk import walk_explained_variance
from streamscalar.numerics.exponents.all_pairs import nmle_all_pairs
from streamscalar.numerics.exponents.best_r2 import nmle_best_r2
from streamscalar.numerics.exponents.curves import Average
from streamscalar.numerics.exponents.divergence import ftle, nmle
from streamscalar.numerics.exponents.recurrence import recurrence_exponent
from streamscalar.numerics.exponents.regime import RunEvidence, classify
from streamscalar.numerics.exponents.tangent import tangent_exponents
from streamscalar.numerics.times.accuracy import steps_to_accuracy
from streamscalar.numerics.times.characteristic import characteristic_time, characteristic_time_published
from streamscalar.numerics.times.decorrelation import decorrelation_time, decorrelation_time_published
from streamscalar.types import REFERENCE, Estimate, Regime, Status, json_float

Estimator = Callable[[NDArray[np.int64], NDArray[np.float64], Average, float], Estimate]

WALK_SNAPSHOTS = 400
"""Maximum number of snapshots of the random-walk control; rows are thinned evenly to fit."""


@dataclass(frozen=True, slots=True)
class RunEstimates:
    """Estimates of one run.

    Attributes
    ----------
    run_id, learning_rate, epsilon, variant, initial_condition, is_complete, n_planned
        As in its series.
    n_rows
        Rows that were analysed.
    estimates
        The estimates of level `run` in `quantities.py`, by key and in that order.
    states
        Asymptotic state of each replica, the control left out.
    regime, regime_reason
        Regime of the run alone, and the sentence that justifies it.
    has_diverged
        Whether its loss ended above its start or is not finite.
    control_divergence
        Largest l1 distance between control and reference, `None` without a control.
    eigengap
        One minus the ratio of the two leading eigenvalues, `None` without an embedding.
    loss, accuracy
        Latest values of the reference; `None` if not recorded.
    """

    run_id: str
    learning_rate: float
    epsilon: float
    variant: str
    initial_condition: int
    is_complete: bool
    n_rows: int
    n_planned: int | None
    estimates: Mapping[str, Estimate]
    states: AsymptoticStates
    regime: Regime
    regime_reason: str
    has_diverged: bool
    control_divergence: float | None
    eigengap: float | None
    loss: float | None
    accuracy: float | None

    @property
    def key(self) -> tuple[float, float, str]:
        """Setting of the run: learning rate, epsilon and variant."""
        return self.learning_rate, self.epsilon, self.variant

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "run_id": self.run_id,
            "learning_rate": json_float(self.learning_rate),
            "epsilon": json_float(self.epsilon),
            **({"variant": self.variant} if self.variant else {}),
            "initial_condition": self.initial_condition,
            "is_complete": self.is_complete,
            "n_rows": self.n_rows,
            "n_planned": self.n_planned,
            "regime": str(self.regime),
            "regime_reason": self.regime_reason,
            **{name: estimate.to_json() for name, estimate in self.estimates.items()},
            "asymptotic_states": {
                "values": [json_float(float(value)) for value in self.states.values],
                "status": str(self.states.status),
                "message": self.states.message,
                "window": self.states.window,
            },
            "control_divergence": json_float(self.control_divergence),
            "eigengap": json_float(self.eigengap),
            "loss": json_float(self.loss),
            "accuracy": json_float(self.accuracy),
        }


def analyze_run(series: RunSeries, options: Options) -> RunEstimates:
    """Analyse the rows of one run, finished or not.

    Separations in the full space are the l1 ones.
    """
    estimates = {key: _estimate(key, series, options) for key in keys("run")}
    regime, reason = _regime(estimates, series, options)
    scalar = series.scores[:, series.members, 0]
    states = asymptotic_states(series.steps, scalar, options.asymptotic_rows, 1 - options.confidence)
    return RunEstimates(
        run_id=series.run_id,
        learning_rate=series.learning_rate,
        epsilon=series.epsilon,
        variant=series.variant,
        initial_condition=series.initial_condition,
        is_complete=series.is_complete,
        n_rows=len(series.steps),
        n_planned=series.n_planned,
        estimates=estimates,
        states=replace(states, message=for_tracked(states.message)) if options.is_tracked else states,
        regime=regime,
        regime_reason=reason,
        has_diverged=series.has_diverged,
        control_divergence=series.control_divergence,
        eigengap=series.eigengap,
        loss=_latest(series, "loss"),
        accuracy=_latest(series, "accuracy"),
    )


@dataclass(frozen=True, slots=True)
class Glance:
    """The short form for a list of many runs: the exponent, and the regime as in `RunEstimates`."""

    exponent: Estimate
    regime: Regime
    regime_reason: str


def glance(series: RunSeries, options: Options) -> Glance:
    """Return exponent and regime alone, in a few milliseconds."""
    estimates = {key: _estimate(key, series, options) for key in ("ftle", "nmle")}
    return Glance(estimates["ftle"], *_regime(estimates, series, options))


def exponents_and_regime(series: RunSeries, options: Options) -> tuple[dict[str, Estimate], Regime]:
    """Return the exponents from replicas and from the tangent vector, if there is one, by key, and the regime."""
    tangent = ["tangent_exponent"] if "tangent_1" in series.metrics else []
    estimates = {key: _estimate(key, series, options) for key in ("ftle", "nmle", *tangent)}
    return estimates, _regime(estimates, series, options)[0]


def _estimate(key: str, series: RunSeries, options: Options) -> Estimate:
    if series.not_reproduced and key in COMPANIONS:
        found = Estimate.failed(
            Status.NOT_REPRODUCED, method="comparison with the training", what=series.not_reproduced
        )
    else:
        found = ESTIMATORS[key](series, options)
    return advised(key, found, is_tracked=options.is_tracked)


def _regime(estimates: Mapping[str, Estimate], series: RunSeries, options: Options) -> tuple[Regime, str]:
    evidence = RunEvidence(estimates["ftle"], estimates["nmle"], series.has_diverged)
    return classify([evidence], regular_below=options.regular_below)


def _exponent(estimator: Estimator, distance: str) -> Callable[[RunSeries, Options], Estimate]:
    def estimate(series: RunSeries, options: Options) -> Estimate:
        return estimator(series.steps, series.perturbed(distance), options.average, options.confidence)

    return estimate


def _all_pairs(series: RunSeries, options: Options) -> Estimate:
    return nmle_all_pairs(series.steps, series.pairs, 1 + series.n_perturbed, options.confidence)


def _best_r2(series: RunSeries, options: Options) -> Estimate:
    return nmle_best_r2(series.steps, series.perturbed("l1"), options.confidence)


def _tangent(series: RunSeries, options: Options) -> Estimate:
    growth = series.reference("tangent_1")
    if growth is None:
        return Estimate.failed(Status.MISSING, method="tangent vector", what=NO_TANGENT.config)
    return tangent_exponents(series.steps, growth[:, None], confidence=options.confidence)[0]


def _recurrence(series: RunSeries, options: Options) -> Estimate:
    gaps = np.unique(np.diff(series.steps))
    if len(gaps) > 1:
        what = f"Rows are {gaps[0]} to {gaps[-1]} steps apart."
        return Estimate.failed(Status.UNEVEN_STEPS, n=len(series.steps), method="near returns", what=what)
    states = series.scores[:, REFERENCE]
    rng = options.rng(f"recurrence {series.run_id}")
    return recurrence_exponent(series.steps, states, rng, confidence=options.confidence)


def _characteristic(series: RunSeries, options: Options) -> Estimate:
    return characteristic_time(series.steps, series.perturbed("embedded"), options.average, options.confidence)


def _characteristic_published(series: RunSeries, options: Options) -> Estimate:
    return characteristic_time_published(series.steps, series.perturbed("embedded"), options.confidence)


def _decorrelation(estimator: Callable[..., Estimate]) -> Callable[[RunSeries, Options], Estimate]:
    def estimate(series: RunSeries, options: Options) -> Estimate:
        accuracy = series.metrics.get("accuracy")
        if accuracy is None:
            return Estimate.failed(Status.MISSING, method="decorrelation in accuracy", what="No accuracy.")
        rows = series.reported("accuracy")
        members, steps = accuracy[rows][:, series.members], series.steps[rows]
        gaps = np.unique(np.diff(steps))
        if len(gaps) > 1:
            what = f"Accuracies are {gaps[0]} to {gaps[-1]} steps apart."
            return Estimate.failed(Status.UNEVEN_STEPS, n=len(steps), method="decorrelation in accuracy", what=what)
        rng = options.rng(f"{estimator.__name__} {series.run_id}")
        return estimator(steps, members[:, REFERENCE], members[:, 1:], rng, options.n_surrogates, options.confidence)

    return estimate


def _steps_to_accuracy(series: RunSeries, options: Options) -> Estimate:
    accuracy = series.reference("accuracy")
    if accuracy is None or options.accuracy_target is None:
        absent = "No accuracy." if accuracy is None else "No accuracy target."
        return Estimate.failed(Status.MISSING, method="first step with accuracy", what=absent)
    return steps_to_accuracy(series.steps, accuracy, options.accuracy_target)


def _explained_variance(series: RunSeries, options: Options) -> Estimate:
    del options
    method = "exact embedding" if series.embedding_is_exact else "live embedding"
    if series.explained_variance is None:
        return Estimate.failed(Status.MISSING, method=method, what="No embedding yet.")
    return Estimate(series.explained_variance, Status.OK, n=len(series.steps), method=method)


def _explained_variance_walk(series: RunSeries, options: Options) -> Estimate:
    every = max(1, -(-len(series.steps) * (1 + series.n_perturbed) // WALK_SNAPSHOTS))
    rng = options.rng(f"walk {series.run_id}")
    moves = thinned(series.increments, every)
    return walk_explained_variance(moves, series.n_parameters, rng, options.n_surrogates, options.confidence)


def thinned(increments: NDArray[np.float64], every: int) -> NDArray[np.float64]:
    """Return the products of moves over `every` rows, as if the moves of different rows were orthogonal: their sums."""
    if every == 1 or len(increments) < 2:
        return increments
    sums = np.add.reduceat(increments[1:], np.arange(0, len(increments) - 1, every), axis=0)
    return np.concatenate([increments[:1], sums])


def _latest(series: RunSeries, metric: str) -> float | None:
    values = series.reference(metric)
    if values is None:
        return None
    values = values[~is_missing(values)]
    return float(values[-1]) if len(values) else None


COMPANIONS = frozenset(
    {
        *("ftle", "nmle", "nmle_all_pairs", "nmle_best_r2", "nmle_embedded", "nmle_random_direction"),
        *("tangent_exponent", "characteristic_time", "characteristic_time_published"),
        *("decorrelation_time", "decorrelation_time_published"),
    }
)
"""Estimates from perturbed replicas or tangent vectors, which have to repeat the training."""

ESTIMATORS: Mapping[str, Callable[[RunSeries, Options], Estimate]] = {
    "ftle": _exponent(ftle, "l1"),
    "nmle": _exponent(nmle, "l1"),
    "nmle_all_pairs": _all_pairs,
    "nmle_best_r2": _best_r2,
    "nmle_embedded": _exponent(nmle, "embedded"),
    "nmle_random_direction": _exponent(nmle, "random"),
    "tangent_exponent": _tangent,
    "recurrence_exponent": _recurrence,
    "characteristic_time": _characteristic,
    "characteristic_time_published": _characteristic_published,
    "decorrelation_time": _decorrelation(decorrelation_time),
    "decorrelation_time_published": _decorrelation(decorrelation_time_published),
    "steps_to_accuracy": _steps_to_accuracy,
    "explained_variance": _explained_variance,
    "explained_variance_walk": _explained_variance_walk,
}
"""Estimator of each estimate of a run, by its key in `quantities.py`."""
