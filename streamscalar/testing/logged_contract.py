"""The contract of the logged values of a run: what holds on every medium."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from streamscalar.errors import Fenced, WorkFailed
from streamscalar.missing import is_missing
from streamscalar.store import run_digest, verify
from streamscalar.store.change_stamps import run_stamp
from streamscalar.store.logged.log import Entries, Series
from streamscalar.store.logged.reader import by_step
from streamscalar.store.schema import LOGGED_CHUNK
from streamscalar.testing import sample_run
from streamscalar.testing.medium_contract import MediumContract, Root

NAMES = ("val/loss", "", "训练", "zarr.json", "\ud800", "x" * 300, "../up", "loss")


def values(first: int, stop: int, names: tuple[str, ...] = NAMES) -> Entries:
    """Return entries that are a function of their index: one series after the other, of two replicas."""
    series = tuple((name, replica) for name in names for replica in (0, 1))
    index = np.arange(first, stop)
    return Entries(series, index // 4, (index % len(series)).astype(np.int32), np.sqrt(index))


def _series(entries: Entries) -> list[Series]:
    return [entries.series[index] for index in entries.which.tolist()]


class LoggedContract(MediumContract):
    """Tests of logged values; see `StoreContract`, of which this is a part."""

    shows_log: bool = True

    def test_logged_values_survive_in_every_state_of_a_run(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(20, (3, 13))
        store = self.store(root, rows)
        reader = store.reader("r")
        before = run_digest(reader)
        assert len(reader.logged.entries()) == 0
        assert reader.metric_names == ("loss",)
        stop = 0
        with store.weights_writer("r", spool=spool) as writer:
            for n, names in ((3, NAMES[:1]), (40, NAMES), (LOGGED_CHUNK - 60, NAMES), (3 * LOGGED_CHUNK, NAMES)):
                # The same ones again are skipped, as after an answer that was lost.
                for _ in range(2):
                    writer.log(stop, values(stop, stop + n, names))
                stop += n
                assert writer.n_logged == stop
                if self.shows_log:
                    assert len(reader.logged.entries()) == stop
            if self.shows_log:
                # Series of which the caller gave no value are none of the run.
                assert len(reader.logged.entries().series) == 2 * len(NAMES)
            with pytest.raises(WorkFailed, match=f"needs entry {stop} next"):
                writer.log(stop + 1, values(0, 1))
            sample_run.write(writer, rows)
        reader = pickle.loads(pickle.dumps(reader))
        with store.weights_writer("r", spool=spool) as writer:
            assert writer.n_logged == stop
            assert len(reader.logged.entries()) == (stop if self.shows_log else stop // LOGGED_CHUNK * LOGGED_CHUNK)
            writer.log(stop, values(stop, stop + 5))
            writer.finish()
            with pytest.raises(WorkFailed, match="is complete"):
                writer.log(stop + 5, values(0, 1))
        found = reader.logged.entries()
        expected = [values(0, 3, NAMES[:1]), values(3, stop + 5)]
        assert _series(found) == [*_series(expected[0]), *_series(expected[1])]
        np.testing.assert_array_equal(found.steps, np.arange(stop + 5) // 4)
        np.testing.assert_array_equal(found.values, np.sqrt(np.arange(stop + 5)))
        assert set(reader.metric_names) == set(NAMES)
        assert list(verify(store)) == []
        assert run_digest(store.reader("r")) != before

    def test_a_change_of_any_byte_of_logged_values_is_found(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(3, (3, 13))
        store = self.store(root, rows)
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows)
            writer.log(0, values(0, 50))
            writer.finish()
        folder = store.place / "runs" / "r" / "logged"
        for name in ("zarr.json", "steps/c.0", "series/c.0", "values/c.0"):
            part, *rest = name.split("/")
            path = folder / part / rest[0] if rest else folder / part
            whole = path.read_bytes()
            place = whole.index(b"val/") if part == "zarr.json" else len(whole) // 3
            store.medium.write(path, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert [finding.what for finding in verify(store)] == ["logged"], name
            store.medium.write(path, whole)
        assert list(verify(store)) == []

    def test_an_older_attempt_logs_nothing(self, root: Root, spool: str) -> None:
        store = self.store(root, sample_run.trajectory(3, (3, 13)))
        old = store.weights_writer("r", spool=spool)
        old.log(0, values(0, 5))
        with store.weights_writer("r", spool=spool) as new:
            with pytest.raises(Fenced, match="attempt 1 must not write any more"):
                old.log(5, values(5, 9))
            new.log(5, values(5, 7))
            new.finish()
        old.close()
        assert store.reader("r").logged.entries().values.tolist() == np.sqrt(np.arange(7)).tolist()

    def test_rows_have_the_newest_value_since_the_row_before(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(4, (3, 13))
        store = self.store(root, rows)
        run = store.place / "runs" / "r"
        numbers = np.array([1, 2, 3, 4, 5, np.nan])
        columns = np.array([9, 10, 21, 20, 20, 1]), np.array([0, 0, 0, 0, 0, 1], np.int32), numbers
        with store.weights_writer("r", spool=spool) as writer:
            before = run_stamp(run, is_complete=False)[0]
            writer.log(0, Entries((("val", 0), ("nan", 0)), *columns))
            assert (run_stamp(run, is_complete=False)[0] != before) is self.shows_log
            sample_run.write(writer, rows)
            writer.finish()
        reader = store.reader("r")
        # Rows are at steps 0, 10, 20 and 30.
        val, nan = reader.metrics("val")[:, 0], reader.metrics("nan")[:, 0]
        assert is_missing(val).tolist() == [True, False, False, False]
        assert val[1:].tolist() == [2.0, 5.0, 3.0]
        assert is_missing(nan).tolist() == [True, False, True, True]
        assert is_missing(reader.metrics("val")[:, 1:]).all()
        steps, logged, n_moved = by_step(reader.logged.entries(), "val", 3)
        assert (steps.tolist(), logged[:, 0].tolist(), n_moved) == ([9, 10, 20, 21], [1.0, 2.0, 5.0, 3.0], 2)

    def test_a_torn_frame_of_the_log_is_left_out_and_written_over(self, tmp_path: Path, spool: str) -> None:
        store = self.store(self.make_root(tmp_path), sample_run.trajectory(3, (3, 13)))
        with store.weights_writer("r", spool=spool) as writer:
            writer.log(0, values(0, 5))
            writer.log(5, values(5, 9))
            (log,) = writer._stream.log.glob("*.values")
        log.write_bytes(log.read_bytes()[:-3])
        with store.weights_writer("r", spool=spool) as writer:
            assert writer.n_logged == 5
            writer.log(5, values(100, 102))
        with store.weights_writer("r", spool=spool) as writer:
            assert writer.n_logged == 7
            writer.finish()
        assert store.reader("r").logged.entries().values[5:].tolist() == np.sqrt([100, 101]).tolist()
