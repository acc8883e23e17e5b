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


def test_values_of_a_child_run_wait_until_the_worker_has_begun_it() -> None:
    layout = Layout((Layer("weight", 0, (7,)),), "float32", 0, has_control=False)
    ring = Ring.create(layout)
    ours, theirs = ring.values, Ring(ring.file, layout, N_SLOTS).values
    assert ours.put(1, "loss", 0, 1.0)
    assert len(theirs.waiting()[1]) == 0
    theirs.begin(1, n_before=5)
    ours.next_run()
    assert not ours.has_values_of_run
    assert ours.put(2, "\ud800", 1, 2.0)
    first, entries = theirs.waiting()
    assert (first, entries["value"].tolist(), theirs.series()) == (5, [1.0], (("loss", 0), ("\ud800", 1)))
    # A new worker begins with the first value that was not taken.
    again = Ring(ring.file, layout, N_SLOTS).values
    assert again.waiting()[1]["value"].tolist() == [1.0]
    again.take(1)
    assert len(again.waiting()[1]) == 0
    again.begin(2, n_before=0)
    first, entries = again.waiting()
    assert (first, entries["step"].tolist(), again.series()) == (0, [2], theirs.series())
    ring.close()


def test_a_name_that_finds_no_room_costs_its_own_values() -> None:
    layout = Layout((Layer("weight", 0, (7,)),), "float32", 0, has_control=False)
    ring = Ring.create(layout)
    size = 2 * ring.values.n_values
    assert ring.values.put(1, "a", 0, 1.0)
    assert not ring.values.put(1, "b" * size, 0, 1.0)
    assert ring.values.put(1, "c", 0, 1.0)
    assert (ring.values.n_dropped, ring.values.series()) == (1, (("a", 0), ("c", 0)))
    ring.close()
