"""Spacings of asymptotic states: rescaling, candidate laws, collapse over initial conditions, and what chance gives.

The source [1]_ reports that the rescaled spacings of asymptotic states follow a skew lognormal (log10 of the
spacing is skew normal) whatever the initial condition. Two cautions are built in. Spacings of states drawn
independently from a bell-shaped density have nearly those parameters too, so an iid surrogate stands beside each
claim. And the spacings of one set of states are dependent (their mean is exactly 1), so levels are measured on
spacings and not assumed.

References
----------
.. [1] P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv 2606.30384.
.. [2] F. W. Scholz, M. A. Stephens, Journal of the American Statistical Association 82, 918 (1987), equation 6.
.. [3] T. W. Anderson, D. A. Darling, Annals of Mathematical Statistics 23, 193 (1952).
.. [4] B. W. Silverman, Density Estimation for Statistics and Data Analysis, Chapman & Hall 1986, section 6.4.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.asymptotic.laws import (
    LARGEST_SKEW,
    LAWS,
    SKEW_PARAMETERS,
    SpacingFit,
    fit_law,
    fit_skew_normals,
    p_value_of,
)
from streamscalar.types import ADVICE, Estimate, Status

Floats = NDArray[np.float64]
Width = Literal["silverman", "neighbour"]

LEAST_SPACINGS = 15
"""Spacings from which a law of three parameters is fitted."""

LEAST_PER_SAMPLE = 5
"""Spacings that each sample of a collapse test needs."""

N_REFERENCE = 20_000
"""Least number of surrogate spacings that stand for the law of independent draws."""


@dataclass(frozen=True, slots=True)
class SpacingFits:
    """All candidate laws of one set of spacings.

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
        What was seen, in one or two sentences.
    """

    fits: tuple[SpacingFit, ...]
    n: int
    status: Status
    message: str

    def __getitem__(self, name: str) -> SpacingFit:
        """Return the fit of the law called `name`."""
        return next(fit for fit in self.fits if fit.name == name)


@dataclass(frozen=True, slots=True)
class SpacingNull:
    """What the skew lognormal looks like on spacings of independent draws.

    Attributes
    ----------
    fits
        Fitted `shape`, `loc`, `scale` of each draw, `(n_draws, 3)`; a shape at its bound is kept as the bound.
    median, low, high
        Median and ends of the central band by parameter. The median, because a mean over shapes that may run to
        their bound says nothing.
    confidence
        Share of draws in the band.
    n_at_bound
        Draws whose shape ran to its bound.
    edges
        Edges of the bins of log10 spacing, `(G + 1,)`.
    density
        Mean density of log10 spacing in each bin over all draws, `(G,)`.
    """

    fits: Floats
    median: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    confidence: float
    n_at_bound: int
    edges: Floats
    density: Floats


def rescaled_spacings(states: Floats) -> Floats:
    """Return the gaps between sorted states, divided by their mean.

    Parameters
    ----------
    states
        Asymptotic states of one run, `(R,)`, without the control.

    Returns
    -------
    ndarray
        `(R - 1,)`, at least 0, of mean 1. All 0 where all states coincide, not finite where a state is not: both
        become statuses in what follows.

    Examples
    --------
    >>> rescaled_spacings(np.array([3.0, 0.0, 1.0])).round(4).tolist()
    [0.6667, 1.3333]
    """
    if states.ndim != 1:
        raise BadCall("states", "must have one value per replica", str(states.shape))
    return np.asarray(_rescaled(states[None])[0])


def fit_spacings(spacings: Floats, n_bootstrap: int = 0, rng: np.random.Generator | None = None) -> SpacingFits:
    """Fit every candidate law to rescaled spacings by maximum likelihood.

    Normal, skew normal, Student t, Laplace, logistic and generalised normal laws are fitted to the spacing, the
    skew lognormal of [1]_ to its log10. The former put some probability below 0, where no spacing lies; that is
    theirs to answer for in the likelihood. Spacings are treated as independent, which they are only nearly.

    Parameters
    ----------
    spacings
        `(n,)`, at least 0; may be pooled over initial conditions once rescaled.
    n_bootstrap
        Fits to draws from each fitted law that calibrate its `ks_p_value`, 0 for none: then it is the plain p-value,
        too large because the parameters were fitted to the same spacings. Cost: 30 to 60 ms without, and as much
        again per draw.
    rng
        Source of those draws; needed with `n_bootstrap`.

    Examples
    --------
    >>> draws = np.random.default_rng(0).standard_normal((8, 25))
    >>> found = fit_spacings(np.concatenate([rescaled_spacings(states) for states in draws]))
    >>> found.fits[0].name, found.n
    ('skew lognormal', 192)
    """
    if n_bootstrap < 0 or (n_bootstrap > 0 and rng is None):
        raise BadCall("n_bootstrap", "must be at least 0, and needs a generator when above it", str(n_bootstrap))
    failed = _unusable([spacings], LEAST_SPACINGS)
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


def collapse(
    samples: Sequence[Floats], rng: np.random.Generator, n_permutations: int = 499, level: float = 0.05
) -> Estimate:
    """Test whether the rescaled spacings of several initial conditions share one law.

    The k-sample Anderson-Darling statistic [2]_, every sample divided by its mean, against permutations of the pooled
    spacings whose samples are divided by their means anew. Without the second division permutations are too wide, for
    rescaled spacings have mean 1 in every sample: over sets of 25 independent states a stated .05 then rejected in
    under .01. The source [1]_ names the test and not how its p-value was found; its table ends at .001 and .25.
    Measured here, for 4 sets of 25 states of normal, uniform and bimodal laws and random-matrix eigenvalues: .04 to
    .06; for independent exponential values .03; for 2 samples pooled from 4 sets each .04.

    Parameters
    ----------
    samples
        Rescaled spacings of each initial condition, `(n_i,)`; their mean is taken out again.
    rng
        Source of the permutations.
    n_permutations
        Permutations; the p-value is at least 1 / (1 + n_permutations). Cost: about 10 ms for 500 of 4 x 24.
    level
        Level at which the message judges.

    Returns
    -------
    Estimate
        The p-value; `n` counts the initial conditions. Statuses: `too_few_initial_conditions` (under two),
        `too_few_replicas`, `non_finite`, `constant` (all spacings equal).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> collapse([rng.exponential(size=40), rng.uniform(0.8, 1.2, size=40)], rng).value
    0.002
    """
    if n_permutations < 1:
        raise BadCall("n_permutations", "must be at least 1", str(n_permutations))
    method = f"k-sample Anderson-Darling, {n_permutations} permutations"
    k = len(samples)
    if k < 2:
        return Estimate.failed(Status.TOO_FEW_INITIAL_CONDITIONS, n=k, method=method, what="A comparison needs two.")
    failed = _unusable(samples, LEAST_PER_SAMPLE)
    if not failed and np.ptp(np.concatenate(samples)) == 0.0:
        failed = Status.CONSTANT, "All spacings are equal."
    if failed:
        return Estimate.failed(failed[0], n=k, method=method, what=failed[1])
    owners = np.repeat(np.arange(k), [len(sample) for sample in samples])
    pooled = np.concatenate(samples)
    observed = float(_k_sample(*_mean_one(pooled[None], owners[None]))[0])
    permuted = rng.permuted(np.tile(owners, (n_permutations, 1)), axis=1)
    drawn = _k_sample(*_mean_one(np.broadcast_to(pooled, permuted.shape), permuted))
    p_value = p_value_of(observed, drawn)
    sizes = ", ".join(str(len(sample)) for sample in samples)
    if p_value < level:
        says = "The laws differ: no collapse."
    else:
        says = "No difference seen, which does not prove one law: small samples hide much."
    message = f"Statistic {observed:.4g}, spacings {sizes}. {says}"
    return Estimate(p_value, Status.OK, n=k, method=method, message=message)


def iid_spacings(source: int | Floats, rng: np.random.Generator, n_draws: int, width: Width = "silverman") -> Floats:
    """Return rescaled spacings of states drawn independently, `(n_draws, R - 1)`.

    Parameters
    ----------
    source
        Number of states R: they are drawn from a normal law (location and scale drop out). Or states `(R,)`: as
        many are drawn by smoothed bootstrap, that is from their Gaussian kernel density.
    rng
        Source of the draws.
    n_draws
        Number of sets.
    width
        Width of that kernel: Silverman's [4]_, one for all; or the distance of each state from its neighbour of rank
        sqrt(R), which follows a density with tails, edges or far modes.

    Examples
    --------
    >>> iid_spacings(25, np.random.default_rng(0), 3).mean(axis=1).round(12).tolist()
    [1.0, 1.0, 1.0]
    """
    n_states = source if isinstance(source, int) else len(source)
    if n_states < 2 or n_draws < 1:
        raise BadCall("source", "must be at least two states, drawn at least once", f"{n_states}, {n_draws} draws")
    noise = rng.standard_normal((n_draws, n_states))
    if isinstance(source, int):
        return _rescaled(noise)
    if width == "silverman":
        widths = np.full(n_states, 1.06 * float(source.std(ddof=1)) * n_states**-0.2)
    else:
        widths = np.sort(np.abs(source[:, None] - source), axis=1)[:, round(math.sqrt(n_states))]
    chosen = rng.integers(n_states, size=noise.shape)
    return _rescaled(source[chosen] + widths[chosen] * noise)


def spacing_null(
    sources: Sequence[int | Floats], rng: np.random.Generator, n_draws: int = 200, confidence: float = 0.95
) -> SpacingNull:
    """Return the distribution of the fitted skew lognormal over spacings of independent draws.

    Every draw makes one set per initial condition, pools their spacings and fits them as `fit_spacings` does. Cost:
    about 5 ms per draw of 100 spacings.

    Parameters
    ----------
    sources
        One per initial condition, see `iid_spacings`.
    rng
        Source of the draws.
    n_draws
        Number of pooled sets.
    confidence
        Share of draws in the band.

    Examples
    --------
    >>> null = spacing_null([25] * 4, np.random.default_rng(0), n_draws=40)
    >>> null.low["scale"] < 0.91 < null.high["scale"]
    True
    """
    logs = np.log10(_pooled_surrogates(sources, rng, n_draws))
    if logs.shape[1] < LEAST_SPACINGS:
        raise BadCall("sources", f"must give at least {LEAST_SPACINGS} spacings together", str(logs.shape[1]))
    fits = fit_skew_normals(logs)
    tail = (1.0 - confidence) / 2.0
    low, median, high = (
        dict(zip(SKEW_PARAMETERS, (float(x) for x in row), strict=True))
        for row in np.quantile(fits, [tail, 0.5, 1 - tail], 0)
    )
    edges = np.linspace(-4.0, 1.5, 56)
    density = np.histogram(logs, edges)[0] / (logs.size * np.diff(edges))
    n_at_bound = int((np.abs(fits[:, 0]) >= 0.99 * LARGEST_SKEW).sum())
    return SpacingNull(fits, median, low, high, confidence, n_at_bound, edges, density)


def differs_from_iid(
    samples: Sequence[Floats],
    rng: np.random.Generator,
    states: Sequence[Floats] | None = None,
    n_draws: int = 199,
    level: float = 0.05,
) -> Estimate:
    """Test whether rescaled spacings differ from those of independent draws.

    The Anderson-Darling distance [3]_ of the pooled spacings from the law of surrogate spacings, against the same
    distance of `n_draws` surrogates of equal size. Dependence between the spacings of one set is in the surrogates
    too, so it does not touch the level. Measured for a stated .05, one and four sets of 25 independent states: normal
    surrogates .04 on normal states but up to .86 on exponential ones; with `states` at most .04 on normal, uniform,
    bimodal, exponential and t states. A lattice jittered by .3 of its spacing is found in .98 or more by either.

    Parameters
    ----------
    samples
        Rescaled spacings of each initial condition, `(n_i,)`.
    rng
        Source of the surrogates.
    states
        States behind each sample, `(n_i + 1,)`: surrogates then follow their density by smoothed bootstrap, under
        either kernel width of `iid_spacings`, and the larger p-value counts. Without them surrogates are normal, and
        a difference may only say that the states are not.
    n_draws
        Surrogates; the p-value is at least 1 / (1 + n_draws). Cost: 10 to 20 ms.
    level
        Level under which a difference is reported, in (0, 1).

    Returns
    -------
    Estimate
        The p-value where it is under `level`, else `not_significant` with the p-value in the message; `n` counts the
        initial conditions. Other statuses: `too_few_replicas` (under `LEAST_SPACINGS` in all), `non_finite`,
        `constant`.

    Examples
    --------
    >>> lattice = rescaled_spacings(np.arange(26.0) + 0.1 * np.random.default_rng(1).standard_normal(26))
    >>> differs_from_iid([lattice], np.random.default_rng(0)).value
    0.005
    """
    if n_draws < 1 or not 0.0 < level < 1.0:
        raise BadCall("n_draws", "must be at least 1, at a level between 0 and 1", f"{n_draws}, {level:g}")
    if states is not None and [len(x) for x in states] != [len(x) + 1 for x in samples]:
        raise BadCall("states", "must hold one state more than each sample has spacings")
    null = "normal law" if states is None else "smoothed bootstrap"
    method = f"Anderson-Darling against {n_draws} iid surrogates, {null}"
    failed = _unusable([np.concatenate(samples) if samples else np.zeros(0)], LEAST_SPACINGS)
    if not failed and any(not sample.any() for sample in samples):
        failed = Status.CONSTANT, "In one initial condition all states coincide."
    if failed:
        return Estimate.failed(failed[0], n=len(samples), method=method, what=failed[1])
    sources: Sequence[int | Floats] = [len(sample) + 1 for sample in samples] if states is None else states
    pooled = np.concatenate(samples)
    widths: tuple[Width, ...] = ("silverman",) if states is None else ("silverman", "neighbour")
    p_value = 0.0
    for width in widths:
        law = np.sort(_pooled_surrogates(sources, rng, math.ceil(N_REFERENCE / len(pooled)), width), axis=None)
        drawn = _distance(_pooled_surrogates(sources, rng, n_draws, width), law)
        p_value = max(p_value, p_value_of(float(_distance(pooled[None], law)[0]), drawn))
    what = f"{len(pooled)} spacings, p = {p_value:.3g} (level {level:g})."
    if p_value >= level:
        return Estimate.failed(Status.NOT_SIGNIFICANT, n=len(samples), method=method, what=what)
    return Estimate(p_value, Status.OK, n=len(samples), method=method, message=what)


def _rescaled(states: Floats) -> Floats:
    """Return rescaled spacings `(B, R - 1)` of states `(B, R)`."""
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.diff(np.sort(states, axis=1), axis=1)
        span = gaps.sum(axis=1, keepdims=True)
        return np.asarray(gaps * (gaps.shape[1] / np.where(span == 0.0, 1.0, span)))


def _unusable(samples: Sequence[Floats], least: int) -> tuple[Status, str] | None:
    """Return why the samples cannot be analysed, or `None`; a negative spacing is a bad call."""
    for sample in samples:
        if sample.ndim != 1 or (sample < 0.0).any():
            raise BadCall("spacings", "must be one axis of numbers that are at least 0", str(sample.shape))
        if not np.isfinite(sample).all():
            return Status.NON_FINITE, f"{int((~np.isfinite(sample)).sum())} of {len(sample)} spacings."
        if len(sample) < least:
            return Status.TOO_FEW_REPLICAS, f"{len(sample)} spacings, of {least} that are needed."
    return None


def _mean_one(spacings: Floats, owners: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Return spacings `(B, N)`, each divided by the mean over its owner, and the owners `(B, N)`."""
    scaled = np.zeros(spacings.shape)
    for sample in range(int(owners.max()) + 1):
        members = owners == sample
        total = (spacings * members).sum(axis=1, keepdims=True)
        count = members.sum(axis=1, keepdims=True)
        scaled += spacings * members * count / np.where(total == 0.0, 1.0, total)
    return scaled, owners


