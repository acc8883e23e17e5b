"""Exponents of sliding windows against a fit of each."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.local import LocalExponents, local_exponents
from streamscalar.types import Status
from tests.oracles import exponents as oracle

Floats = NDArray[np.float64]


def curve(n_rows: int = 80, n_replicas: int = 4) -> Floats:
    rng = np.random.default_rng(1)
    clean = np.minimum(-18.0 + 0.4 * np.arange(n_rows)[:, None] * rng.uniform(0.9, 1.1, n_replicas), 2.0)
    return np.asarray(np.exp(clean + 0.1 * rng.standard_normal(clean.shape)))


@pytest.mark.parametrize("width", [2, 3, 10, 25])
def test_equals_a_fit_of_each_window_on_every_prefix(width: int) -> None:
    d = curve()
    # Rows at uneven steps: the exponent is per step.
    steps = np.cumsum(np.random.default_rng(2).integers(1, 5, 80))
    everything = oracle.local_slopes(steps, d, width)
    for n_rows in range(width, 81):
        found = local_exponents(steps[:n_rows], d[:n_rows], width)
        expected = np.array(everything[: n_rows - width + 1]).T
        np.testing.assert_allclose(found.steps, expected[0], rtol=1e-14)
        np.testing.assert_allclose(found.values, expected[1], atol=1e-12)
        assert found.spread is not None
        np.testing.assert_allclose(found.spread, expected[2], atol=1e-12)
        assert (found.status, found.n, found.width, found.message) == (Status.OK, 4, width, "")


def test_growth_then_plateau_then_contraction() -> None:
    steps = np.arange(90)
    log_d = np.concatenate([0.7 * np.arange(30), np.full(30, 20.3), 20.3 - 0.2 * np.arange(30)])
    found = local_exponents(steps, np.exp(log_d)[:, None], 11)
    assert found.values[10] == pytest.approx(0.7, rel=1e-12)
    assert found.values[40] == 0.0
    assert found.values[-1] == pytest.approx(-0.2, rel=1e-12)
    assert found.steps[[0, -1]].tolist() == [5.0, 84.0]


def test_constant_separations_have_a_slope_of_exactly_zero() -> None:
    steps = np.cumsum(np.random.default_rng(3).integers(1, 9, 80))
    found = local_exponents(steps, np.full((80, 3), 0.3), 7)
    assert found.values.tolist() == [0.0] * 74
    assert found.spread is not None
    assert found.spread.tolist() == [0.0] * 74


def test_spread_needs_three_replicas() -> None:
    assert local_exponents(np.arange(80), curve(n_replicas=2), 10).spread is None
    assert local_exponents(np.arange(80), curve(n_replicas=3), 10).spread is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_windows_with_an_unusable_row_are_left_out(bad: float) -> None:
    steps, d = np.arange(80), curve()
    d[50, 1] = bad
    found = local_exponents(steps, d, 10)
    expected = np.array(oracle.local_slopes(steps, d, 10)).T
    np.testing.assert_allclose(found.steps, expected[0])
    np.testing.assert_allclose(found.values, expected[1], atol=1e-12)
    assert len(found.values) == 61
    assert found.message == "Left out: 10 of 71 windows, with a separation that is 0 or not finite."


def test_bad_data_is_a_status() -> None:
    steps, d = np.arange(20), curve(20)
    broken = d.copy()
    broken[9, 0] = np.nan
    shrunk = d.copy()
    shrunk[9, 0] = 0.0
    for rows, width, status in (
        (d[:, :0], 5, Status.TOO_FEW_REPLICAS),
        (d, 21, Status.TOO_FEW_ROWS),
        (broken, 15, Status.NON_FINITE),
        (shrunk, 15, Status.CONTRACTED),
    ):
        found = local_exponents(steps, rows, width)
        assert found.status is status
        assert not found.is_ok
        assert len(found.steps) == len(found.values) == 0
        assert found.spread is None
        assert len(found.message) > 20
    assert local_exponents(steps[:0], d[:0], 2).status is Status.TOO_FEW_ROWS


def test_inputs_stay_and_bad_calls_raise() -> None:
    steps, d = np.arange(80), curve()
    kept = d.copy()
    local_exponents(steps, d, 10)
    assert np.array_equal(d, kept)
    with pytest.raises(BadCall, match="width"):
        local_exponents(steps, d, 1)
    with pytest.raises(BadCall, match="shape"):
        local_exponents(steps[1:], d, 10)
    with pytest.raises(ValueError, match="exactly when"):
        LocalExponents(np.zeros(0), np.zeros(0), None, Status.OK, 1, 5)
