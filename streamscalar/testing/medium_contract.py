"""The part of the contract of a store that concerns its medium: files, stores, runs and requests."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.store import Store, place
from streamscalar.store.change_stamps import list_stamp
from streamscalar.testing import sample_run

Root = str | Path


class MediumContract:
    """Tests of files, stores, runs and requests; see `StoreContract`."""

    def make_root(self, tmp_path: Path) -> Root:
        """Return a new path or URL at each call, at which nothing lies; `tmp_path` is a local folder."""
        raise NotImplementedError

    @pytest.fixture
    def root(self, tmp_path: Path) -> Root:
        """Return a place for one store."""
        return self.make_root(tmp_path)

    @pytest.fixture
    def spool(self, tmp_path: Path) -> str:
        """Return a folder for write-ahead files of media that keep them on the writer's machine."""
        return str(tmp_path / "spool")

    @staticmethod
    def store(root: Root, rows: NDArray[Any], segment_rows: int = 8, codec: str = "zstd") -> Store:
        """Make a store with a run `r` for `rows`."""
        store = Store.create(root, {"a": 1}, {})
        shape = sample_run.layout(rows.shape[2], rows.shape[1], rows.dtype.name)
        sample_run.add(store, "r", shape, len(rows), segment_rows, codec)
        return store

    # Files of the medium.

    def test_files_are_listed_read_and_removed(self, root: Root) -> None:
        folder = place(root) / "files"
        medium = Store.create(root, {}, {}).medium
        assert medium.names(folder) == []
        assert medium.stamp(folder / "a") is None
        before = medium.entries_stamp(folder)
        for name in ("b", "a"):
            medium.create(folder / name, name.encode())
        assert medium.entries_stamp(folder) != before
        assert medium.names(folder) == ["a", "b"]
        assert medium.read_all(folder / name for name in ("b", "a")) == [b"b", b"a"]
        first = medium.stamp(folder / "a")
        medium.write(folder / "a", b"another content")
        second = medium.stamp(folder / "a")
        assert first is not None
        assert second is not None
        assert first[0] != second[0]
        assert second[1] >= first[1] - 1
        assert (folder / "a").read_bytes() == b"another content"
        medium.remove([folder / "a", folder / "never"])
        assert medium.names(folder) == ["b"]
        with pytest.raises(FileNotFoundError):
            medium.read_all([folder / "b", folder / "a"])

    # Stores.

    def test_a_store_is_made_once(self, root: Root) -> None:
        first = Store.create(root, {"a": 1}, {"of": "the first"})
        again = Store.create(root, {"a": 1}, {"of": "another"})
        assert again.provenance == {"of": "the first"}
        assert Store.open(first.url, writable=True).url == first.url
        with pytest.raises(BadCall, match="a: stored 1, asked 2") as refused:
            Store.create(root, {"a": 2}, {})
        assert refused.value.kind is Kind.STORE_OTHER_CONFIG

    def test_other_content_is_refused(self, root: Root) -> None:
        there = Store.create(root, {}, {}).place / "deeper"
        medium = Store.open(root).medium
        assert medium.is_there(there) is False
        assert medium.is_empty(there) is True
        medium.create(there / "something", b"else")
        assert (medium.is_there(there), medium.is_empty(there)) == (True, False)
        with pytest.raises(BadCall, match="is not a streamscalar store, and not empty") as refused:
            Store.create(str(there), {}, {})
        assert refused.value.kind is Kind.STORE_MISSING
        with pytest.raises(BadCall, match="is not a streamscalar store"):
            Store.open(str(there))

    def test_stores_are_found_below(self, root: Root) -> None:
        outer = place(root)
        made = [Store.create(str(outer / name), {}, {}) for name in ("b", "a")]
        medium = made[0].medium
        medium.create(outer / "c" / "no-store", b"")
        assert medium.stores_below(outer) == [outer / "a", outer / "b"]

    def test_racing_writers_make_one_run_and_one_order(self, root: Root) -> None:
        rows = sample_run.trajectory(24, (3, 13))
        store = self.store(root, rows)
        before = list_stamp(store.place)

        def add(names: str) -> None:
            own = Store.open(root)
            for name in names:
                sample_run.add(own, name, sample_run.layout(), 24, 8)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add, ("abcd", "dcer")))
        listed = store.run_ids()
        assert (listed[0], sorted(listed)) == ("r", ["a", "b", "c", "d", "e", "r"])
        assert store.reader("d").n_rows == 0
        assert list_stamp(store.place) != before

    def test_a_run_of_another_definition_is_refused(self, root: Root) -> None:
        store = self.store(root, sample_run.trajectory(24, (3, 13)))
        with pytest.raises(BadCall, match="n_planned: stored 24, asked 25"):
            sample_run.add(store, "r", sample_run.layout(), 25, 8)
        # A name must not lead out of the store.
        with pytest.raises(BadCall, match="must be letters"):
            sample_run.add(store, "../r", sample_run.layout(), 24, 8)
        with pytest.raises(BadCall, match="must be a run of"):
            store.reader("./r")

    def test_requests_and_status_reach_other_processes(self, root: Root) -> None:
        store = self.store(root, sample_run.trajectory(24, (3, 13)))
        known: set[str] = set()
        assert store.requests(known) == []
        for run in ("r", "q"):
            store.request({"kind": "cancel", "run_id": run})
        assert [request["run_id"] for request in Store.open(root).requests(known)] == ["r", "q"]
        assert store.requests(known) == []
        assert store.status("r") == {}
        store.set_status("r", phase="training")
        store.set_status("r", phase="done", attempts=2)
        assert store.status("r") == {"phase": "done", "attempts": 2}
