"""Writers of one stream in a bucket: what an older attempt can no longer do, from whichever machine and moment."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from numpy.typing import NDArray

from streamscalar.errors import Fenced, Kind
from streamscalar.store import EmbeddingWriter, Store, run_digest, verify
from streamscalar.store.media.bucket_fence import BucketFence
from streamscalar.store.media.objects import ObjectPath
from streamscalar.store.schema import BLOCK_ARRAYS
from tests.bucket import OLDER, Bucket, running
from tests.oracles import replay

ROWS = replay.trajectory(24, (3, 13))
OTHER = replay.trajectory(24, (3, 13), seed=1)
CHUNK = "weights/deltas/c.0.0.0"
COMMIT = "weights/zarr.json"

_OLDER = """
import sys
from streamscalar.errors import Fenced
from streamscalar.store import Store
from tests.oracles import replay

url, spool, seed, stop = sys.argv[1:]
rows = replay.trajectory(24, (3, 13), seed=int(seed))[:int(stop)]
try:
    with Store.open(url).weights_writer("r", spool=spool) as writer:
        print("claimed", writer.attempt, writer.n_durable, flush=True)
        replay.write(writer, rows, writer.n_durable)
        print("appended", flush=True)
        sys.stdin.read()
except Fenced as error:
    print("fenced:", error)
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Bucket]:
    with running() as service:
        yield service


@pytest.fixture
def store(service: Bucket) -> Store:
    store = Store.create(service.make(), {"a": 1}, {})
    replay.add(store, "r", replay.layout(), len(ROWS), 8)
    return store


def _run(store: Store) -> ObjectPath:
    assert isinstance(store.place, ObjectPath)
    return store.place / "runs" / "r"


class _Older:
    """A writer in a process of its own, with credentials by which the service can hold it up."""

    def __init__(self, service: Bucket, store: Store, spool: Path, seed: int, stop: int = 24) -> None:
        command = [sys.executable, "-c", _OLDER, store.url, str(spool), str(seed), str(stop)]
        self._service = service
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "AWS_ACCESS_KEY_ID": OLDER},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_until_held(self) -> None:
        deadline = time.monotonic() + 30
        while not json.loads(self._service.control("held")):
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)

    def end(self) -> str:
        return self.process.communicate(timeout=60)[0]


def _hold(service: Bucket, path: str, after: int = 0) -> None:
    service.control("gate", user=OLDER, method="PUT", path=path, after=after)


def _write(store: Store, rows: NDArray[Any], spool: Path, *, finish: bool = True) -> int:
    with store.weights_writer("r", spool=str(spool)) as writer:
        replay.write(writer, rows)
        if finish:
            writer.finish()
        return writer.attempt


def test_a_claim_ends_the_one_before(store: Store) -> None:
    path = _run(store)
    first = BucketFence(path / "weights", "run r")
    first.put(path / "a", b"first")
    second = BucketFence(path / "weights", "run r")
    assert (first.attempt, second.attempt, second.before) == (1, 2, 1)
    for forbidden in (first.check, lambda: first.commit(first.attributes), lambda: first.put(path / "a", b"late")):
        with pytest.raises(Fenced, match="attempt 1 must not write any more; got attempt 2 owns the stream") as stopped:
            forbidden()
        assert stopped.value.kind is Kind.FENCED
    assert (path / "a").read_bytes() == b"first"
    second.put(path / "a", b"second")
    second.commit({**second.attributes, "length": 3})
    assert (path / "a").read_bytes() == b"second"
    assert json.loads((path / "weights/zarr.json").read_bytes())["attributes"]["length"] == 3


def test_a_commit_whose_answer_is_lost_counts_once(service: Bucket, store: Store) -> None:
    claim = BucketFence(_run(store) / "weights", "run r")
    for length in (8, 16):
        service.control("lose", user=service.environment["AWS_ACCESS_KEY_ID"], method="PUT", path=COMMIT, after=0)
        claim.commit({**claim.attributes, "length": length})
        assert store.reader("r").n_published == length
    claim.check()


def test_readers_see_committed_rows_alone_and_they_are_the_bits(store: Store, tmp_path: Path) -> None:
    reader = store.reader("r")
    with store.weights_writer("r", spool=str(tmp_path)) as writer:
        for row in range(20):
            kept = replay.state(row) if writer.needs_state(row) else None
            writer.append(row, 10 * row, ROWS[row], replay.metrics(row, 3), kept)
            assert reader.n_rows <= writer.n_durable == row + 1
            assert reader.n_rows % 8 == 0
    assert (reader.n_rows, reader.n_published) == (16, 16)
    with store.weights_writer("r", spool=str(tmp_path)) as writer:
        assert writer.n_durable == 20
        replay.write(writer, ROWS, 20)
        writer.finish()
    assert reader.weights().tobytes() == ROWS.tobytes()
    assert reader.weights(3, 21, slice(2, 9)).tobytes() == ROWS[3:21, :, 2:9].tobytes()
    assert list(verify(store)) == []


