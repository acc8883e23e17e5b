"""Conclusions that an experiment allows, and those that it does not, as sentences made from its numbers."""

import math
from collections.abc import Sequence

import numpy as np

from streamscalar.analysis.quantities import QUANTITIES, advice
from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.analysis.table import Table
from streamscalar.numerics.intervals import LEAST_INITIAL_CONDITIONS, student
from streamscalar.report.figures.drawing import one_epsilon
from streamscalar.report.figures.spacing_laws import most_spaced
from streamscalar.report.figures.variance import ILL_DEFINED_BELOW
from streamscalar.report.phrases import are, counted, interval, label, labels, listed, lower, span
from streamscalar.types import Estimate, Regime, Status

CONFIDENCE = 0.95
JUDGED = ("ftle", "nmle", "nmle_embedded", "steps_to_accuracy")
"""Estimates whose absence has a sentence; the table shows the absence of all others."""


def conclusions(table: Table) -> list[str]:
    """Return the conclusions that a table allows and those that it does not, one or more sentences per entry."""
    if not table.runs:
        return ["No run has started, so nothing can be concluded."]
    found = [
        *_progress(table.runs),
        *_without_replicas(table.runs),
        *_regimes(table),
        *_sureness(table),
        *_speed(table),
        *_absent(table),
        *_noise_floor(table.runs),
        *_summary(table),
        *_random_direction(table),
        *_epsilon(table),
        *_spacings(table),
    ]
    return [*found, _scope(table)]


def _progress(runs: Sequence[RunEstimates]) -> list[str]:
    """Return sentences on missing rows and missing exact embeddings."""
    sentences = []
    open_runs = [run for run in runs if not run.is_complete]
    if open_runs:
        n_rows, n_planned = sum(run.n_rows for run in open_runs), sum(run.n_planned or run.n_rows for run in open_runs)
        sentences.append(
            f"{len(open_runs)} of {counted(len(runs), 'run')} {are(len(open_runs))} incomplete ({n_rows:,} of "
            f"{n_planned:,} rows): every number below may still change."
        )
    live = [run for run in runs if run.estimates["explained_variance"].method == "live embedding"]
    if live:
        sentences.append(
            f"{len(live)} of {counted(len(runs), 'run')} {are(len(live))} analysed with the live embedding, not the "
            f"exact one: coordinates and exponents of the scalar are provisional there."
        )
    return sentences


def _without_replicas(runs: Sequence[RunEstimates]) -> list[str]:
    if not all(_is_bare(run.estimates["ftle"]) for run in runs):
        return []
    return [
        "No perturbed replicas were trained, so sensitivity to initial conditions is unknown: only the scalar, its "
        "share of the variance and the training time are known."
    ]


def _is_bare(exponent: Estimate) -> bool:
    """Whether there was no replica to measure an exponent with."""
    return exponent.status is Status.TOO_FEW_REPLICAS


def _regimes(table: Table) -> list[str]:
    judged = [s for s in table.settings if not (s.regime is Regime.UNDECIDED and _is_bare(s.estimates["ftle"]))]
    named = {regime: [setting for setting in judged if setting.regime is regime] for regime in Regime}
    words = {Regime.ONSET: "at the onset", Regime.DIVERGED: "diverging"}
    parts = [
        f"{words.get(regime, str(regime))} at {labels(settings, table)}"
        for regime, settings in named.items()
        if settings
    ]
    sentences = [f"Training is {'; '.join(parts)}."] if parts else []
    full = [setting for setting in table.settings if setting.estimates["positive_fraction"].value == 1.0]
    if full and len(full) < len(table.settings):
        share = full[0].estimates["positive_fraction"]
        low = "" if share.low is None else f"; with {share.n} of them the true share may be as low as {share.low:.0%}"
        sentences.append(
            f"The smallest rate at which every initial condition has a positive exponent is "
            f"{label(full[0], table)}{low}."
        )
    return sentences


def _sureness(table: Table) -> list[str]:
    """Return sentences on the evidence of the regimes, and on why a regime is undecided."""
    sentences = []
    with_replicas = [s for s in table.settings if not _is_bare(s.estimates["ftle"])]
    few = [s for s in with_replicas if s.n_runs < LEAST_INITIAL_CONDITIONS]
    # The loss shows whether a run diverged; that needs no replicas.
    bare = [s for s in few if s.regime is not Regime.DIVERGED]
    if bare:
        sentences.append(
            f"At {labels(bare, table)} there are fewer than {LEAST_INITIAL_CONDITIONS} initial conditions: regimes "
            f"are based on the spread between the replicas of single runs and hold for these initial weights only."
        )
    sure = [s for s in with_replicas if s.estimates["ftle"].low is not None]
    if sure:
        ns = sorted({s.estimates["ftle"].n for s in sure})
        counts = f"{ns[0]}" if len(ns) == 1 else f"{ns[0]} to {ns[-1]}"
        confidence = sure[0].estimates["ftle"].confidence or CONFIDENCE
        sentences.append(
            f"Intervals are over {counts} initial conditions with a stated coverage of {confidence:.0%} each, not of "
            f"all of them together."
        )
    sentences += [
        f"At {label(s, table)} the regime is undecided: {lower(s.regime_reason)}"
        for s in with_replicas
        if s.regime is Regime.UNDECIDED
    ]
    return sentences


