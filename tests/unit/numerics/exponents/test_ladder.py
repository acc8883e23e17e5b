"""Extrapolation over a ladder of epsilons against plain fits, its interval, and its test of the line."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.ladder import extrapolate
from streamscalar.types import Estimate, Status
from tests.oracles import exponents as oracle

Floats = NDArray[np.float64]
EPSILONS = np.array([1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
X = 1.0 / np.log(1.0 / EPSILONS)


def estimates(values: Floats) -> list[list[Estimate]]:
    """Return a ladder per row of `values`; NaN stands for a rung without an exponent."""
    return [
        [Estimate.failed(Status.NOT_SATURATED) if math.isnan(y) else Estimate(float(y), Status.OK) for y in row]
        for row in values
    ]


def noisy(n: int, seed: int, limit: float = 0.3, bend: float = 0.0, noise: float = 0.01) -> Floats:
    rng = np.random.default_rng(seed)
    limits = limit + 0.05 * rng.standard_normal((n, 1))
    return np.asarray(limits - 1.5 * X + bend * X**2 + noise * rng.standard_normal((n, len(X))))


def test_lines_are_extrapolated_exactly() -> None:
    limits = np.array([0.2, 0.3, 0.4, 0.5])
    values = limits[:, None] + np.array([-1.0, 2.0, 0.0, -3.0])[:, None] * X
    found = extrapolate(EPSILONS, estimates(values))
    assert found.value == pytest.approx(0.35, rel=1e-12)
    assert found.low is not None
    # Student's quantile for three degrees of freedom.
    assert found.value == pytest.approx(found.low + 3.1824463 * limits.std(ddof=1) / 2.0, rel=1e-7)
    assert found.n == 4
    assert "0 standard errors" in found.message
    assert "does not fit" not in found.message


def test_equals_a_plain_fit_on_every_prefix_with_missing_rungs() -> None:
    values = noisy(12, seed=3)
    values[2, 0] = values[2, 4] = values[5, 2] = math.nan
    for n in range(3, 13):
        found = extrapolate(EPSILONS, estimates(values[:n]), 0.9)
        expected = np.array([oracle.intercept(EPSILONS, row) for row in values[:n]])
        assert found.value == pytest.approx(expected.mean(), abs=1e-12)
        assert found.n == n
        assert found.confidence == 0.9


def test_order_of_rungs_does_not_matter() -> None:
    values, order = noisy(6, seed=4), np.array([3, 0, 4, 1, 2])
    plain, turned = extrapolate(EPSILONS, estimates(values)), extrapolate(EPSILONS[order], estimates(values[:, order]))
    assert plain.value == pytest.approx(turned.value, rel=1e-12)
    assert plain.message == turned.message


def test_interval_covers_the_limit() -> None:
    n_hits = 0
    for seed in range(300):
        found = extrapolate(EPSILONS, estimates(noisy(5, seed)))
        assert found.low is not None
        assert found.high is not None
        n_hits += found.low <= 0.3 <= found.high
    assert 0.92 <= n_hits / 300 <= 0.98


def test_largest_deviation_is_that_of_the_mean_residual() -> None:
    values = noisy(8, seed=5, bend=20.0)
    found = extrapolate(EPSILONS, estimates(values))
    residuals = np.array([y - np.polyval(np.polyfit(X, y, 1), X) for y in values])
    deviations = np.abs(residuals.mean(axis=0)) / (residuals.std(axis=0, ddof=1) / math.sqrt(8))
    worst = int(np.argmax(deviations))
    expected = f"Largest deviation from the line: {deviations[worst]:.2g} standard errors, at epsilon "
    assert f"{expected}{EPSILONS[worst]:g}." in found.message


def test_line_is_refused_where_it_bends_and_seldom_where_it_does_not() -> None:
    straight = [extrapolate(EPSILONS, estimates(noisy(6, seed))).message for seed in range(200)]
    bent = [extrapolate(EPSILONS, estimates(noisy(6, seed, bend=60.0))).message for seed in range(50)]
    assert sum("does not fit" in message for message in straight) <= 20
    assert sum("does not fit" in message for message in bent) >= 45


def test_equal_misfits_without_spread_do_not_fit() -> None:
    found = extrapolate(EPSILONS, estimates(np.tile(0.3 + 20.0 * X**2, (4, 1))))
    assert found.is_ok
    assert "inf standard errors" in found.message
    assert "does not fit" in found.message


def test_a_rung_under_three_exponents_is_not_judged() -> None:
    values = noisy(4, seed=6)
    values[:2, 0] = math.nan
    values[2:, 1] = math.nan
    residuals = []
    for row in values:
        kept = ~np.isnan(row)
        residuals.append((row - np.polyval(np.polyfit(X[kept], row[kept], 1), X))[2:])
    deviations = np.abs(np.mean(residuals, axis=0)) / (np.std(residuals, axis=0, ddof=1) / 2.0)
    worst = int(np.argmax(deviations))
    expected = f"{deviations[worst]:.2g} standard errors, at epsilon {EPSILONS[2 + worst]:g}"
    assert expected in extrapolate(EPSILONS, estimates(values)).message


def test_no_rung_to_judge_says_so() -> None:
    values = noisy(3, seed=7)
    for row, gone in enumerate(([3, 4], [0, 1], [2, 4])):
        values[row, gone] = math.nan
    found = extrapolate(EPSILONS, estimates(values))
    assert found.is_ok
    assert found.message.endswith("No epsilon has three exponents, so the line was not tested.")


def test_statuses() -> None:
    assert extrapolate(EPSILONS, []).status is Status.MISSING
    values = noisy(3, seed=9)
    values[0, :3] = math.nan
    two = extrapolate(EPSILONS, estimates(values))
    assert two.status is Status.TOO_FEW_INITIAL_CONDITIONS
    assert two.n == 2
    assert f"{oracle.intercept(EPSILONS, values[1]):.6g}" in two.message
    values[:, :3] = math.nan
    none = extrapolate(EPSILONS, estimates(values))
    assert none.status is Status.NOT_SATURATED
    assert none.message.startswith("0 of 3 initial conditions have an exponent at 3 epsilons or more.")


def test_measured_figures_of_iris_extrapolate_upwards() -> None:
    # Protocol of arXiv 2404.05782: .175 at 1e-4, .285 at 1e-8, .32 at 1e-12.
    rungs = np.array([0.175, 0.285, 0.32]) + np.array([-0.02, 0.0, 0.02])[:, None]
    found = extrapolate(np.array([1e-4, 1e-8, 1e-12]), estimates(rungs))
    assert found.value is not None
    assert 0.36 < found.value < 0.42


def test_bad_calls() -> None:
    rows = estimates(noisy(3, seed=1))
    for epsilons in (EPSILONS[:2], EPSILONS[:, None]):
        with pytest.raises(BadCall, match="at least 3"):
            extrapolate(epsilons, rows)
    for broken in (0.0, 1.0, -1e-8, np.nan, 1e-6):
        bad = EPSILONS.copy()
        bad[0] = broken
        with pytest.raises(BadCall, match="distinct"):
            extrapolate(bad, rows)
    with pytest.raises(BadCall, match=r"exponents\[1\]"):
        extrapolate(EPSILONS, [rows[0], rows[1][:4]])
    with pytest.raises(BadCall, match="confidence"):
        extrapolate(EPSILONS, rows, 0.0)