def test_the_spool_is_private_and_goes_with_the_run(store: Store, tmp_path: Path) -> None:
    _write(store, ROWS[:20], tmp_path, finish=False)
    folders = list(tmp_path.iterdir())
    assert [oct(folder.stat().st_mode & 0o777) for folder in folders] == ["0o700"]
    assert list(folders[0].glob("r-*/*.wal"))
    _write(store, ROWS, tmp_path)
    assert list(folders[0].iterdir()) == []


def test_rows_of_a_spool_are_dropped_once_another_machine_has_written(store: Store, tmp_path: Path) -> None:
    _write(store, ROWS[:12], tmp_path / "here", finish=False)
    _write(store, OTHER[:0], tmp_path / "there", finish=False)
    with store.weights_writer("r", spool=str(tmp_path / "here")) as writer:
        assert writer.n_durable == 8
    _write(store, ROWS[:12], tmp_path / "here", finish=False)
    with store.weights_writer("r", spool=str(tmp_path / "here")) as writer:
        assert writer.n_durable == 12


def test_a_spool_of_a_deleted_store_is_not_taken_for_this_one(service: Bucket, tmp_path: Path) -> None:
    url = service.make()
    for rows in (OTHER, ROWS):
        store = Store.create(url, {"a": 1}, {})
        replay.add(store, "r", replay.layout(), len(ROWS), 8)
        with store.weights_writer("r", spool=str(tmp_path)) as writer:
            assert writer.n_durable == 0
            replay.write(writer, rows[:12])
        root = ObjectPath.parse(url)
        obstore.delete(root.client, [found["path"] for page in obstore.list(root.client) for found in page])


def test_an_older_writer_on_this_machine_stops_at_its_next_row(store: Store, tmp_path: Path) -> None:
    older = store.weights_writer("r", spool=str(tmp_path))
    replay.write(older, ROWS[:4])
    newer = store.weights_writer("r", spool=str(tmp_path))
    assert newer.n_durable == 4
    with pytest.raises(Fenced, match="attempt 1 must not write any more; got attempt 2"):
        older.append(4, 40, OTHER[4], replay.metrics(4, 3))
    older.close()
    replay.write(newer, ROWS, 4)
    newer.finish()
    newer.close()
    assert store.reader("r").weights().tobytes() == ROWS.tobytes()


@pytest.mark.parametrize("held", [CHUNK, "metrics/loss/c.0.0", COMMIT])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_older_writer_elsewhere_changes_nothing(
    service: Bucket, store: Store, tmp_path: Path, held: str, when: str
) -> None:
    """It stops before a chunk, or between chunks and commit; it goes on after the newer one's claim, or its end."""
    _hold(service, held, after=int(held == COMMIT))
    older = _Older(service, store, tmp_path / "older", seed=1, stop=8)
    assert older.line() == "claimed 1 0"
    older.wait_until_held()
    # Every chunk has to be there before the length tells of it.
    assert store.reader("r").n_rows == 0
    with store.weights_writer("r", spool=str(tmp_path / "newer")) as newer:
        assert (newer.attempt, newer.n_durable) == (2, 0)
        if when == "before":
            service.control("open")
            assert "fenced" in older.end()
        replay.write(newer, ROWS)
        newer.finish()
    if when == "after":
        service.control("open")
        assert "fenced" in older.end()
    reader = store.reader("r")
    assert (reader.n_rows, reader.is_complete) == (24, True)
    assert reader.weights().tobytes() == ROWS.tobytes()
    assert list(verify(store)) == []


def test_a_chunk_that_comes_back_to_an_earlier_content_is_not_overwritten(
    service: Bucket, store: Store, tmp_path: Path
) -> None:
    """The first attempt leaves chunks; the second looks at one and is held up; the third writes the first's rows.

    In S3 a version is a checksum of the content: were the third's chunk the first's, byte for byte, the second's
    condition would hold again.
    """
    _hold(service, COMMIT, after=1)
    first = _Older(service, store, tmp_path / "first", seed=0, stop=8)
    first.wait_until_held()
    first.process.kill()
    first.process.communicate()
    service.control("open")
    # Its creation of the chunk is refused, as one is there; its replacement of that one is held up.
    _hold(service, CHUNK, after=1)
    second = _Older(service, store, tmp_path / "second", seed=1, stop=8)
    second.wait_until_held()
    _write(store, ROWS, tmp_path / "third")
    service.control("open")
    assert "fenced" in second.end()
    assert store.reader("r").weights().tobytes() == ROWS.tobytes()


