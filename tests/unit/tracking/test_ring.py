"""Shared slots: what one mapping writes, another sees."""

import numpy as np

from streamscalar.tracking.ring import N_LARGE_SLOTS, N_SLOTS, Ring, n_slots_for
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
    small = Layout((Layer("weight", 0, (2**20,)),), "float32", 0, has_control=False)
    large = Layout((Layer("weight", 0, (2**26,)),), "float32", 0, has_control=False)
    assert (n_slots_for(small), n_slots_for(large)) == (N_SLOTS, N_LARGE_SLOTS) == (4, 2)
