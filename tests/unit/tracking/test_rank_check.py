"""The comparison of ranks by the worker of rank 0, on streams in a real store."""

from pathlib import Path

import numpy as np
import pytest

from streamscalar.config import RunSetting, load_config
from streamscalar.store import Store
from streamscalar.store.rank_streams import Description, RankWriter
from streamscalar.tracking.worker import rank_check
from streamscalar.tracking.worker.rank_check import RankCheck
from streamscalar.types import Layer, Layout


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with an empty run `a` and a child of it, `b`."""
    made = Store.create(tmp_path / "s", load_config({"task": {"name": "tracked"}}).identity(), {})
    layout = Layout((Layer("weight", 0, (3,)),), "float32", 0, has_control=False)
    for name, parent in (("a", None), ("b", ("a", 5))):
        made.add_run(
            name, setting=RunSetting(is_tracked=True), seed=0, layout=layout, n_rows=None, metrics=(), n_components=2,
            segment_rows=8, codec="lz4", parent=parent,
        )  # fmt: skip
    return made


def write(store: Store, session: str, hashes: list[list[int]]) -> None:
    """Write the session of a job: the hash of one tensor for each rank and step."""
    folder = store.path / "runs" / "a" / "ranks" / session
    folder.mkdir(parents=True)
    for rank, values in enumerate(hashes):
        writer = RankWriter(folder, rank)
        writer.describe(Description(rank, "host", (0, 1), {"weight": "parameter"}))
        for step, value in enumerate(values):
            writer.append(0, step, np.array([value]))
        writer.close()


def test_a_resumed_job_is_not_blamed_for_the_drift_of_an_earlier_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_check, "CHECK_EVERY_S", 0.0)
    said: list[tuple[str, str]] = []
    write(store, "1", [[1, 2], [1, 3]])
    first = RankCheck(store, lambda *words: said.append(words), is_new=True)
    first.open("a")
    assert not first.check("a")
    write(store, "2", [[4, 5], [4, 5]])
    assert not first.check("a")
    # Its finisher, and a worker that takes over, do not know when the job began.
    later = RankCheck(store, lambda *words: said.append(words), is_new=False)
    assert not later.check("a", is_over=True)
    assert (first.drifted, later.drifted, said) == ("", "", [])


def test_the_ranks_of_a_job_are_found_in_the_run_where_it_began(store: Store) -> None:
    write(store, "1", [[1, 2], [1, 3]])
    said: list[tuple[str, str]] = []
    check = RankCheck(store, lambda *words: said.append(words), is_new=False)
    assert check.check("b")
    assert not check.check("b", is_over=True)
    assert said == [("ranks drifted", check.drifted)]
    assert check.drifted.startswith("Rank 1 differs from rank 0 at step 1 in 1 of 1 tensors: parameter weight")


def test_a_rank_that_is_compared_with_none_is_said(store: Store) -> None:
    write(store, "1", [[1, 2, 3]])
    said: list[tuple[str, str]] = []
    alone = RankCheck(store, lambda *words: said.append(words), is_new=False)
    assert not alone.check("a")
    assert not said
    assert not alone.check("a", is_over=True)
    why = "the others have written nothing, or call step differently"
    assert said == [("ranks", f"rank 0 was compared with no other rank: {why}")]
