"""Tangent exponents: against systems whose exponents are known, and the stream against plain sums."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall
from streamscalar.numerics.exponents.tangent import TangentGrowth, tangent_exponents
from streamscalar.types import Estimate, Status
from tests.oracles import exponents as oracle
from tests.oracles import maps

Floats = NDArray[np.float64]


def series(n_rows: int, n_vectors: int = 3, seed: int = 1) -> tuple[NDArray[np.int64], Floats]:
    """Return uneven steps and a noisy growth series."""
    rng = np.random.default_rng(seed)
    growth = rng.standard_normal((n_rows, n_vectors)) + np.linspace(0.5, -1.0, n_vectors)
    growth[:1] = 0.0
    return np.cumsum(rng.integers(1, 4, n_rows)), growth


def covers(found: Estimate, known: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= known <= found.high


def width(found: Estimate) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


@pytest.mark.parametrize("burn_in", [None, 0, 5, 40])
def test_stream_equals_plain_sums_on_every_prefix(burn_in: int | None) -> None:
    steps, growth = series(300)
    stream = TangentGrowth(3, burn_in)
    for n_rows in range(1, 301):
        stream.update(steps[n_rows - 1 : n_rows], growth[n_rows - 1 : n_rows])
        found = stream.estimates()
        assert found == tangent_exponents(steps[:n_rows], growth[:n_rows], burn_in)
        n_behind = n_rows - 1 - (burn_in or 0)
        if n_behind < (8 if burn_in is None else 1):
            assert {estimate.status for estimate in found} == {Status.TOO_FEW_ROWS}
            continue
        values, rates, batch = oracle.tangent_rates(steps[:n_rows], growth[:n_rows], burn_in)
        for estimate, value, own in zip(found, values, rates, strict=True):
            assert estimate.value == pytest.approx(value, abs=1e-12)
            assert (estimate.low is not None) == (batch >= 4)
            if estimate.low is not None:
                assert estimate.n == len(own)
                half = {6: 2.4469119, 7: 2.3646243, 8: 2.3060041, 9: 2.2621572, 10: 2.2281389, 11: 2.2009852}
                if len(own) - 1 in half:
                    error = np.std(own, ddof=1) / math.sqrt(len(own))
                    assert value - estimate.low == pytest.approx(half[len(own) - 1] * error, rel=1e-7)
            else:
                assert estimate.n == 1
                assert "No interval" in estimate.message


def test_batches_number_seven_to_fifteen_and_burn_in_at_most_an_eighth() -> None:
    steps, growth = series(3000, 1)
    for n_rows in range(33, 3001, 7):
        own = tangent_exponents(steps[:n_rows], growth[:n_rows])[0]
        given = tangent_exponents(steps[:n_rows], growth[:n_rows], 0)[0]
        assert 7 <= own.n <= 14
        assert 8 <= given.n <= 15
        assert own.window is not None
        left_out = int(np.searchsorted(steps, own.window[0]))
        assert (n_rows - 1) / 16 < left_out <= (n_rows - 1) / 8
        assert own.window[1] == steps[n_rows - 1]
        assert given.window == (steps[0], steps[n_rows - 1])


@pytest.mark.parametrize("burn_in", [None, 37])
def test_bits_do_not_depend_on_the_cut_into_blocks(burn_in: int | None) -> None:
    steps, growth = series(1000)
    whole = TangentGrowth(3, burn_in)
    whole.update(steps, growth)
    rng = np.random.default_rng(4)
    for _ in range(30):
        cuts = np.sort(rng.integers(0, 1001, rng.integers(1, 40)))
        stream = TangentGrowth(3, burn_in)
        for part_steps, part in zip(np.split(steps, cuts), np.split(growth, cuts), strict=True):
            stream.update(part_steps, part)
            stream = TangentGrowth.from_snapshot(stream.snapshot())
        expected = whole.snapshot()
        for name, value in stream.snapshot().items():
            assert value.tobytes() == expected[name].tobytes(), name
        assert stream.estimates() == whole.estimates()


def test_memory_does_not_grow_and_a_snapshot_is_a_copy() -> None:
    steps, growth = series(20_000, 2)
    stream = TangentGrowth(2, confidence=0.8)
    for part_steps, part in zip(np.array_split(steps, 200), np.array_split(growth, 200), strict=True):
        stream.update(part_steps, part)
        assert len(stream.snapshot()["mark_steps"]) <= 16
    state, before = stream.snapshot(), stream.estimates()
    restarted = TangentGrowth.from_snapshot(state)
    for value in state.values():
        value[...] = 0
    assert stream.estimates() == restarted.estimates() == before


def test_inputs_are_neither_changed_nor_kept() -> None:
    steps, growth = series(100)
    kept = growth.copy()
    stream = TangentGrowth(3)
    stream.update(steps, growth)
    before = stream.estimates()
    assert np.array_equal(growth, kept)
    growth[:] = 7.0
    assert stream.estimates() == before


@pytest.mark.parametrize("learning_rate", [0.5, 1.2, 3.0])
def test_gradient_descent_on_a_quadratic_gives_every_exponent(learning_rate: float) -> None:
    curvatures = np.array([2.2, 1.0, 0.3, 3.1, 0.05, 1.6])
    factors = 1.0 - learning_rate * curvatures
    expected = np.sort(np.log(np.abs(factors)))[::-1]
    vectors = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0]
    # The derivative is the same everywhere, so the weights may stay in the minimum, where they cannot overflow.
    growth = oracle.tangent_growth(lambda w: (w, lambda v: factors[:, None] * v), np.zeros(6), vectors, 1500)
    found = tangent_exponents(np.arange(1500), growth, burn_in=600)
    values = np.array([estimate.value for estimate in found], dtype=np.float64)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert (np.diff(values) < 0.0).all()
    assert max(width(estimate) for estimate in found) < 1e-5


def test_logistic_map_gives_ln_two() -> None:
    growth = oracle.tangent_growth(oracle.logistic, np.array([0.3]), np.eye(1), 4000)
    found = tangent_exponents(np.arange(4000), growth)[0]
    assert covers(found, maps.LOGISTIC)
    assert width(found) < 0.1 * maps.LOGISTIC
    assert found.value == pytest.approx(maps.LOGISTIC, rel=0.01)


def test_henon_map_gives_both_exponents_also_in_a_thousand_dimensions() -> None:
    start = np.array([0.1, 0.1])
    growth = oracle.tangent_growth(oracle.henon, start, np.eye(2), 6000)
    leading, second = tangent_exponents(np.arange(6000), growth)
    assert covers(leading, maps.HENON)
    assert covers(second, oracle.HENON_SECOND)
    assert width(leading) < 0.1 * maps.HENON
    assert (leading.value or 0.0) + (second.value or 0.0) == pytest.approx(math.log(0.3), abs=1e-12)
    columns = np.linalg.qr(np.random.default_rng(5).standard_normal((1000, 2)))[0]
    high = oracle.tangent_growth(oracle.lifted(oracle.henon, columns), start, columns, 6000)
    for found, flat in zip(tangent_exponents(np.arange(6000), high), (leading, second), strict=True):
        assert (found.value, found.low, found.high) == pytest.approx((flat.value, flat.low, flat.high), abs=1e-9)


def test_lorenz_system_gives_its_exponent_per_time_unit() -> None:
    dt = 0.01
    state = np.array([1.0, 1.0, 20.0])
    growth = oracle.tangent_growth(oracle.lorenz, state, np.eye(3)[:, :1], 10_000, steps_per_row=5)
    found = tangent_exponents(5 * np.arange(10_000), growth)[0]
    assert found.low is not None
    assert found.high is not None
    assert found.low / dt <= oracle.LORENZ <= found.high / dt
    assert width(found) / dt < 0.1 * oracle.LORENZ


def test_interval_covers_the_mean_of_independent_rows() -> None:
    n_hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        growth = 0.2 + rng.standard_normal((201, 1))
        growth[0] = 0.0
        n_hits += covers(tangent_exponents(np.arange(201), growth)[0], 0.2)
    assert 0.92 <= n_hits / 300 <= 0.98


def test_a_vector_that_is_not_finite_spoils_those_behind_it_only() -> None:
    steps, growth = series(100)
    growth[60, 1] = -np.inf
    growth[30, 2] = np.nan
    first, second, third = tangent_exponents(steps, growth)
    assert first.is_ok
    assert second.status is Status.NON_FINITE
    assert second.message.startswith("First at row 60, in vector 1.")
    assert third.message.startswith("First at row 30, in vector 2.")
    growth[30, 2] = 0.0
    third = tangent_exponents(steps, growth)[2]
    assert third.message.startswith("First at row 60, in vector 1, to which vector 2 is made orthogonal.")
    growth[60, 1], growth[0, 0] = 0.0, np.nan
    assert {found.status for found in tangent_exponents(steps, growth)} == {Status.NON_FINITE}


def test_first_row_that_is_not_finite_is_named_whatever_follows() -> None:
    steps, growth = series(100)
    growth[[40, 70], 0] = np.inf
    stream = TangentGrowth(3)
    for part_steps, part in zip(np.split(steps, 4), np.split(growth, 4), strict=True):
        stream.update(part_steps, part)
    assert stream.estimates()[0].message.startswith("First at row 40, in vector 0.")


def test_nothing_stretched_is_constant_and_even_growth_is_a_rate() -> None:
    steps = np.arange(100)
    found = tangent_exponents(steps, np.zeros((100, 2)))
    assert {estimate.status for estimate in found} == {Status.CONSTANT}
    even = np.tile([math.log(0.9), 0.0], (100, 1))
    even[0] = 0.0
    shrinking, neutral = tangent_exponents(steps, even)
    assert shrinking.value == pytest.approx(math.log(0.9), rel=1e-13)
    assert width(shrinking) < 1e-13
    assert (neutral.value, neutral.low, neutral.high) == (0.0, 0.0, 0.0)


def test_bad_calls() -> None:
    steps, growth = series(100)
    with pytest.raises(BadCall, match="row 0"):
        tangent_exponents(steps, growth + 1.0)
    with pytest.raises(BadCall, match="steps: must rise"):
        tangent_exponents(steps[::-1], growth)
    with pytest.raises(BadCall, match="shape"):
        tangent_exponents(steps[1:], growth)
    with pytest.raises(BadCall, match="n_vectors"):
        tangent_exponents(steps, growth[:, :0])
    with pytest.raises(BadCall, match="burn_in"):
        tangent_exponents(steps, growth, -1)
    with pytest.raises(BadCall, match="confidence"):
        tangent_exponents(steps, growth, None, 95.0)
    stream = TangentGrowth(3)
    stream.update(steps, growth)
    stream.update(steps[:0], growth[:0])
    with pytest.raises(BadCall, match="rise, from above"):
        stream.update(steps[-1:], growth[-1:])
    with pytest.raises(BadCall, match="3 columns"):
        stream.update(steps[-1:] + 1, growth[-1:, :2])
