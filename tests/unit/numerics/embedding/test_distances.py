"""Blockwise distances against one pair at a time."""

from typing import Any, Literal

import numpy as np
import pytest

from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.distances import CHUNK, Picked, distances, every_snapshot
from streamscalar.types import Layer
from tests.oracles.embeddings import ArraySource, distance_matrix

LAYERS = (Layer("0.weight", 0, (5, 6)), Layer("0.bias", 30, (1,)), Layer("1.weight", 31, (9,)))
FEW = Picked(np.array([3, 0, 5, 5]), np.array([2, 0, 1, 0]))


def weights(dtype: Any = np.float64) -> Any:
    return np.random.default_rng(0).standard_normal((6, 3, 40)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("width", [1, 7, 40])
@pytest.mark.parametrize("distance", ["rms", "l1"])
def test_equals_double_loops_however_blocks_are_cut(dtype: Any, width: int, distance: Literal["rms", "l1"]) -> None:
    values = weights(dtype)
    everything = every_snapshot(6, [0, 2])
    source = ArraySource(values, parameter_step=width)
    found = distances(source, everything, FEW, distance)
    expected = distance_matrix(values[everything], values[FEW], distance)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert source.n_reads == 1


@pytest.mark.parametrize("width", [1, 7, 40])
def test_layers_get_a_distance_each(width: int) -> None:
    values = weights()
    everything = every_snapshot(6, range(3))
    found = distances(ArraySource(values, parameter_step=width), everything, FEW, "layer", LAYERS)
    assert found.shape == (3, 18, 4)
    for layer, apart in zip(LAYERS, found, strict=True):
        part = values[:, :, layer.offset : layer.offset + layer.size]
        np.testing.assert_allclose(apart, distance_matrix(part[everything], part[FEW], "rms"), rtol=1e-14)


def test_many_parameters_are_cut_into_chunks() -> None:
    values = np.random.default_rng(1).standard_normal((2, 2, 2 * CHUNK + 3))
    everything = every_snapshot(2, range(2))
    found = distances(ArraySource(values, parameter_step=5000), everything, everything, "rms")
    expected = distance_matrix(values.reshape(4, -1), values.reshape(4, -1), "rms")
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("distance", ["rms", "l1"])
def test_a_square_is_symmetric_and_equals_its_parts(distance: Literal["rms", "l1"]) -> None:
    source = ArraySource(weights())
    everything = every_snapshot(6, range(3))
    square = distances(source, everything, everything, distance)
    assert np.array_equal(square, square.T)
    assert (np.diagonal(square) == 0.0).all()
    columns = FEW.rows * 3 + FEW.replicas
    np.testing.assert_allclose(square[:, columns], distances(source, everything, FEW, distance), rtol=1e-15)


def test_a_tiny_separation_survives_where_the_gram_form_loses_it() -> None:
    values = weights()
    values[:, 1] = values[:, 0] + 1e-12 * values[:, 2]
    values[:, 2] = values[:, 0]
    rows = np.arange(6)
    here, there = Picked(rows, np.full(6, 1)), Picked(rows, np.zeros(6, dtype=np.intp))
    found = np.diagonal(distances(ArraySource(values), here, there, "rms"))
    expected = [distance_matrix(values[t, 1:2], values[t, :1], "rms")[0, 0] for t in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert (found < 3e-12).all()
    twins = Picked(rows, np.full(6, 2))
    assert (np.diagonal(distances(ArraySource(values), twins, there, "rms")) == 0.0).all()
    a, b = values[0, 1], values[0, 0]
    gram_form = float(a @ a + b @ b - 2.0 * a @ b) / 40
    assert abs(gram_form - found[0] ** 2) > 0.5 * found[0] ** 2


@pytest.mark.parametrize("distance", ["rms", "l1"])
def test_neither_overflow_nor_underflow_across_blocks_of_any_size(distance: Literal["rms", "l1"]) -> None:
    values = weights()
    everything = every_snapshot(6, range(3))
    expected = distance_matrix(values[everything], values[everything], distance)
    for factor in (1e300 / float(np.abs(values).max()), 1e-300):
        found = distances(ArraySource(values * factor), everything, everything, distance)
        np.testing.assert_allclose(found / factor, expected, rtol=1e-12)
    values[:, :, :20] *= 1e-9
    values[:, :, 34:] *= 1e6
    expected = distance_matrix(values[everything], values[FEW], distance)
    np.testing.assert_allclose(distances(ArraySource(values), everything, FEW, distance), expected, rtol=1e-13)


def test_snapshots_that_are_not_finite_have_no_distance() -> None:
    values = weights()
    clean = distances(ArraySource(values), every_snapshot(6, range(3)), FEW, "rms")
    values[3, 2, 39] = np.nan
    values[1, 1, 0] = np.inf
    found = distances(ArraySource(values), every_snapshot(6, range(3)), FEW, "rms")
    assert np.isnan(found[3 * 3 + 2]).all()
    assert np.isnan(found[1 * 3 + 1]).all()
    assert np.isnan(found[:, 0]).all()
    rest = np.delete(np.arange(18), [11, 4])
    np.testing.assert_allclose(found[rest, 1:], clean[rest, 1:], rtol=1e-15)
    square = distances(ArraySource(values), every_snapshot(6, range(3)), every_snapshot(6, range(3)), "l1")
    assert np.isnan(square[11]).all()
    assert np.isnan(square[:, 4]).all()
    assert np.isfinite(square[np.ix_(rest, rest)]).all()


def test_bad_calls() -> None:
    source = ArraySource(weights())
    everything = every_snapshot(6, range(3))
    with pytest.raises(BadCall, match=r"picked\.rows"):
        distances(source, every_snapshot(7, range(3)), FEW, "rms")
    with pytest.raises(BadCall, match=r"landmarks\.replicas"):
        distances(source, everything, Picked(np.array([0]), np.array([-1])), "rms")
    with pytest.raises(BadCall, match=r"landmarks\.rows"):
        distances(source, everything, every_snapshot(0, range(3)), "rms")
    with pytest.raises(BadCall, match="as many rows"):
        distances(source, everything, Picked(np.array([0, 1]), np.array([0])), "rms")
    with pytest.raises(BadCall, match="layers"):
        distances(source, everything, FEW, "layer")
    with pytest.raises(BadCall, match=r"layers\.2"):
        distances(source, everything, FEW, "layer", [Layer("2", 30, (11,))])
