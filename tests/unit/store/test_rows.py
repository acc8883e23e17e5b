"""A store on a disk: its log, a full disk, and what waits for the disk; the rest is in the contract of a store."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from streamscalar.errors import Kind, WorkFailed
from streamscalar.store import Store, segment_rows
from streamscalar.testing import sample_run
from tests.oracles import replay


def _store(path: Path, rows: Any, segment: int = 8, codec: str = "zstd") -> Store:
    store = Store.create(path / "store", {"a": 1}, {})
    shape = sample_run.layout(rows.shape[2], rows.shape[1], rows.dtype.name)
    sample_run.add(store, "r", shape, len(rows), segment, codec)
    return store


def test_integer_deltas_are_those_of_the_oracle(tmp_path: Path) -> None:
    rows = sample_run.trajectory(77, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        sample_run.write(writer, rows)
    assert not list((store.path / "runs/r/wal/weights").glob("*-000000000000.wal"))
    integers = store.reader("r").integer_deltas()
    for row, replica, parameter in [(1, 0, 0), (3, 0, 1), (4, 2, 2), (72, 1, 5), (76, 2, 12)]:
        now, before = rows[row, replica, parameter], rows[row - 1, replica, parameter]
        assert integers[row, replica, parameter] == replay.delta(now, before, "float64")
    with store.weights_writer("r") as writer:
        writer.finish()
    assert not list(store.path.glob("runs/r/wal/weights/*.wal"))


def test_a_log_cut_at_any_byte_gives_whole_rows_and_the_run_goes_on(tmp_path: Path) -> None:
    rows = sample_run.trajectory(5, (2, 4))
    store = _store(tmp_path, rows, segment=8)
    with store.weights_writer("r") as writer:
        sample_run.write(writer, rows)
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
        sample_run.write(writer, rows)
        writer.finish()
    assert store.reader("r").weights().tobytes() == rows.tobytes()


def test_a_full_disk_keeps_every_acknowledged_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample_run.trajectory(20, (3, 13))
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
        sample_run.write(writer, rows)
    assert caught.value.kind is Kind.STORE_FULL
    kept = writer.n_durable
    assert 0 < kept < 8
    assert store.reader("r").weights().tobytes() == rows[:kept].tobytes()
    monkeypatch.setattr(os, "writev", real)
    sample_run.write(writer, rows, kept)
    writer.finish()
    writer.close()
    assert store.reader("r").weights().tobytes() == rows.tobytes()


def test_a_disk_that_fills_while_sealing_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sample_run.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    real = os.fsync

    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    writer = store.weights_writer("r", "segment")
    sample_run.write(writer, rows[:7])
    monkeypatch.setattr(os, "fsync", full)
    writer.append(7, 70, rows[7], sample_run.metrics(7, 3))
    with pytest.raises(WorkFailed) as caught:
        writer.finish()
    assert caught.value.kind is Kind.STORE_FULL
    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(WorkFailed):
        writer.close()
    reader = store.reader("r")
    assert (reader.n_published, reader.n_rows) == (0, 8)
    with store.weights_writer("r") as writer:
        sample_run.write(writer, rows)
        writer.finish()
    assert reader.weights().tobytes() == rows.tobytes()


def test_plain_zarr_sees_published_rows_and_nothing_else(tmp_path: Path) -> None:
    rows = sample_run.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r") as writer:
        sample_run.write(writer, rows)
    run = store.path / "runs" / "r"
    deltas = zarr.open_array(run / "weights/deltas", mode="r")
    assert deltas.shape == (16, 3, 13)
    np.testing.assert_array_equal(deltas[:], store.reader("r").integer_deltas(0, 16))
    np.testing.assert_array_equal(zarr.open_array(run / "weights/steps", mode="r")[:], np.arange(0, 160, 10))
    np.testing.assert_array_equal(zarr.open_array(run / "weights/keyframes", mode="r")[:], rows[:1])
    assert zarr.open_group(run / "weights", mode="r").attrs["length"] == 16


@pytest.mark.parametrize(
    ("n_rows", "row_bytes", "expected"),
    [(201, 1000, 16), (201, 50_890 * 7 * 8, 8), (10_000, 1000, 64), (10, 1, 8), (500, 64 * 2**20, 4), (9, 2**30, 1)],
)
def test_segments_suit_the_run(n_rows: int, row_bytes: int, expected: int) -> None:
    assert segment_rows(n_rows, row_bytes) == expected


def test_without_fsync_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample_run.trajectory(20, (3, 13))
    store = _store(tmp_path, rows)
    with store.weights_writer("r", "none") as writer:
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, lambda _: pytest.fail("waited for the disk"))
        sample_run.write(writer, rows)
        writer.finish()
    assert store.reader("r").weights().tobytes() == rows.tobytes()
