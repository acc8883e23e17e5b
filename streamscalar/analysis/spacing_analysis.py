"""Asymptotic states of one setting: rescaled spacings, fitted laws, and the comparison with independent draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.quantities import for_tracked
from streamscalar.analysis.run import RunEstimates
from streamscalar.numerics.asymptotic.collapse import collapse
from streamscalar.numerics.asymptotic.independent_draws import SpacingNull, differs_from_iid, spacing_null
from streamscalar.numerics.asymptotic.spacings import LEAST_SPACINGS, SpacingFits, fit_spacings, rescaled_spacings
from streamscalar.types import Estimate, Status, json_float

USABLE = (Status.OK, Status.DRIFTING)
"""Statuses of states whose spacings are used. Drifting states are used too, and counted."""


@dataclass(frozen=True, slots=True)
class Spacings:
    """Rescaled spacings of the asymptotic states of one setting.

    Attributes
    ----------
    samples
        Rescaled spacings of each run with usable states. Only these are pooled, never coordinates.
    n_drifting
        Runs among them whose states still drift.
    fits
        Candidate laws of the pooled spacings.
    null
        The same fit to states drawn independently; `None` with too few spacings.
    collapse
        p-value of the hypothesis that all runs share one law.
    difference
        p-value against independent draws, if it is significant.
    """

    samples: tuple[NDArray[np.float64], ...]
    n_drifting: int
    fits: SpacingFits
    null: SpacingNull | None
    collapse: Estimate
    difference: Estimate

    @property
    def pooled(self) -> NDArray[np.float64]:
        """All rescaled spacings, `(n,)`."""
        return np.concatenate(self.samples) if self.samples else np.zeros(0)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "n": self.fits.n,
            "n_runs": len(self.samples),
            "n_drifting": self.n_drifting,
            "status": str(self.fits.status),
            "message": self.fits.message,
            "fits": [
                {
                    "name": fit.name,
                    "parameters": {name: json_float(value) for name, value in fit.parameters.items()},
                    "log_likelihood": json_float(fit.log_likelihood),
                    "aic": json_float(fit.aic),
                    "ks": json_float(fit.ks),
                    "ks_p_value": json_float(fit.ks_p_value),
                    "ks_method": fit.ks_method,
                    "status": str(fit.status),
                    "message": fit.message,
                }
                for fit in self.fits.fits
            ],
            "iid": None if self.null is None else _band(self.null),
        }


def analyze_spacings(runs: Sequence[RunEstimates], options: Options, purpose: str) -> Spacings:
    """Analyse the asymptotic states of the runs of one setting; `purpose` names its random numbers."""
    used = [run.states for run in runs if run.states.status in USABLE and len(run.states.values) > 1]
    samples = tuple(rescaled_spacings(states.values) for states in used)
    pooled = np.concatenate(samples) if samples else np.zeros(0)
    rng = options.rng(f"spacings {purpose}")
    level = 1.0 - options.confidence
    null = None
    if len(pooled) >= LEAST_SPACINGS:
        null = spacing_null([len(states.values) for states in used], rng, options.n_surrogates, options.confidence)
    fits = fit_spacings(pooled)
    return Spacings(
        samples=samples,
        n_drifting=sum(states.status is Status.DRIFTING for states in used),
        fits=replace(fits, message=for_tracked(fits.message)) if options.is_tracked else fits,
        null=null,
        collapse=collapse(samples, rng, level=level),
        difference=differs_from_iid(samples, rng, [states.values for states in used], level=level),
    )


def _band(null: SpacingNull) -> Mapping[str, Any]:
    return {
        name: {
            "median": json_float(null.median[name]),
            "low": json_float(null.low[name]),
            "high": json_float(null.high[name]),
        }
        for name in null.median
    }
