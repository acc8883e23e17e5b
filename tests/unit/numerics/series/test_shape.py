"""The shape of a scalar trajectory."""

from itertools import pairwise

import numpy as np
import pytest

from streamscalar.numerics.series.shape import shape


def test_a_line_has_speed_one_no_curvature_and_moves_alike() -> None:
    found = shape(np.linspace(3.0, 9.0, 50))
    assert found is not None
    assert found.speed == pytest.approx(1.0)
    assert found.curvature == pytest.approx(0.0, abs=1e-12)
    assert found.autocorrelation == pytest.approx(1.0)


def test_origin_unit_and_sign_do_not_count() -> None:
    curve = np.cumsum(np.random.default_rng(0).standard_normal(200))
    first, second = shape(curve), shape(-3e-7 * curve + 5e-7)
    assert first is not None
    assert second is not None
    assert second.speed == pytest.approx(first.speed)
    assert second.curvature == pytest.approx(first.curvature)
    assert second.autocorrelation == pytest.approx(first.autocorrelation)


def test_independent_moves_are_not_correlated() -> None:
    found = shape(np.cumsum(np.random.default_rng(1).standard_normal(4000)))
    assert found is not None
    assert abs(found.autocorrelation) < 0.05


def test_a_slow_oracle_agrees() -> None:
    curve = np.random.default_rng(2).standard_normal(30)
    moves = [float(b - a) for a, b in pairwise(curve)]
    found = shape(curve)
    assert found is not None
    assert found.speed == pytest.approx(sum(abs(move) for move in moves) / (max(curve) - min(curve)))
    turns = sorted(abs(b - a) for a, b in pairwise(moves))
    sizes = sorted(abs(move) for move in moves)
    assert found.curvature == pytest.approx((turns[13] + turns[14]) / 2 / sizes[14])


@pytest.mark.parametrize(
    "curve",
    [np.zeros(0), np.arange(7.0), np.full(20, 4.0), np.array([np.nan, *range(20)]), np.array([1e308, -1e308] * 9)],
)
def test_what_has_no_shape_says_so(curve: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        assert shape(curve) is None


def test_rows_after_a_broken_one_do_not_count() -> None:
    line = np.linspace(0.0, 1.0, 20)
    assert shape(np.concatenate([line, [np.inf], line[::-1]])) == shape(line)
