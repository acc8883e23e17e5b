"""The contract of a store as a pytest suite: what holds on every medium."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Fenced, Kind, WorkFailed
from streamscalar.store import run_digest, verify
from streamscalar.store.change_stamps import n_attempts, run_stamp, segment_written_at
from streamscalar.store.format.codec import encode
from streamscalar.testing import sample_run
from streamscalar.testing.logged_contract import LoggedContract
from streamscalar.testing.medium_contract import Root


class StoreContract(LoggedContract):
    """Tests that every medium of a store passes.

    Subclass it under a name that begins with `Test`, and override `make_root`; pytest then collects all tests. Faults
    of one medium, such as a full disk or a lost response, belong in tests of that medium.

    Attributes
    ----------
    shows_log
        Whether readers see rows that are acknowledged but not sealed yet; otherwise they see whole segments.

    Examples
    --------
    ::

        class TestScratchDisk(StoreContract):
            def make_root(self, tmp_path: Path) -> Root:
                return Path(tempfile.mkdtemp(dir="/scratch")) / "store"
    """

    shows_log: bool = True

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("codec", ["zstd", "lz4"])
    def test_bits_survive_in_every_state_of_a_run(self, root: Root, spool: str, dtype: str, codec: str) -> None:
        rows = sample_run.trajectory(77, (3, 13), dtype)
        store = self.store(root, rows, codec=codec)
        reader = store.reader("r")
        taken: list[tuple[int, NDArray[Any]]] = []
        with store.weights_writer("r", spool=spool) as writer:
            for row in range(len(rows)):
                writer.append(row, 10 * row, rows[row], sample_run.metrics(row, 3), sample_run.state(row))
                taken += writer.take_published()
                assert writer.n_durable == row + 1
                if row in {0, 7, 8, 20}:
                    n_rows = reader.n_rows
                    assert n_rows == row + 1 if self.shows_log else n_rows in (row + 1) // 8 * 8 - np.array([0, 8])
                    assert reader.weights(0, n_rows).tobytes() == rows[:n_rows].tobytes()
            writer.finish()
            taken += writer.take_published()
        # Each published block once, in order, bit for bit; nothing may change the rows that the writer holds.
        assert [first for first, _ in taken] == list(range(0, 77, 8))
        assert b"".join(block.tobytes() for _, block in taken) == rows.tobytes()
        assert not any(block.flags.writeable for _, block in taken)
        assert (reader.n_rows, reader.n_published, reader.is_complete) == (77, 77, True)
        assert reader.weights().tobytes() == rows.tobytes()
        assert reader.weights(13, 70, slice(2, 9)).tobytes() == rows[13:70, :, 2:9].tobytes()
        assert reader.steps().tolist() == list(range(0, 770, 10))
        expected = np.stack([sample_run.metrics(row, 3)["loss"] for row in range(77)])
        np.testing.assert_array_equal(reader.metrics("loss"), expected)
        assert list(verify(store)) == []

    def test_every_way_of_reading_agrees_before_the_end(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(77, (3, 13))
        store = self.store(root, rows)
        reader = store.reader("r")
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows)
        n = 77 if self.shows_log else 72
        assert (reader.n_published, reader.n_rows, reader.is_complete) == (72, n, False)
        assert np.concatenate([block for _, block in reader.blocks()]).tobytes() == rows[:n].tobytes()
        assert [first for first, _ in reader.blocks(11, 71)] == [11, 16, 24, 32, 40, 48, 56, 64]
        columns = list(reader.parameter_blocks(max_bytes=77 * 3 * 8 * 4))
        assert [block.shape[2] for _, block in columns] == [4, 4, 4, 1]
        assert np.concatenate([block for _, block in columns], axis=2).tobytes() == rows[:n].tobytes()
        assert reader.integer_deltas().tobytes() == encode(rows[:n], None).tobytes()
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(reader.deltas(n - 7, n - 2), rows[n - 7 : n - 2] - rows[n - 8 : n - 3])
        assert not reader.deltas(0, 1).any()
        newest = reader.newest()
        assert newest is not None
        assert (newest.n_rows, newest.step) == (n, 10 * (n - 1))

    def test_parameter_ranges_follow_the_chunks_of_a_wide_run(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(16, (1, 9001), "float32")
        store = self.store(root, rows, 64)
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows)
            writer.finish()
        reader = store.reader("r")
        chunk = 9001 * 16 * 4
        assert [offset for offset, _ in reader.parameter_blocks(chunk)] == [0]
        assert len(list(reader.parameter_blocks(chunk - 1))) > 1
        joined = np.concatenate([block for _, block in reader.parameter_blocks(chunk // 5)], axis=2)
        assert joined.tobytes() == rows.tobytes()

    @pytest.mark.parametrize("cut", [1, 9, 16, 64, 65, 70])
    def test_a_resumed_run_equals_an_uninterrupted_one(self, tmp_path: Path, spool: str, cut: int) -> None:
        rows = sample_run.trajectory(77, (3, 13))
        digests = []
        for stop, segment_rows in ((77, 8), (cut, 8), (cut, 16)):
            store = self.store(self.make_root(tmp_path), rows, segment_rows)
            with store.weights_writer("r", spool=spool) as writer:
                sample_run.write(writer, rows[:stop])
                if stop == 77:
                    writer.finish()
            if stop < 77:
                with store.weights_writer("r", "none", spool) as writer:
                    start = writer.last_keyframe()
                    assert writer.n_durable == cut
                    if start is not None:
                        assert start.weights.tobytes() == rows[start.row].tobytes()
                        assert start.step == 10 * start.row
                        np.testing.assert_equal(start.state, sample_run.state(start.row))
                    sample_run.write(writer, rows, start.row if start else 0)
                    writer.finish()
                assert n_attempts(store.place / "runs" / "r") == 2
            digests.append(run_digest(store.reader("r")))
        assert len(set(digests)) == 1

    def test_a_row_that_differs_is_refused_and_the_stored_one_kept(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(20, (3, 13))
        store = self.store(root, rows)
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows)
        for row in (2, 18):
            other = rows[row].copy()
            other.view(np.uint64)[1, 5] ^= 1
            loss = sample_run.metrics(row, 3)
            with store.weights_writer("r", spool=spool) as writer:
                writer.append(row, 10 * row, rows[row], loss)
                for weights, step, values in (
                    (other, 10 * row, loss),
                    (rows[row], 10 * row + 1, loss),
                    (rows[row], 10 * row, {"loss": loss["loss"] + 1}),
                ):
                    with pytest.raises(WorkFailed) as caught:
                        writer.append(row, step, weights, values)
                    assert caught.value.kind is Kind.NOT_REPRODUCIBLE
                with pytest.raises(WorkFailed, match="needs row 20 next"):
                    writer.append(21, 210, rows[3], loss)
        with store.weights_writer("r", spool=spool) as writer:
            writer.finish()
        assert store.reader("r").weights().tobytes() == rows.tobytes()

    def test_a_newer_attempt_locks_the_older_one_out(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(20, (3, 13))
        store = self.store(root, rows)
        old = store.weights_writer("r", spool=spool)
        sample_run.write(old, rows[:7])
        with store.weights_writer("r", spool=spool) as new:
            assert (old.attempt, new.attempt, new.n_durable) == (1, 2, 7)
            stopped = "attempt 1 must not write any more; got attempt 2 owns the stream"
            with pytest.raises(Fenced, match=stopped) as caught:
                old.append(7, 70, rows[7], sample_run.metrics(7, 3))
            assert caught.value.kind is Kind.FENCED
            with pytest.raises(Fenced, match=stopped):
                old.finish()
            sample_run.write(new, rows, 7)
            new.finish()
        old.close()
        assert store.reader("r").weights().tobytes() == rows.tobytes()

    def test_wrong_shapes_names_and_ranges_are_bad_calls(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(3, (3, 13))
        store = self.store(root, rows)
        with store.weights_writer("r", spool=spool) as writer:
            for weights, values in (
                (rows[0, :2], sample_run.metrics(0, 3)),
                (rows[0].astype("f4"), sample_run.metrics(0, 3)),
                (rows[0], {}),
                (rows[0], sample_run.metrics(0, 2)),
            ):
                with pytest.raises(BadCall):
                    writer.append(0, 0, weights, values)
            assert writer.n_durable == 0
            sample_run.write(writer, rows)
            writer.finish()
        reader = store.reader("r")
        for first, stop in ((-1, 2), (2, 1), (0, 4)):
            with pytest.raises(BadCall):
                reader.weights(first, stop)
        with pytest.raises(BadCall):
            reader.metrics("speed")

    def test_the_trainers_arrays_keep_their_form(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(65, (3, 13))
        store = self.store(root, rows)
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows[:64])
            for state in (None, {"momentum": np.zeros(2)}, {**sample_run.state(64), "more": np.zeros(1)}):
                with pytest.raises(BadCall, match="state"):
                    writer.append(64, 640, rows[64], sample_run.metrics(64, 3), state)
            assert writer.n_durable == 64
            writer.append(64, 640, rows[64], sample_run.metrics(64, 3), sample_run.state(64))

    def test_any_zarr_reader_opens_a_complete_run(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(20, (3, 13))
        store = self.store(root, rows)
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows)
            writer.finish()

        def opened(name: str) -> Any:
            return zarr.open_array(store.medium.zarr_path(store.place / "runs" / "r" / name), mode="r")

        np.testing.assert_array_equal(opened("weights/deltas")[:], store.reader("r").integer_deltas())
        np.testing.assert_array_equal(opened("weights/steps")[:], np.arange(0, 200, 10))
        np.testing.assert_array_equal(opened("weights/keyframes")[:], rows[:1])

    def test_files_that_the_length_does_not_cover_are_hidden(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(20, (3, 13))
        store = self.store(root, rows)
        commit = store.place / "runs" / "r" / "weights" / "zarr.json"
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows[:8])
        before = commit.read_bytes()
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows)
        # As after a crash between the files of the second segment and its length.
        store.medium.write(commit, before)
        reader = store.reader("r")
        assert reader.n_published == 8
        assert reader.weights(0, 8).tobytes() == rows[:8].tobytes()
        assert reader.weights().tobytes() == rows[: reader.n_rows].tobytes()

    def test_a_reader_can_be_pickled_and_stays_current(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(12, (3, 13))
        store = self.store(root, rows)
        run = store.place / "runs" / "r"
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows[:5])
            before = run_stamp(run, is_complete=False)[0]
            reader = pickle.loads(pickle.dumps(store.reader("r")))
            assert reader.n_rows == (5 if self.shows_log else 0)
            assert segment_written_at(run, 0) is None
            sample_run.write(writer, rows[:6], 5)
            assert (run_stamp(run, is_complete=False)[0] != before) is self.shows_log
            sample_run.write(writer, rows, 6)
            writer.finish()
            assert reader.weights().tobytes() == rows.tobytes()
        assert run_stamp(run, is_complete=False)[0] != before
        assert segment_written_at(run, 0) is not None

    # Embedding.

    def test_the_embedding_continues_from_its_restart_state(self, root: Root, spool: str) -> None:
        rows = sample_run.trajectory(24, (3, 13))
        store = self.store(root, rows)
        with store.weights_writer("r", spool=spool) as writer:
            sample_run.write(writer, rows)
            writer.finish()
        older = store.embedding_writer("r")
        for first in (0, 8):
            sample_run.publish(older, first)
        newer = store.embedding_writer("r")
        state = newer.checkpoint()
        assert (newer.attempt, newer.n_rows) == (2, 16)
        assert state is not None
        assert int(state["seen"]) == 16
        with pytest.raises(Fenced, match="attempt 1 must not write any more; got attempt 2"):
            sample_run.publish(older, 16, scale=7.0)
        sample_run.publish(newer, 16)
        reader = store.reader("r")
        embedding = reader.embedding
        np.testing.assert_array_equal(embedding.live_scores()[:, 0, 0], np.repeat([1.0, 9.0, 17.0], 8))
        live = embedding.live_state()
        assert live is not None
        assert int(live["seen"]) == 24
        before = run_digest(reader)
        sample_run.publish_exact(newer)
        newer.drop_weights(0)
        assert (embedding.has_exact, embedding.retained_from, embedding.n_bases) == (True, 24, 3)
        assert embedding.live_state() is None
        assert run_digest(store.reader("r")) != before
        deltas = store.place / "runs" / "r" / "weights" / "deltas"
        assert store.medium.names(deltas) == ["zarr.json"]
        with pytest.raises(BadCall, match="are no longer kept before row 24"):
            reader.weights()
        assert store.embedding_writer("r").checkpoint() is None
