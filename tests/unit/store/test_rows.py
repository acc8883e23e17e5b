"""Rows in, the same bits out: sealed or not, after any crash, and by one writer only."""

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from streamscalar.errors import BadCall, Fenced, Kind, WorkFailed
from streamscalar.store import Store, run_digest, segment_rows
from tests.oracles import replay


def _store(path: Path, rows: Any, segment: int = 8, codec: str = "zstd") -> Store:
    store = Store.create(path / "store", {"a": 1}, {})
    shape = replay.layout(rows.shape[2], rows.shape[1], rows.dtype.name)
    replay.add(store, "r", shape, len(rows), segment, codec)
    return store


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_bits_survive_in_every_state_of_a_run(tmp_path: Path, dtype: str, codec: str) -> None:
    rows = replay.trajectory(77, (3, 13), dtype)
    store = _store(tmp_path, rows, codec=codec)
    reader = store.reader("r")
    with store.weights_writer("r") as writer:
        for row in range(len(rows)):
            writer.append(row, 10 * row, rows[row], replay.metrics(row, 3), replay.state(row))
            if row in {0, 7, 8, 20}:
                assert reader.n_rows == writer.n_durable == row + 1
                assert reader.weights().tobytes() == rows[: row + 1].tobytes()
        writer.finish()
        # Only the newest two are held for a caller that takes none meanwhile.
        blocks = writer.take_published()
        assert [first for first, _ in blocks] == [64, 72]
        assert b"".join(block.tobytes() for _, block in blocks) == rows[64:].tobytes()
        assert writer.take_published() == []
    assert (reader.n_rows, reader.n_published, reader.is_complete) == (77, 77, True)
    assert reader.weights(13, 70, slice(2, 9)).tobytes() == rows[13:70, :, 2:9].tobytes()
    assert reader.steps().tolist() == list(range(0, 770, 10))
    expected = np.stack([replay.metrics(row, 3)["loss"] for row in range(77)])
    np.testing.assert_array_equal(reader.metrics("loss"), expected)
    assert not list(store.path.glob("runs/r/wal/weights/*.wal"))


def test_every_way_of_reading_agrees_with_a_tail_in_the_log(tmp_path: Path) -> None:
    rows = replay.trajectory(77, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows)
    reader = store.reader("r")
    assert (reader.n_published, reader.n_rows, reader.is_complete) == (72, 77, False)
    assert np.concatenate([block for _, block in reader.blocks()]).tobytes() == rows.tobytes()
    assert [first for first, _ in reader.blocks(11, 75)] == [11, 16, 24, 32, 40, 48, 56, 64, 72]
    columns = list(reader.parameter_blocks(max_bytes=77 * 3 * 8 * 4))
    assert [block.shape[2] for _, block in columns] == [4, 4, 4, 1]
    assert np.concatenate([block for _, block in columns], axis=2).tobytes() == rows.tobytes()
    integers = reader.integer_deltas()
    for row, replica, parameter in [(1, 0, 0), (3, 0, 1), (4, 2, 2), (72, 1, 5), (76, 2, 12)]:
        now, before = rows[row, replica, parameter], rows[row - 1, replica, parameter]
        assert integers[row, replica, parameter] == replay.delta(now, before, "float64")
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(reader.deltas(70, 75), rows[70:75] - rows[69:74])
    assert not reader.deltas(0, 1).any()


