"""Points of a sampled series never move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamscalar_services.api.query.sampling import Cursor, sample


@given(st.integers(0, 3000), st.integers(1, 400))
def test_points_are_bounded_evenly_spaced_and_end_at_the_newest_row(n_rows: int, max_points: int) -> None:
    found = sample(0, n_rows, max_points)
    rows = found.rows.tolist()
    assert len(rows) <= max_points + 1
    regular = [row for row in rows if row % found.cursor.stride == 0]
    assert regular == list(range(0, n_rows, found.cursor.stride))
    assert not n_rows or rows[-1] == n_rows - 1
    assert found.cursor.stride & (found.cursor.stride - 1) == 0


@given(st.integers(1, 500), st.integers(0, 500), st.integers(1, 100))
def test_a_longer_series_keeps_its_points_or_every_second_one(n_rows: int, more: int, max_points: int) -> None:
    before, after = sample(0, n_rows, max_points), sample(0, n_rows + more, max_points)
    kept = {row for row in before.rows.tolist() if row % after.cursor.stride == 0}
    assert kept <= set(after.rows.tolist())


@given(st.lists(st.integers(0, 90), min_size=1, max_size=12), st.integers(1, 64))
def test_increments_by_cursor_build_the_same_series_as_asking_for_all(growth: list[int], max_points: int) -> None:
    held: list[int] = []
    cursor: Cursor | None = None
    n_rows = 0
    for more in growth:
        n_rows += more
        answer = sample(0, n_rows, max_points, cursor=cursor)
        if answer.is_reset or cursor is None:
            held = []
        if len(answer.rows):
            held = [row for row in held if row < answer.rows[0]]
        held += answer.rows.tolist()
        cursor = answer.cursor
        assert held == sample(0, n_rows, max_points).rows.tolist()


def test_a_change_of_basis_resets() -> None:
    first = sample(0, 100, 1000, basis="3")
    assert not sample(0, 110, 1000, basis="3", cursor=first.cursor).is_reset
    assert sample(0, 110, 1000, basis="4", cursor=first.cursor).is_reset


def test_a_run_that_lost_rows_resets() -> None:
    assert sample(0, 10, 1000, cursor=Cursor("-", 1, 99)).is_reset


@pytest.mark.parametrize("text", ["", "1.2", "-.0.3", "-.4.-1", "-.x.3", "a.b.c.d"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Cursor.parse(text)


def test_a_cursor_survives_its_text() -> None:
    cursor = Cursor("exact", 8, 4096)
    assert Cursor.parse(str(cursor)) == cursor
