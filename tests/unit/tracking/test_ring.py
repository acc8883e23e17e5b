"""Shared slots: what one mapping writes, another sees."""

import numpy as np

from streamscalar.tracking.channel.ring import MOST_SLOTS, N_LARGE_SLOTS, N_SLOTS, Ring, n_slots_for
from streamscalar.types import Layer, Layout


def test_two_mappings_see_the_same_rows_and_numbers() -> None:
    layout = Layout((Layer("weight", 0, (7,)),), "float64", 1, has_control=False)
    ours = Ring.create(layout)
    theirs = Ring(ours.file, layout, N_SLOTS)
    for slot, row in enumerate(ours.rows):
        assert row.shape == (2, 7)
        row[...] = slot + np.arange(14).reshape(2, 7) / 16
    for slot, row in enumerate(theirs.rows):
        np.testing.assert_array_equal(row, slot + np.arange(14).reshape(2, 7) / 16)
    theirs.counts[Ring.DONE] += 3
    theirs.worker_s[Ring.OTHER] = 1.5
    assert ours.counts.tolist() == [3, 0, 0, 0]
    assert ours.worker_s.tolist() == [0.0, 1.5]
    ours.close()
    ours.close()


def test_large_rows_have_fewer_slots() -> None:
    found = {}
    for n_parameters in (10, 2**18, 2**22, 2**26):
        layout = Layout((Layer("weight", 0, (n_parameters,)),), "float32", 0, has_control=False)
        found[n_parameters] = n_slots_for(layout)
    assert found == {10: MOST_SLOTS, 2**18: 32, 2**22: N_SLOTS, 2**26: N_LARGE_SLOTS}