def _k_sample(spacings: Floats, owners: NDArray[np.int64]) -> Floats:
    """Return A^2 `(B,)` of pooled spacings `(B, N)` that belong to the samples `owners` `(B, N)`."""
    n = spacings.shape[1]
    order = np.argsort(spacings, axis=1, kind="stable")
    ordered, owners = np.take_along_axis(spacings, order, 1), np.take_along_axis(owners, order, 1)
    below = np.arange(1.0, n)
    # Equal spacings count once, at the last of them, with their number as weight.
    is_last = ordered[:, 1:] > ordered[:, :-1]
    before = np.maximum.accumulate(np.where(is_last, below, 0.0), axis=1)
    ties = below - np.pad(before, ((0, 0), (1, 0)))[:, :-1]
    weights = np.where(is_last, ties / (below * (n - below)), 0.0)
    total = np.zeros(len(owners))
    for sample in range(int(owners.max()) + 1):
        members = owners == sample
        size = float(members[0].sum())
        counts = np.cumsum(members, axis=1)[:, :-1]
        total += (np.square(n * counts - size * below) * weights).sum(axis=1) / size
    return np.asarray(total / n)


def _pooled_surrogates(
    sources: Sequence[int | Floats], rng: np.random.Generator, n_draws: int, width: Width = "silverman"
) -> Floats:
    return np.concatenate([iid_spacings(source, rng, n_draws, width) for source in sources], axis=1)


def _distance(spacings: Floats, law: Floats) -> Floats:
    """Return the Anderson-Darling distance `(B,)` of spacings `(B, n)` from the law of sorted draws `(m,)`."""
    n, m = spacings.shape[1], len(law)
    ordered = np.sort(spacings, axis=1)
    share = (np.searchsorted(law, ordered) + 0.5) / (m + 1.0)
    odd = 2.0 * np.arange(1, n + 1) - 1.0
    return np.asarray(-n - ((np.log(share) + np.log1p(-share[:, ::-1])) * odd).sum(axis=1) / n)
