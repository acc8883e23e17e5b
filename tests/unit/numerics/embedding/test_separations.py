"""Separations against double loops, and where floating point would lose them."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.separations import (
    increment_products,
    pair_distances,
    random_direction,
    separations,
)
from tests.oracles import naive


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separations_equal_double_loops(dtype: type) -> None:
    rng = np.random.default_rng(1)
    weights: NDArray[np.floating] = rng.standard_normal((4, 3, 57)).astype(dtype)
    direction = random_direction(57, rng)
    found = separations(weights, direction=direction)
    assert found.random is not None
    for row in range(4):
        for replica in range(3):
            a, b = weights[row, replica].astype(float), weights[row, 0].astype(float)
            np.testing.assert_allclose(found.l1[row, replica], naive.l1_distance(a, b), rtol=1e-14)
            np.testing.assert_allclose(found.rms[row, replica], naive.rms_distance(a, b), rtol=1e-14)
            along = float(direction @ (a - b)) / np.sqrt(57)
            np.testing.assert_allclose(found.random[row, replica], along, rtol=1e-10, atol=1e-15)


def test_tiny_separation_of_large_float32_weights_survives() -> None:
    base = np.float32(1.0)
    weights = np.full((1, 2, 1000), base)
    weights[0, 1, 3] = np.nextafter(base, np.float32(2.0))
    gap = float(weights[0, 1, 3]) - 1.0
    found = separations(weights)
    assert found.l1[0, 1] == gap
    np.testing.assert_allclose(found.rms[0, 1], gap / np.sqrt(1000), rtol=1e-15)


def test_bits_do_not_depend_on_the_cut_into_blocks() -> None:
    weights = np.random.default_rng(2).standard_normal((6, 3, 1001))
    whole = separations(weights)
    parts = [separations(weights[i : i + 1].copy()) for i in range(6)]
    assert np.array_equal(whole.l1, np.concatenate([part.l1 for part in parts]))
    assert np.array_equal(whole.rms, np.concatenate([part.rms for part in parts]))


def test_identical_replica_and_reference_are_exactly_zero() -> None:
    weights = np.random.default_rng(3).standard_normal((2, 3, 5))
    weights[:, 2] = weights[:, 1]
    found = separations(weights, reference=1)
    assert (found.l1[:, 1:] == 0.0).all()
    assert (found.rms[:, 1:] == 0.0).all()
    assert (found.l1[:, 0] > 0.0).all()


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_rms_stays_in_range_where_squares_do_not(scale: float) -> None:
    weights = np.zeros((1, 2, 2))
    weights[0, 1] = [3.0 * scale, 4.0 * scale]
    np.testing.assert_allclose(separations(weights).rms[0, 1], 5.0 * scale / np.sqrt(2.0), rtol=1e-14)


def test_non_finite_weights_give_non_finite_separations_and_no_warning() -> None:
    weights = np.zeros((1, 4, 3))
    weights[0, 1, 0] = np.inf
    weights[0, 2, 1] = np.nan
    found = separations(weights, direction=np.array([0.0, 1.0, 0.0]))
    assert found.l1[0, 1] == np.inf
    assert found.rms[0, 1] == np.inf
    assert np.isnan(found.l1[0, 2])
    assert np.isnan(found.rms[0, 2])
    assert found.l1[0, 3] == 0.0


def test_wrong_shapes_are_bad_calls() -> None:
    with pytest.raises(BadCall, match="weights"):
        separations(np.zeros((2, 3)))
    with pytest.raises(BadCall, match="direction"):
        separations(np.zeros((2, 3, 4)), direction=np.zeros(5))


def test_random_direction_is_a_reproducible_unit_vector() -> None:
    direction = random_direction(100, np.random.default_rng(7))
    np.testing.assert_allclose(np.linalg.norm(direction), 1.0, rtol=1e-14)
    assert np.array_equal(direction, random_direction(100, np.random.default_rng(7)))


def test_pairs_and_increments_equal_double_loops_however_the_rows_are_cut() -> None:
    weights = np.random.default_rng(5).standard_normal((6, 4, 31))
    found, moved = pair_distances(weights), increment_products(weights, None)
    pairs = [(j, k) for j in range(4) for k in range(j + 1, 4)]
    for row in range(6):
        for index, (j, k) in enumerate(pairs):
            assert found[row, index] == pytest.approx(naive.l1_distance(weights[row, j], weights[row, k]), rel=1e-14)
        for j in range(4):
            for k in range(4):
                a, b = (weights[row, x] - weights[max(row - 1, 0), x] for x in (j, k))
                assert moved[row, j, k] == pytest.approx(math.fsum(a * b) / 31, rel=1e-12, abs=1e-15)
    later = increment_products(weights[2:], weights[1])
    assert later.tobytes() == moved[2:].tobytes()