def _speed(table: Table) -> list[str]:
    # The reference is timed, which does not depend on epsilon.
    _, settings = one_epsilon(table.settings)
    timed = [s for s in settings if s.estimates["steps_to_accuracy"].is_ok]
    if len(timed) < 2:
        return []
    fastest = min(timed, key=lambda s: s.estimates["steps_to_accuracy"].value or 0.0)
    best = fastest.estimates["steps_to_accuracy"]
    rivals = [s for s in timed if s is not fastest and _overlap(s.estimates["steps_to_accuracy"], best)]
    end = f"; not distinguishable from it: {listed([f'lr {s.learning_rate:g}' for s in rivals])}" if rivals else ""
    return [
        f"The target accuracy is reached fastest at lr {fastest.learning_rate:g} ({interval(best)} steps, "
        f"{fastest.regime}){end}."
    ]


def _absent(table: Table) -> list[str]:
    """Return sentences on main estimates without a value; estimates with the same reason share a sentence."""
    is_tracked = table.experiment.get("task") == "tracked"
    quantities: dict[tuple[Status, str], list[str]] = {}
    for name in JUDGED:
        by_status: dict[Status, list[SettingEstimates]] = {}
        for setting in table.settings:
            status = setting.estimates[name].status
            if status is not Status.OK and not _is_covered(setting, name, status):
                by_status.setdefault(status, []).append(setting)
        for status, settings in by_status.items():
            quantities.setdefault((status, labels(settings, table)), []).append(f"the {QUANTITIES[name].label}")
    sentences = []
    for (status, where), words_of in quantities.items():
        has = "has" if len(words_of) == 1 else "have"
        subject = listed(words_of)
        sentences.append(
            f"{subject[0].upper()}{subject[1:]} {has} no value at {where}. {advice(status, is_tracked=is_tracked)}"
        )
    return sentences


def _is_covered(setting: SettingEstimates, name: str, status: Status) -> bool:
    """Whether another sentence gives the reason already."""
    if status is Status.TOO_FEW_INITIAL_CONDITIONS:
        return setting.n_runs < LEAST_INITIAL_CONDITIONS
    return status is Status.TOO_FEW_REPLICAS or (status is Status.MISSING and name == "steps_to_accuracy")


def _noise_floor(runs: Sequence[RunEstimates]) -> list[str]:
    floors = [run.control_divergence for run in runs if run.control_divergence is not None]
    if not floors:
        if _is_bare(runs[0].estimates["ftle"]):
            return []
        return ["No unperturbed copy was trained, so it is unknown how much of a separation is rounding."]
    lost = sum(not math.isfinite(floor) for floor in floors)
    above = [floor for floor in floors if math.isfinite(floor) and floor > 0.0]
    sentences = []
    if above:
        sentences.append(
            f"Unperturbed copies left their reference in {len(above)} of {counted(len(floors), 'run')}, by an L1 "
            f"distance of up to {max(above):.2g}: separations below that are noise."
        )
    elif lost < len(floors):
        sentences.append(
            f"Unperturbed copies stayed at their reference bit for bit in {counted(len(floors) - lost, 'run')}: what "
            f"separates there comes from the perturbation, not from rounding."
        )
    if lost:
        sentences.append(f"In {counted(lost, 'run')} the weights did not stay finite, so there is no noise floor.")
    return sentences


def _summary(table: Table) -> list[str]:
    """Return sentences on how well one coordinate summarises the trajectory."""
    above, below, unknown = [], [], []
    values = []
    for setting in table.settings:
        own, walk = (_range(setting, name, table.runs) for name in ("explained_variance", "explained_variance_walk"))
        if own is None:
            continue
        values.append(own[1])
        if walk is None:
            unknown.append(setting)
        elif own[0] > walk[2]:
            above.append(setting)
        else:
            below.append(setting)
    if not values:
        return []
    sentences = [f"The scalar holds {span(values)} of the variance of a trajectory; it does not show the rest."]
    if above:
        sentences.append(f"That is more than a random walk with the same moves would give at {labels(above, table)}.")
    if below:
        sentences.append(
            f"At {labels(below, table)} it is not significantly more than a random walk with the same moves gives: "
            f"the shape of the scalar there is no evidence of structure."
        )
    if unknown:
        sentences.append(f"At {labels(unknown, table)} there is no random walk to compare it with.")
    ill = [s for s in table.settings if (gap := _eigengap(s, table.runs)) is not None and gap < ILL_DEFINED_BELOW]
    if ill:
        sentences.append(
            f"At {labels(ill, table)} the two leading directions hold nearly the same variance (eigengap under "
            f"{ILL_DEFINED_BELOW:g}): which of them the scalar follows is chance."
        )
    return sentences


