"""Verdicts on the claims of the papers: reproduced, refuted or undecided, with the numbers.

A claim is reproduced where an interval or test supports it, refuted where one contradicts it, and undecided where the
numbers allow both or are missing. The verdict names a control that meets the claim as well.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import stats

from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.analysis.table import Table
from streamscalar.numerics.asymptotic.laws import log_likelihood
from streamscalar.numerics.intervals import LEAST_INITIAL_CONDITIONS, student
from streamscalar.types import Estimate, Regime

PUBLISHED_CORRELATION = 0.69
PUBLISHED_LAW = {"shape": -2.78, "loc": 0.36, "scale": 0.91}
PUBLISHED_IRIS = 0.285
IRIS_STANDARD_ERRORS = 3.0

LEVEL, CLEAR_LEVEL = 0.05, 0.01
"""p-values below which a test rejects, and below which it rejects clearly; between them a claim is undecided."""

CLEAR_AIC = 10.0
"""Difference of AIC from which a law has no support."""


class ClaimVerdict(StrEnum):
    """Verdict on a claim."""

    REPRODUCED = "reproduced"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """One claim of a paper and what was found.

    Attributes
    ----------
    claim, source
        The claim, and the paper that makes it.
    verdict
        Whether it is reproduced.
    found
        The numbers, with their intervals.
    """

    claim: str
    source: str
    verdict: ClaimVerdict
    found: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def judge_claims(tables: Sequence[Table]) -> list[ClaimResult]:
    """Judge every claim by the settings of one or more experiments; each claim uses the setting with most evidence."""
    settings = [setting for table in tables for setting in table.settings]
    runs = [table for table in tables if table.settings]
    return [
        _sensitivity(settings),
        _keeps_exponent(runs),
        _characteristic(settings),
        _correlated_times(settings),
        _fastest_at_onset(runs),
        _collapse(settings),
        _law(settings),
        _structure(settings),
        _iris(tables),
    ]


def _sensitivity(settings: Sequence[SettingEstimates]) -> ClaimResult:
    claim = "Training is sensitive to initial conditions at some learning rates and not at others"
    rates = {regime: [s.learning_rate for s in settings if s.regime is regime] for regime in Regime}
    chaotic, regular = rates[Regime.CHAOTIC], rates[Regime.REGULAR]
    found = f"regular at {_listed(regular)}; chaotic at {_listed(chaotic)}"
    judged = [s for s in settings if s.regime is not Regime.UNDECIDED]
    if chaotic and regular:
        verdict = ClaimVerdict.REPRODUCED
    elif len(judged) == len(settings) > 1 and not chaotic:
        verdict = ClaimVerdict.REFUTED
    else:
        verdict = ClaimVerdict.UNDECIDED
    return ClaimResult(claim, "arXiv 2606.30384, arXiv 2506.08523", verdict, found)


def _keeps_exponent(tables: Sequence[Table]) -> ClaimResult:
    """Judge by the paired differences over initial conditions at the chaotic setting with most of them."""
    claim, source = "The scalar embedding keeps the network's maximum Lyapunov exponent", "arXiv 2606.30384"
    best: tuple[int, str, ClaimVerdict] = (
        0,
        "no chaotic setting with three initial conditions",
        ClaimVerdict.UNDECIDED,
    )
    for table in tables:
        for setting in table.settings:
            own = [r for r in table.runs if r.key == setting.key]
            pairs = {
                name: np.array(
                    [
                        (full.value, other.value)
                        for r in own
                        if (full := r.estimates["nmle"]).is_ok and (other := r.estimates[name]).is_ok
                    ],
                    dtype=np.float64,
                ).reshape(-1, 2)
                for name in ("nmle_embedded", "nmle_random_direction")
            }
            scalar = pairs["nmle_embedded"]
            if setting.regime is not Regime.CHAOTIC or len(scalar) <= max(best[0], LEAST_INITIAL_CONDITIONS - 1):
                continue
            low, high = student(scalar[:, 1] - scalar[:, 0], 0.95)
            verdict = ClaimVerdict.REPRODUCED if low <= 0.0 <= high else ClaimVerdict.REFUTED
            words = (
                f"lr {setting.learning_rate:g}: scalar minus full space {(scalar[:, 1] - scalar[:, 0]).mean():+.3g} "
                f"[{low:.3g}, {high:.3g}] per step over {len(scalar)} initial conditions, "
                f"full {scalar[:, 0].mean():.3g}"
            )
            words += f"; correlation over them {_correlation(scalar)}, of a random direction "
            words += _correlation(pairs["nmle_random_direction"])
            best = (len(scalar), words, verdict)
    return ClaimResult(claim, source, best[2], best[1])


def _characteristic(settings: Sequence[SettingEstimates]) -> ClaimResult:
    claim, source = "Embedded trajectories separate exponentially up to a characteristic time", "arXiv 2606.30384"
    setting = _most(settings, "characteristic_time")
    if setting is None:
        return ClaimResult(
            claim, "arXiv 2606.30384", ClaimVerdict.UNDECIDED, "no setting has a validated characteristic time"
        )
    estimate = setting.estimates["characteristic_time"]
    found = f"lr {setting.learning_rate:g}: {_interval(estimate)} steps in {estimate.n} of {setting.n_runs} runs"
    verdict = ClaimVerdict.REPRODUCED if 2 * estimate.n > setting.n_runs else ClaimVerdict.UNDECIDED
    return ClaimResult(
        claim,
        source,
        verdict,
        f"{found}; the published rule gives {_interval(setting.estimates['characteristic_time_published'])}",
    )


def _correlated_times(settings: Sequence[SettingEstimates]) -> ClaimResult:
    claim = f"Characteristic and decorrelation time agree over initial conditions (r = {PUBLISHED_CORRELATION})"
    found, verdict = "no setting has enough initial conditions with both times", ClaimVerdict.UNDECIDED
    setting = _most(settings, "times_correlation_published")
    if setting is not None:
        estimate = setting.estimates["times_correlation_published"]
        validated = setting.estimates["times_correlation"]
        low, high = float(estimate.low or 0.0), float(estimate.high or 0.0)
        found = f"lr {setting.learning_rate:g}: r = {_interval(estimate)} over {estimate.n} initial conditions"
        found += f"; with validated times {_interval(validated)} over {validated.n}"
        if not low <= PUBLISHED_CORRELATION <= high:
            verdict = ClaimVerdict.REFUTED
        elif low > 0.0:
            verdict = ClaimVerdict.REPRODUCED
    return ClaimResult(claim, "arXiv 2606.30384", verdict, found)


def _fastest_at_onset(tables: Sequence[Table]) -> ClaimResult:
    claim = "Training is fastest where the share of initial conditions with a positive exponent reaches 100 %"
    source = "arXiv 2506.08523"
    for table in sorted(tables, key=lambda table: -len(table.settings)):
        timed = [s for s in table.settings if s.estimates["steps_to_accuracy"].is_ok]
        full = [s.learning_rate for s in table.settings if s.estimates["positive_fraction"].value == 1.0]
        if not timed or not full or len(table.settings) < 3:
            continue
        fastest = min(timed, key=lambda s: float(s.estimates["steps_to_accuracy"].value or 0.0))
        rates = [s.learning_rate for s in table.settings]
        apart = abs(rates.index(fastest.learning_rate) - rates.index(min(full)))
        best = fastest.estimates["steps_to_accuracy"]
        # A rate whose interval reaches that of the fastest may be the fastest as well.
        rivals = [s.learning_rate for s in timed if _overlap(s.estimates["steps_to_accuracy"], best)]
        if apart == 0:
            verdict = ClaimVerdict.REPRODUCED
        else:
            verdict = ClaimVerdict.UNDECIDED if min(full) in rivals or apart == 1 else ClaimVerdict.REFUTED
        found = f"fastest at lr {fastest.learning_rate:g} ({_interval(best)} steps); not distinguishable from it: "
        found += f"{_listed([rate for rate in rivals if rate != fastest.learning_rate])}; "
        return ClaimResult(claim, source, verdict, f"{found}all positive from lr {min(full):g} on")
    return ClaimResult(claim, source, ClaimVerdict.UNDECIDED, "no sweep with both numbers")


def _collapse(settings: Sequence[SettingEstimates]) -> ClaimResult:
    claim, source = "Rescaled spacings of asymptotic states collapse across initial conditions", "arXiv 2606.30384"
    setting = _most_spacings(settings)
    if setting is None:
        return ClaimResult(claim, source, ClaimVerdict.UNDECIDED, "too few asymptotic states")
    estimate = setting.estimates["spacing_collapse"]
    found = f"lr {setting.learning_rate:g}: {_states(setting)}; "
    if estimate.value is None:
        return ClaimResult(claim, source, ClaimVerdict.UNDECIDED, found + estimate.message)
    verdict = ClaimVerdict.REFUTED if estimate.value < LEVEL else ClaimVerdict.REPRODUCED
    found += f"k-sample Anderson-Darling p = {estimate.value:.3g}; not rejected, which is no proof"
    return ClaimResult(claim, source, verdict, found)


def _law(settings: Sequence[SettingEstimates]) -> ClaimResult:
    """Judge the family by its AIC among the candidates, and the published parameters by their likelihood ratio."""
    claim = "The spacings follow a skew lognormal law (a = -2.78, loc = 0.36, scale = 0.91)"
    source = "arXiv 2606.30384"
    setting = _most_spacings(settings)
    if setting is None or not setting.spacings.fits.fits:
        return ClaimResult(claim, source, ClaimVerdict.UNDECIDED, "too few asymptotic states")
    best, skewed = setting.spacings.fits.fits[0], setting.spacings.fits["skew lognormal"]
    parameters = ", ".join(f"{name} {value:.3g}" for name, value in skewed.parameters.items())
    found = f"lr {setting.learning_rate:g}: {parameters}; {_states(setting)}; smallest AIC: {best.name}"
    behind = skewed.aic - best.aic
    if behind > CLEAR_AIC:
        return ClaimResult(claim, source, ClaimVerdict.REFUTED, f"{found}, by {behind:.1f}")
    published = log_likelihood("skew lognormal", setting.spacings.pooled, tuple(PUBLISHED_LAW.values()))
    p_value = float(stats.chi2.sf(2.0 * (skewed.log_likelihood - published), len(PUBLISHED_LAW)))
    found += f"; the published parameters against the fitted ones: p = {p_value:.2g}"
    if p_value < CLEAR_LEVEL:
        return ClaimResult(claim, source, ClaimVerdict.REFUTED, found)
    is_clear = behind == 0.0 and p_value >= LEVEL
    return ClaimResult(claim, source, ClaimVerdict.REPRODUCED if is_clear else ClaimVerdict.UNDECIDED, found)


def _structure(settings: Sequence[SettingEstimates]) -> ClaimResult:
    claim, source = "That law is evidence about the dynamics", "arXiv 2606.30384, implied"
    setting = _most_spacings(settings)
    if setting is None or setting.spacings.null is None:
        return ClaimResult(claim, source, ClaimVerdict.UNDECIDED, "too few asymptotic states")
    null, difference = setting.spacings.null, setting.estimates["spacing_difference"]
    bands = ", ".join(f"{name} [{null.low[name]:.3g}, {null.high[name]:.3g}]" for name in null.median)
    found = f"lr {setting.learning_rate:g}: {_states(setting)}; independent normal draws give {bands}; "
    if difference.value is not None:
        verdict = ClaimVerdict.REPRODUCED if difference.value < CLEAR_LEVEL else ClaimVerdict.UNDECIDED
        return ClaimResult(
            claim, source, verdict, f"{found}the spacings differ from such draws, p = {difference.value:.3g}"
        )
    inside = all(null.low[name] <= PUBLISHED_LAW[name] <= null.high[name] for name in null.median)
    found += "the spacings do not differ from such draws"
    found += ", which give the published parameters too" if inside else ""
    return ClaimResult(claim, source, ClaimVerdict.REFUTED if inside else ClaimVerdict.UNDECIDED, found)


def _iris(tables: Sequence[Table]) -> ClaimResult:
    claim, source = f"Iris, epsilon 1e-8: the best-R^2 recipe gives {PUBLISHED_IRIS} per step", "arXiv 2404.05782"
    for table in tables:
        for setting in table.settings:
            estimate = setting.estimates["nmle_best_r2"]
            if table.experiment.get("task") == "iris" and setting.epsilon == 1e-8 and estimate.is_ok:
                values = [r.estimates["nmle_best_r2"].value for r in table.runs if r.epsilon == setting.epsilon]
                known = np.array([value for value in values if value is not None])
                error = float(known.std(ddof=1)) / len(known) ** 0.5
                off = (float(known.mean()) - PUBLISHED_IRIS) / error
                verdict = ClaimVerdict.REPRODUCED if abs(off) <= IRIS_STANDARD_ERRORS else ClaimVerdict.REFUTED
                found = (
                    f"{known.mean():.4f}, standard deviation {known.std(ddof=1):.3f}, {len(known)} of {len(values)} "
                )
                return ClaimResult(
                    claim, "arXiv 2404.05782", verdict, f"{found}accepted; {off:+.1f} standard errors off"
                )
    return ClaimResult(claim, source, ClaimVerdict.UNDECIDED, "no Iris experiment")


def _most(settings: Sequence[SettingEstimates], name: str) -> SettingEstimates | None:
    """Return the setting with most initial conditions behind an estimate that has an interval."""
    known = [s for s in settings if s.estimates[name].is_ok and s.estimates[name].low is not None]
    return max(known, key=lambda s: s.estimates[name].n, default=None)


def _most_spacings(settings: Sequence[SettingEstimates]) -> SettingEstimates | None:
    """Return the sensitive setting with most spacings per run, then in all.

    Replicas that end in one state have no spacings, and a few spacings of mean 1 hardly have a law.
    """
    known = [s for s in settings if s.spacings.fits.fits and s.regime is Regime.CHAOTIC]
    return max(known, key=lambda s: (len(s.spacings.samples[0]), s.spacings.fits.n), default=None)


def _states(setting: SettingEstimates) -> str:
    spacings = setting.spacings
    return f"{spacings.fits.n} spacings of {len(spacings.samples)} runs, {spacings.n_drifting} of them still drifting"


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return estimate.status.words
    interval = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3g}, {estimate.high:.3g}]"
    return f"{estimate.value:.3g}{interval}"


def _correlation(pairs: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    if len(pairs) < LEAST_INITIAL_CONDITIONS or np.ptp(pairs, axis=0).min() == 0.0:
        return "unknown"
    return f"{np.corrcoef(pairs.T)[0, 1]:.2f}"


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted(set(rates))) or "none"