def test_parameter_ranges_follow_the_chunks_of_a_wide_run(tmp_path: Path) -> None:
    rows = replay.trajectory(16, (1, 9001), "float32")
    store = _store(tmp_path, rows, segment=64)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows)
        writer.finish()
    reader = store.reader("r")
    chunk = 9001 * 16 * 4
    assert [offset for offset, _ in reader.parameter_blocks(chunk)] == [0]
    offsets = [offset for offset, _ in reader.parameter_blocks(chunk - 1)]
    assert offsets[1:] != []
    joined = np.concatenate([block for _, block in reader.parameter_blocks(chunk // 5)], axis=2)
    assert joined.tobytes() == rows.tobytes()


def test_a_log_cut_at_any_byte_gives_whole_rows_and_the_run_goes_on(tmp_path: Path) -> None:
    rows = replay.trajectory(5, (2, 4))
    store = _store(tmp_path, rows, segment=8)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows)
    log = next((store.path / "runs/r/wal/weights").glob("*.wal"))
    content, frame = log.read_bytes(), 0
    seen = set()
    for size in range(len(content) + 1):
        log.write_bytes(content[:size])
        n_rows = store.reader("r").n_rows
        assert store.reader("r").weights().tobytes() == rows[:n_rows].tobytes()
        assert n_rows >= frame
        frame = n_rows
        seen.add(n_rows)
    assert seen == {0, 1, 2, 3, 4, 5}
    log.write_bytes(content[: len(content) - 1])
    with store.weights_writer("r") as writer:
        assert writer.n_durable == 4
        replay.write(writer, rows)
        writer.finish()
    assert store.reader("r").weights().tobytes() == rows.tobytes()


@pytest.mark.parametrize("cut", [1, 9, 16, 64, 65, 70])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, cut: int) -> None:
    rows = replay.trajectory(77, (3, 13))
    digests = []
    for name, stop, segment in (("whole", 77, 8), ("cut", cut, 8), ("other segments", cut, 16)):
        store = _store(tmp_path / name, rows, segment)
        with store.weights_writer("r") as writer:
            replay.write(writer, rows[:stop])
            if stop == 77:
                writer.finish()
        if stop < 77:
            with store.weights_writer("r", "none") as writer:
                start = writer.last_keyframe()
                assert writer.n_durable == cut
                if start is not None:
                    assert start.weights.tobytes() == rows[start.row].tobytes()
                    assert start.step == 10 * start.row
                    np.testing.assert_equal(start.state, replay.state(start.row))
                replay.write(writer, rows, start.row if start else 0)
                writer.finish()
        digests.append(run_digest(store.reader("r")))
    assert len(set(digests)) == 1


def test_a_row_computed_otherwise_is_refused_and_the_stored_one_kept(tmp_path: Path) -> None:
    rows = replay.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows)
    for row in (2, 18):
        other = rows[row].copy()
        other.view(np.uint64)[1, 5] ^= 1
        loss = replay.metrics(row, 3)
        with store.weights_writer("r") as writer:
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
    assert store.reader("r").weights().tobytes() == rows.tobytes()


def test_a_newer_attempt_locks_the_older_one_out(tmp_path: Path) -> None:
    rows = replay.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    old = store.weights_writer("r")
    replay.write(old, rows[:7])
    with store.weights_writer("r") as new:
        assert (old.attempt, new.attempt, new.n_durable) == (1, 2, 7)
        with pytest.raises(Fenced):
            old.append(7, 70, rows[7], replay.metrics(7, 3))
        with pytest.raises(Fenced):
            old.finish()
        replay.write(new, rows, 7)
        new.finish()
    old.close()
    assert store.reader("r").weights().tobytes() == rows.tobytes()


