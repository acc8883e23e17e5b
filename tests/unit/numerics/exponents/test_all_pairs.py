"""Averages over all pairs of members, and an interval that does not take pairs for independent."""

import math
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.all_pairs import nmle_all_pairs, pair_indices
from streamscalar.numerics.exponents.divergence import nmle
from streamscalar.numerics.intervals import student
from streamscalar.types import Status
from tests.oracles import exponents as oracle
from tests.oracles import naive
from tests.oracles.exponents import pair_divergence

Floats = NDArray[np.float64]
STEPS = np.arange(120)


def signed_separations(n_members: int, seed: int, n_rows: int = 120, rate: float = 0.4) -> Floats:
    """Return signed separations of members whose differences grow at about `rate` and level off."""
    rng = np.random.default_rng(seed)
    rates = rate * (1.0 + 0.02 * rng.standard_normal(n_members))
    size = np.minimum(np.exp(-18.0 + np.arange(n_rows)[:, None] * rates), math.e**2)
    signed = size * rng.uniform(0.5, 2.0, n_members) * rng.choice([-1.0, 1.0], n_members)
    signed *= 1.0 + 0.05 * rng.standard_normal(signed.shape)
    signed[:, 0] = 0.0
    return np.asarray(signed)


@pytest.mark.parametrize("n_members", [1, 2, 3, 6, 11])
def test_pairs_come_in_a_fixed_order(n_members: int) -> None:
    first, second = pair_indices(n_members)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == list(combinations(range(n_members), 2))


def test_values_and_jackknife_equal_recomputing_without_each_member_on_every_prefix() -> None:
    signed = signed_separations(5, seed=2)
    n_ok = 0
    for n_rows in range(2, 121):
        part, steps = signed[:n_rows], STEPS[:n_rows]
        log_d = oracle.mean_over_pairs(part, list(range(5)))
        curve = np.exp(log_d)[:, None]
        found, expected = nmle_all_pairs(steps, pair_divergence(part), 5), nmle(steps, curve)
        assert (found.status, found.window) == (expected.status, expected.window)
        if found.value is None or found.window is None:
            continue
        n_ok += 1
        first, last = found.window
        inside = steps[first : last + 1].astype(np.float64)

        def fitted(y: Floats, first: int = first, last: int = last, inside: Floats = inside) -> float:
            return naive.slope(inside, y[first : last + 1])

        assert found.value == pytest.approx(fitted(log_d), rel=1e-12)
        assert found.low is not None
        half = 2.7764451 * oracle.jackknife_error(part, fitted)
        assert found.value - found.low == pytest.approx(half, rel=1e-6)
    assert n_ok > 50


def test_n_counts_members_and_the_message_says_how() -> None:
    found = nmle_all_pairs(STEPS, pair_divergence(signed_separations(6, seed=3)), 6)
    assert found.n == 6
    assert found.method == "nmle, amplitude-bounded least squares, mean_log over all pairs"
    assert found.message == "15 pairs; the interval is a jackknife over the 6 members of one run."
    assert found.value == pytest.approx(0.4, rel=0.03)


def test_two_members_have_a_value_and_no_interval() -> None:
    found = nmle_all_pairs(STEPS, pair_divergence(signed_separations(2, seed=3)), 2)
    assert found.is_ok
    assert (found.low, found.high, found.confidence, found.n) == (None, None, None, 2)
    assert found.message == "One pair of 2 members. No interval."


def test_confidence_widens_the_interval() -> None:
    pairs = pair_divergence(signed_separations(4, seed=3))
    narrow, wide = nmle_all_pairs(STEPS, pairs, 4, 0.8), nmle_all_pairs(STEPS, pairs, 4, 0.99)
    assert narrow.low is not None
    assert wide.low is not None
    assert wide.low < narrow.low
    ratio = stats.t.ppf(0.995, 3) / stats.t.ppf(0.9, 3)
    assert (wide.value or 0.0) - wide.low == pytest.approx(ratio * ((narrow.value or 0.0) - narrow.low), rel=1e-9)


def experiment(n_members: int, rng: np.random.Generator, own: float) -> Floats:
    """Return distances of pairs whose rate is .4 plus a term per member and one per pair."""
    first, second = pair_indices(n_members)
    of_member = 0.01 * rng.standard_normal(n_members)
    rates = 0.4 + of_member[first] + of_member[second] + own * rng.standard_normal(len(first))
    log_d = np.minimum(-18.0 + STEPS[:, None] * rates, 2.0)
    return np.asarray(np.exp(log_d + 0.02 * rng.standard_normal(log_d.shape)))


@pytest.mark.parametrize(("n_members", "own"), [(3, 0.0), (6, 0.0), (6, 0.01), (11, 0.0)])
def test_jackknife_covers_what_it_states(n_members: int, own: float) -> None:
    rng = np.random.default_rng(17)
    hits = {"jackknife": 0, "as if independent": 0}
    for _ in range(400):
        pairs = experiment(n_members, rng, own)
        found = nmle_all_pairs(STEPS, pairs, n_members)
        low, high = student(np.log(pairs[30] / pairs[0]) / 30, 0.95)
        assert found.low is not None
        assert found.high is not None
        hits["jackknife"] += found.low <= 0.4 <= found.high
        hits["as if independent"] += low <= 0.4 <= high
    assert 0.92 <= hits["jackknife"] / 400 <= 0.99
    if own == 0.0 and n_members > 3:
        assert hits["as if independent"] / 400 < 0.8


def test_bad_data_is_a_status() -> None:
    pairs = pair_divergence(signed_separations(4, seed=5))
    assert nmle_all_pairs(STEPS, pairs[:, :0], 1).status is Status.TOO_FEW_REPLICAS
    assert nmle_all_pairs(STEPS[:1], pairs[:1], 4).status is Status.TOO_FEW_ROWS
    assert nmle_all_pairs(STEPS[:0], pairs[:0], 4).status is Status.TOO_FEW_ROWS
    for bad, status in ((np.nan, Status.NON_FINITE), (np.inf, Status.NON_FINITE), (0.0, Status.CONTRACTED)):
        broken = pairs.copy()
        broken[7, 2] = bad
        found = nmle_all_pairs(STEPS, broken, 4)
        assert (found.status, found.n) == (status, 4)
    broken = pairs.copy()
    broken[7, :2] = 0.0
    assert nmle_all_pairs(STEPS, broken, 4).message.startswith("2 of 6 pairs reached separation 0.")
    shrinking = pair_divergence(np.exp(-0.1 * STEPS)[:, None] * np.array([0.0, 1.0, -2.0]))
    assert nmle_all_pairs(STEPS, shrinking, 3).status is Status.NO_EXPONENTIAL_PHASE
    assert nmle_all_pairs(STEPS, shrinking, 3).n == 3


def test_bad_calls() -> None:
    pairs = np.ones((120, 6))
    with pytest.raises(BadCall, match="6 columns"):
        nmle_all_pairs(STEPS, np.ones((120, 5)), 4)
    with pytest.raises(BadCall, match="shape"):
        nmle_all_pairs(STEPS[1:], pairs, 4)
    with pytest.raises(BadCall, match="confidence"):
        nmle_all_pairs(STEPS, pairs, 4, 1.0)
    with pytest.raises(BadCall, match="n_members"):
        pair_indices(0)
