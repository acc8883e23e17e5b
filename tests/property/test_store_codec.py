"""The delta codec is a bijection on bit patterns, and equals the oracle number by number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamscalar.store.format.codec import UNSIGNED, decode, encode, from_ordered, ordered
from tests.oracles import replay

_SPECIAL = {
    "float32": [0, 1, 0x80000000, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFFFFFFF, 0x7F800001],
    "float64": [0, 1, 1 << 63, (1 << 63) + 1, 0x7FF0 << 48, 0xFFF0 << 48, (0x7FF8 << 48) + 1, (1 << 64) - 1],
}


def _patterns(dtype: str) -> st.SearchStrategy[list[int]]:
    bits = 32 if dtype == "float32" else 64
    one = st.integers(0, (1 << bits) - 1) | st.sampled_from(_SPECIAL[dtype])
    return st.lists(one, min_size=1, max_size=12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_every_bit_pattern_survives_and_deltas_equal_the_oracle(dtype: str, data: st.DataObject) -> None:
    patterns = data.draw(_patterns(dtype))
    rows = np.array(patterns, UNSIGNED[dtype]).view(dtype).reshape(-1, 1, 1)
    deltas = encode(rows, None)
    expected = [0] + [
        replay.delta(now, before, dtype) for before, now in zip(rows[:-1, 0, 0], rows[1:, 0, 0], strict=True)
    ]
    assert deltas.ravel().tolist() == expected
    decoded = from_ordered(decode(deltas, ordered(rows[0]), first_is_start=True), dtype)
    assert decoded.tobytes() == rows.tobytes()
    assert b"".join(replay.replay(rows[0, 0, 0], expected, dtype)) == rows.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_segments_chain_to_the_same_bits_wherever_they_are_cut(dtype: str, data: st.DataObject) -> None:
    rows = np.array(data.draw(_patterns(dtype)), UNSIGNED[dtype]).view(dtype).reshape(-1, 1, 1)
    cut = data.draw(st.integers(1, len(rows)))
    whole = encode(rows, None)
    parts = [encode(rows[:cut], None), encode(rows[cut:], rows[cut - 1])]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    head = decode(parts[0], ordered(rows[0]), first_is_start=True)
    if cut < len(rows):
        tail = decode(parts[1], head[-1], first_is_start=False)
        assert from_ordered(tail, dtype).tobytes() == rows[cut:].tobytes()


@given(st.floats(width=64), st.floats(width=64))
def test_order_is_preserved(a: float, b: float) -> None:
    if a < b:
        low, high = ordered(np.array([a, b])).view(np.int64)
        assert low < high
