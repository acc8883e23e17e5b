"""Spacings of asymptotic states and the fits of candidate laws.

The source [1]_ reports that the rescaled spacings of asymptotic states follow a skew lognormal (log10 of the
spacing is skew normal) for every initial condition. Two cautions. Spacings of states drawn independently from a
bell-shaped density have nearly the same parameters, so `independent_draws` compares with them. And the spacings of one
set of states depend on each other (their mean is exactly 1), so the levels of all tests are measured on spacings.

References
----------
.. [1] P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv 2606.30384.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.asymptotic.laws import (
    LAWS,
    SpacingFit,
    fit_law,
)
from streamscalar.types import ADVICE, Status

Floats = NDArray[np.float64]


LEAST_SPACINGS = 15
"""Spacings from which a law of three parameters is fitted."""


@dataclass(frozen=True, slots=True)
class SpacingFits:
    """Fits of all candidate laws to one set of spacings.

    Attributes
    ----------
    fits
        By rising AIC; empty unless `status` is `ok`.
    n
        Number of spacings.
    status
        `ok`; `too_few_replicas` (under `LEAST_SPACINGS`); `constant` (spacings of 0, which have no log10);
        `non_finite`.
    message
        What was found, in one or two sentences.
    """

    fits: tuple[SpacingFit, ...]
    n: int
    status: Status
    message: str

    def __getitem__(self, name: str) -> SpacingFit:
        """Return the fit of the law called `name`."""
        return next(fit for fit in self.fits if fit.name == name)


def rescaled_spacings(states: Floats) -> Floats:
    """Return the gaps between sorted states, divided by their mean.

    Parameters
    ----------
    states
        Asymptotic states of one run, `(R,)`, without the control.

    Returns
    -------
    ndarray
        `(R - 1,)` float64, at least 0, of mean 1. All 0 where all states coincide, not finite where a state is not;
        the functions that take spacings return a status for both.

    Raises
    ------
    BadCall
        If `states` has more than one axis.

    Examples
    --------
    >>> rescaled_spacings(np.array([3.0, 0.0, 1.0])).round(4).tolist()
    [0.6667, 1.3333]
    """
    if states.ndim != 1:
        raise BadCall("states", "must have one value per replica", str(states.shape))
    return np.asarray(rescaled_rows(states[None])[0])


def fit_spacings(spacings: Floats, n_bootstrap: int = 0, rng: np.random.Generator | None = None) -> SpacingFits:
    """Fit every candidate law to rescaled spacings by maximum likelihood.

    Normal, skew normal, Student t, Laplace, logistic and generalised normal laws are fitted to the spacing, the
    skew lognormal of [1]_ to its log10. The former put some probability below 0, where no spacing lies, which lowers
    their likelihood. Spacings are treated as independent, which they are only approximately.

    Parameters
    ----------
    spacings
        `(n,)`, at least 0; may be pooled over initial conditions once rescaled.
    n_bootstrap
        Number of draws from each fitted law, fitted again, that calibrate its `ks_p_value`. With 0 it is the plain
        p-value, which is too large because the parameters were fitted to the same spacings. Cost: 30 to 60 ms
        without, and as much again per draw.
    rng
        Source of those draws; needed with `n_bootstrap`.

    Returns
    -------
    SpacingFits

    Raises
    ------
    BadCall
        If `n_bootstrap` is negative or given without `rng`, or `spacings` is not one axis of numbers of at least 0.

    Examples
    --------
    >>> draws = np.random.default_rng(0).standard_normal((8, 25))
    >>> found = fit_spacings(np.concatenate([rescaled_spacings(states) for states in draws]))
    >>> found.fits[0].name, found.n
    ('skew lognormal', 192)
    """
    if n_bootstrap < 0 or (n_bootstrap > 0 and rng is None):
        raise BadCall("n_bootstrap", "must be at least 0, and needs a generator when above it", str(n_bootstrap))
    failed = unusable([spacings], LEAST_SPACINGS)
    n_zero = 0 if failed else int((spacings == 0.0).sum())
    if n_zero:
        what = f"{n_zero} of {len(spacings)} spacings are 0 (states coincide) and have no log10; leave such states out."
        failed = Status.CONSTANT, what
    elif not failed and np.ptp(spacings) == 0.0:
        failed = Status.CONSTANT, f"All {len(spacings)} spacings are equal."
    if failed:
        status, what = failed
        return SpacingFits((), len(spacings), status, f"{what} {ADVICE[status]}")
    fits = [fit_law(law, spacings, n_bootstrap, rng) for law in LAWS]
    fits.sort(key=lambda fit: fit.aic)
    return SpacingFits(tuple(fits), len(spacings), Status.OK, f"Smallest AIC: {fits[0].name}.")


def rescaled_rows(states: Floats) -> Floats:
    """Return rescaled spacings `(B, R - 1)` of states `(B, R)`."""
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.diff(np.sort(states, axis=1), axis=1)
        span = gaps.sum(axis=1, keepdims=True)
        return np.asarray(gaps * (gaps.shape[1] / np.where(span == 0.0, 1.0, span)))


def unusable(samples: Sequence[Floats], least: int) -> tuple[Status, str] | None:
    """Return why the samples cannot be analysed, or `None`; raise `BadCall` for a negative spacing."""
    for sample in samples:
        if sample.ndim != 1 or (sample < 0.0).any():
            raise BadCall("spacings", "must be one axis of numbers that are at least 0", str(sample.shape))
        if not np.isfinite(sample).all():
            return Status.NON_FINITE, f"{int((~np.isfinite(sample)).sum())} of {len(sample)} spacings."
        if len(sample) < least:
            return Status.TOO_FEW_REPLICAS, f"{len(sample)} spacings; {least} are needed."
    return None