def test_wrong_shapes_names_and_ranges_are_bad_calls(tmp_path: Path) -> None:
    rows = replay.trajectory(3, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        for weights, values in (
            (rows[0, :2], replay.metrics(0, 3)),
            (rows[0].astype("f4"), replay.metrics(0, 3)),
            (rows[0], {}),
            (rows[0], replay.metrics(0, 2)),
        ):
            with pytest.raises(BadCall):
                writer.append(0, 0, weights, values)
        assert writer.n_durable == 0
        replay.write(writer, rows)
    reader = store.reader("r")
    for first, stop in ((-1, 2), (2, 1), (0, 4)):
        with pytest.raises(BadCall):
            reader.weights(first, stop)
    with pytest.raises(BadCall):
        reader.metrics("speed")


def test_the_trainers_arrays_must_stay_alike(tmp_path: Path) -> None:
    rows = replay.trajectory(65, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows[:64])
        for state in (None, {"momentum": np.zeros(2)}, {**replay.state(64), "more": np.zeros(1)}):
            with pytest.raises(BadCall, match="state"):
                writer.append(64, 640, rows[64], replay.metrics(64, 3), state)
        assert writer.n_durable == 64
        writer.append(64, 640, rows[64], replay.metrics(64, 3), replay.state(64))


def test_a_full_disk_keeps_every_acknowledged_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = replay.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    real, budget = os.writev, 2500

    def full(file: int, buffers: Any) -> int:
        nonlocal budget
        data = b"".join(bytes(buffer) for buffer in buffers)
        if not budget:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(file, [data[:budget]])
        budget -= written
        return written

    monkeypatch.setattr(os, "writev", full)
    writer = store.weights_writer("r")
    with pytest.raises(WorkFailed) as caught:
        replay.write(writer, rows)
    assert caught.value.kind is Kind.STORE_FULL
    kept = writer.n_durable
    assert 0 < kept < 8
    assert store.reader("r").weights().tobytes() == rows[:kept].tobytes()
    monkeypatch.setattr(os, "writev", real)
    replay.write(writer, rows, kept)
    writer.finish()
    writer.close()
    assert store.reader("r").weights().tobytes() == rows.tobytes()


def test_a_disk_that_fills_while_sealing_is_told_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = replay.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    real = os.fsync

    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    writer = store.weights_writer("r", "segment")
    replay.write(writer, rows[:7])
    monkeypatch.setattr(os, "fsync", full)
    writer.append(7, 70, rows[7], replay.metrics(7, 3))
    with pytest.raises(WorkFailed) as caught:
        writer.finish()
    assert caught.value.kind is Kind.STORE_FULL
    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(WorkFailed):
        writer.close()
    reader = store.reader("r")
    assert (reader.n_published, reader.n_rows) == (0, 8)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows)
        writer.finish()
    assert reader.weights().tobytes() == rows.tobytes()


def test_plain_zarr_sees_published_rows_and_nothing_else(tmp_path: Path) -> None:
    rows = replay.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows)
    run = store.path / "runs" / "r"
    deltas = zarr.open_array(run / "weights/deltas", mode="r")
    assert deltas.shape == (16, 3, 13)
    np.testing.assert_array_equal(deltas[:], store.reader("r").integer_deltas(0, 16))
    np.testing.assert_array_equal(zarr.open_array(run / "weights/steps", mode="r")[:], np.arange(0, 160, 10))
    np.testing.assert_array_equal(zarr.open_array(run / "weights/keyframes", mode="r")[:], rows[:1])
    assert zarr.open_group(run / "weights", mode="r").attrs["length"] == 16


def test_a_crash_between_the_files_and_the_length_hides_them(tmp_path: Path) -> None:
    rows = replay.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    run = store.path / "runs" / "r"
    with store.weights_writer("r") as writer:
        replay.write(writer, rows[:8])
        before = (run / "weights/zarr.json").read_bytes()
    shutil.copytree(run / "wal/weights", tmp_path / "log")
    with store.weights_writer("r") as writer:
        replay.write(writer, rows)
    log = {path.name: path.read_bytes() for path in (run / "wal/weights").glob("*.wal")}
    assert log
    (run / "weights/zarr.json").write_bytes(before)
    reader = store.reader("r")
    length = reader.n_rows
    assert reader.weights().tobytes() == rows[:length].tobytes()


def test_a_reader_can_be_pickled_and_stays_current(tmp_path: Path) -> None:
    rows = replay.trajectory(12, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        replay.write(writer, rows[:5])
        reader = pickle.loads(pickle.dumps(store.reader("r")))
        assert reader.n_rows == 5
        replay.write(writer, rows, 5)
        assert reader.weights().tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    ("n_rows", "row_bytes", "expected"),
    [(201, 1000, 16), (201, 50_890 * 7 * 8, 8), (10_000, 1000, 64), (10, 1, 8), (500, 64 * 2**20, 4), (9, 2**30, 1)],
)
def test_segments_suit_the_run(n_rows: int, row_bytes: int, expected: int) -> None:
    assert segment_rows(n_rows, row_bytes) == expected


def test_without_fsync_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = replay.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r", "none") as writer:
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, lambda _: pytest.fail("waited for the disk"))
        replay.write(writer, rows)
        writer.finish()
    assert store.reader("r").weights().tobytes() == rows.tobytes()