def _block(first: int, scale: float = 1.0) -> dict[str, NDArray[np.float64]]:
    shapes = {"embedding/scores": (3, 2), "divergence/pairs": (3,), "embedding/increments": (3, 3)}
    return {name: np.full((8, *shapes.get(name, (3,))), scale * first + 1.0) for name in BLOCK_ARRAYS}


def _publish(writer: EmbeddingWriter, first: int, scale: float = 1.0) -> None:
    basis = {
        "version": np.asarray(first // 8),
        "rotation": np.eye(2),
        "shift": np.zeros(2),
        "singular_values": np.array([2.0, 1.0]),
        "total_variance": np.asarray(5.0),
    }
    writer.publish(first, _block(first, scale), basis, {"seen": np.asarray(first + 8)})


def test_the_embedding_goes_on_from_its_restart_state(service: Bucket, store: Store, tmp_path: Path) -> None:
    _write(store, ROWS, tmp_path)
    older = store.embedding_writer("r")
    _publish(older, 0)
    service.counts()
    _publish(older, 8)
    # 7 arrays of the block, 6 of the basis, the restart state and the commit; and the former restart state goes.
    assert service.counts() == {"PUT": 15, "POST": 1}
    newer = store.embedding_writer("r")
    state = newer.checkpoint()
    assert (newer.attempt, newer.n_rows) == (2, 16)
    assert state is not None
    assert int(state["seen"]) == 16
    with pytest.raises(Fenced, match="attempt 1 must not write any more; got attempt 2"):
        _publish(older, 16, scale=7.0)
    _publish(newer, 16)
    reader = store.reader("r")
    np.testing.assert_array_equal(reader.embedding.live_scores()[:, 0, 0], np.repeat([1.0, 9.0, 17.0], 8))
    log = _run(store) / "wal/embedding"
    # What the older one put and could not commit goes when the next writer opens.
    assert log.names() == ["checkpoint-24-1", "checkpoint-24-2"]
    before = run_digest(reader)
    newer.publish_exact(np.ones((24, 3, 2)), np.ones((24, 3)), np.zeros(13), np.ones((2, 13)), np.ones(2),
                        {"total_variance": 2.0})  # fmt: skip
    newer.drop_weights(0)
    assert (reader.embedding.has_exact, reader.embedding.retained_from) == (True, 24)
    assert run_digest(store.reader("r")) != before
    # Its metadata is left, and no chunk.
    assert (_run(store) / "weights/deltas").names() == ["zarr.json"]
    assert store.embedding_writer("r").checkpoint() is None
    assert log.names() == []


def test_two_processes_make_one_run_and_one_order(store: Store) -> None:
    code = """
import sys
from streamscalar.store import Store
from tests.oracles import replay
store = Store.open(sys.argv[1])
for name in sys.argv[2].split(","):
    replay.add(store, name, replay.layout(), 24, 8)
"""
    names = [["a", "b", "c", "d"], ["d", "c", "e", "r"]]
    racing = [subprocess.Popen([sys.executable, "-c", code, store.url, ",".join(some)]) for some in names]
    assert [process.wait(timeout=60) for process in racing] == [0, 0]
    listed = store.run_ids()
    assert (listed[0], sorted(listed)) == ("r", ["a", "b", "c", "d", "e", "r"])
    assert store.reader("d").n_rows == 0


def test_requests_reach_who_asks_for_them(store: Store) -> None:
    known: set[str] = set()
    assert store.requests(known) == []
    for run in ("r", "q"):
        store.request({"kind": "cancel", "run_id": run})
    assert [wish["run_id"] for wish in store.requests(known)] == ["r", "q"]
    assert store.requests(known) == []
    assert store.status("r") == {}
    store.set_status("r", phase="training")
    store.set_status("r", phase="done", attempts=2)
    assert store.status("r") == {"phase": "done", "attempts": 2}


def test_a_segment_costs_one_request_for_each_array_and_one_for_the_commit(
    service: Bucket, store: Store, tmp_path: Path
) -> None:
    with store.weights_writer("r", spool=str(tmp_path)) as writer:
        replay.write(writer, ROWS[:8])
        while not writer.take_published():
            time.sleep(0.01)
        service.counts()
        replay.write(writer, ROWS[:16], 8)
        while not writer.take_published():
            time.sleep(0.01)
        # deltas, steps, hashes, loss; commit.
        assert service.counts() == {"PUT": 5}