def _random_direction(table: Table) -> list[str]:
    """Return sentences on whether the scalar or a random direction is nearer to the exponent of the weights."""
    compared = 0
    nearer: list[SettingEstimates] = []
    farther: list[SettingEstimates] = []
    alike: list[SettingEstimates] = []
    for setting in table.settings:
        misses = _misses(_of(setting, table.runs))
        if len(misses) < LEAST_INITIAL_CONDITIONS:
            continue
        compared += 1
        low, high = student(misses[:, 1] - misses[:, 0], CONFIDENCE)
        chosen = nearer if low > 0.0 else farther if high < 0.0 else alike
        chosen.append(setting)
    if not compared:
        if any(run.estimates["nmle_embedded"].is_ok for run in table.runs):
            return [
                "Too few initial conditions have exponents of the weights, of the scalar and of a random direction: "
                "whether the scalar keeps the exponent better than chance is unknown."
            ]
        return []
    sentences = []
    if nearer:
        sentences.append(
            f"The exponent of the scalar is nearer to that of the weights than a random direction's at "
            f"{labels(nearer, table)}."
        )
    if farther:
        sentences.append(
            f"At {labels(farther, table)} a random direction keeps the exponent of the weights better than the scalar."
        )
    if alike:
        sentences.append(
            f"At {labels(alike, table)} a random direction keeps the exponent of the weights as well as the scalar, "
            f"within the intervals: agreement there is no evidence for the embedding."
        )
    return sentences


def _misses(runs: Sequence[RunEstimates]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the distances of scalar and random direction from the exponent of the weights, `(n, 2)`."""
    rows = []
    for run in runs:
        full, scalar, random = (
            run.estimates[name].value for name in ("nmle", "nmle_embedded", "nmle_random_direction")
        )
        if full is not None and scalar is not None and random is not None:
            rows.append((abs(scalar - full), abs(random - full)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _epsilon(table: Table) -> list[str]:
    sentences = []
    for rate, ladder in table.ladders.items():
        known = {name: estimate for name, estimate in ladder.items() if estimate.is_ok}
        for name in ("nmle", "ftle"):
            if name in known:
                wrong = " (the line does not fit)" if "does not fit" in known[name].message else ""
                sentences.append(
                    f"Extrapolated to an infinitesimal perturbation, {name} at lr {rate:g} is {interval(known[name])} "
                    f"per step over {known[name].n} initial conditions{wrong}."
                )
                break
    epsilons = sorted({run.epsilon for run in table.runs})
    if len(epsilons) == 1 and any(run.estimates["nmle"].is_ok for run in table.runs):
        sentences.append(
            f"Exponents hold for a perturbation of {epsilons[0]:g}; how they depend on it was not measured (runs "
            f"with three or more perturbation sizes would show it)."
        )
    return sentences


def _spacings(table: Table) -> list[str]:
    shown = most_spaced(table.settings)
    if not shown:
        if any(setting.spacings.fits.n for setting in table.settings):
            return ["There are too few asymptotic states to analyse their spacings."]
        return []
    setting = shown[0]
    spacings, difference = setting.spacings, setting.estimates["spacing_difference"]
    where = f"{spacings.fits.n} spacings of asymptotic states at {label(setting, table)}"
    if difference.is_ok:
        sentence = f"The {where} differ from those of independent draws (p = {difference.value:.2g})."
    elif difference.status is Status.NOT_SIGNIFICANT:
        sentence = f"The {where} do not differ significantly from those of independent draws: their law is no evidence."
    else:
        sentence = f"Whether the {where} differ from those of independent draws is unknown: {lower(difference.message)}"
    if spacings.n_drifting:
        n = len(spacings.samples)
        sentence += f" {spacings.n_drifting} of {counted(n, 'run')} still drift, so these are not asymptotic yet."
    return [sentence]


def _scope(table: Table) -> str:
    about = table.experiment
    what = f"task {about['task']}" if "task" in about else "this task"
    return (
        f"All of this is about finite training of one network on {what}: an exponent here is the growth over the steps "
        f"that were trained, not a limit, and nothing here can be assumed for other networks, tasks or optimisers."
    )


def _range(setting: SettingEstimates, name: str, runs: Sequence[RunEstimates]) -> tuple[float, float, float] | None:
    """Return low end, value and high end of an estimate; of the single runs where there are too few for a mean."""
    estimate = setting.estimates[name]
    if estimate.value is not None:
        low = estimate.value if estimate.low is None else estimate.low
        return low, estimate.value, estimate.value if estimate.high is None else estimate.high
    single = [value for run in _of(setting, runs) if (value := run.estimates[name].value) is not None]
    return (min(single), float(np.mean(single)), max(single)) if single else None


def _eigengap(setting: SettingEstimates, runs: Sequence[RunEstimates]) -> float | None:
    gaps = [run.eigengap for run in _of(setting, runs) if run.eigengap is not None]
    return float(np.median(gaps)) if gaps else None


def _of(setting: SettingEstimates, runs: Sequence[RunEstimates]) -> list[RunEstimates]:
    key = setting.key
    return [run for run in runs if run.key == key]


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high
