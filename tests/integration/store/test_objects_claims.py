"""Writers of one stream in a bucket: an older attempt changes nothing, from any machine and at any moment."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from numpy.typing import NDArray

from streamscalar.errors import Fenced, Kind
from streamscalar.store import Store, verify
from streamscalar.store.media.bucket_fence import BucketFence
from streamscalar.store.media.objects import ObjectPath
from streamscalar.testing import sample_run
from tests.bucket import OLDER, Bucket, running

ROWS = sample_run.trajectory(24, (3, 13))
OTHER = sample_run.trajectory(24, (3, 13), seed=1)
CHUNK = "weights/deltas/c.0.0.0"
COMMIT = "weights/zarr.json"

_OLDER = """
import sys
from streamscalar.errors import Fenced
from streamscalar.store import Store
from streamscalar.testing import sample_run

url, spool, seed, stop = sys.argv[1:]
rows = sample_run.trajectory(24, (3, 13), seed=int(seed))[:int(stop)]
try:
    with Store.open(url).weights_writer("r", spool=spool) as writer:
        print("claimed", writer.attempt, writer.n_durable, flush=True)
        sample_run.write(writer, rows, writer.n_durable)
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
    sample_run.add(store, "r", sample_run.layout(), len(ROWS), 8)
    return store


def _run(store: Store) -> ObjectPath:
    assert isinstance(store.place, ObjectPath)
    return store.place / "runs" / "r"


class _Older:
    """A writer in a separate process, with credentials by which the service can delay it."""

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
        sample_run.write(writer, rows)
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


def test_a_commit_whose_response_is_lost_counts_once(service: Bucket, store: Store) -> None:
    claim = BucketFence(_run(store) / "weights", "run r")
    for length in (8, 16):
        service.control("lose", user=service.environment["AWS_ACCESS_KEY_ID"], method="PUT", path=COMMIT, after=0)
        claim.commit({**claim.attributes, "length": length})
        assert store.reader("r").n_published == length
    claim.check()


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


def test_a_spool_of_a_deleted_store_is_not_used_for_this_one(service: Bucket, tmp_path: Path) -> None:
    url = service.make()
    for rows in (OTHER, ROWS):
        store = Store.create(url, {"a": 1}, {})
        sample_run.add(store, "r", sample_run.layout(), len(ROWS), 8)
        with store.weights_writer("r", spool=str(tmp_path)) as writer:
            assert writer.n_durable == 0
            sample_run.write(writer, rows[:12])
        root = ObjectPath.parse(url)
        obstore.delete(root.client, [found["path"] for page in obstore.list(root.client) for found in page])


def test_an_older_writer_on_this_machine_stops_at_its_next_row(store: Store, tmp_path: Path) -> None:
    older = store.weights_writer("r", spool=str(tmp_path))
    sample_run.write(older, ROWS[:4])
    newer = store.weights_writer("r", spool=str(tmp_path))
    assert newer.n_durable == 4
    with pytest.raises(Fenced, match="attempt 1 must not write any more; got attempt 2"):
        older.append(4, 40, OTHER[4], sample_run.metrics(4, 3))
    older.close()
    sample_run.write(newer, ROWS, 4)
    newer.finish()
    newer.close()
    assert store.reader("r").weights().tobytes() == ROWS.tobytes()


@pytest.mark.parametrize("held", [CHUNK, "metrics/loss/c.0.0", COMMIT])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_older_writer_elsewhere_changes_nothing(
    service: Bucket, store: Store, tmp_path: Path, held: str, when: str
) -> None:
    """It stops before a chunk, or between chunks and commit; it continues after the newer one's claim, or its end."""
    _hold(service, held, after=int(held == COMMIT))
    older = _Older(service, store, tmp_path / "older", seed=1, stop=8)
    assert older.line() == "claimed 1 0"
    older.wait_until_held()
    # Every chunk has to be there before the length covers it.
    assert store.reader("r").n_rows == 0
    with store.weights_writer("r", spool=str(tmp_path / "newer")) as newer:
        assert (newer.attempt, newer.n_durable) == (2, 0)
        if when == "before":
            service.control("open")
            assert "fenced" in older.end()
        sample_run.write(newer, ROWS)
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
    """The first attempt leaves chunks; the second reads a version and is delayed; the third writes the first's rows.

    In S3 a version is a checksum of the content: were the third's chunk the first's, byte for byte, the second's
    condition would hold again.
    """
    _hold(service, COMMIT, after=1)
    first = _Older(service, store, tmp_path / "first", seed=0, stop=8)
    first.wait_until_held()
    first.process.kill()
    first.process.communicate()
    service.control("open")
    # Its creation of the chunk fails, as one is there; its replacement of that one is delayed.
    _hold(service, CHUNK, after=1)
    second = _Older(service, store, tmp_path / "second", seed=1, stop=8)
    second.wait_until_held()
    _write(store, ROWS, tmp_path / "third")
    service.control("open")
    assert "fenced" in second.end()
    assert store.reader("r").weights().tobytes() == ROWS.tobytes()


def test_a_block_of_the_embedding_costs_a_request_per_array(service: Bucket, store: Store, tmp_path: Path) -> None:
    _write(store, ROWS, tmp_path)
    older = store.embedding_writer("r")
    sample_run.publish(older, 0)
    service.counts()
    sample_run.publish(older, 8)
    # 7 arrays of the block, 6 of the basis, the restart state and the commit; the former restart state is deleted.
    assert service.counts() == {"PUT": 15, "POST": 1}
    newer = store.embedding_writer("r")
    with pytest.raises(Fenced):
        sample_run.publish(older, 16, scale=7.0)
    sample_run.publish(newer, 16)
    log = _run(store) / "wal/embedding"
    # The next writer deletes what the older one put and could not commit.
    assert log.names() == ["checkpoint-24-1", "checkpoint-24-2"]
    sample_run.publish_exact(newer)
    assert store.embedding_writer("r").checkpoint() is None
    assert log.names() == []


def test_a_segment_costs_one_request_for_each_array_and_one_for_the_commit(
    service: Bucket, store: Store, tmp_path: Path
) -> None:
    with store.weights_writer("r", spool=str(tmp_path)) as writer:
        sample_run.write(writer, ROWS[:8])
        while not writer.take_published():
            time.sleep(0.01)
        service.counts()
        sample_run.write(writer, ROWS[:16], 8)
        while not writer.take_published():
            time.sleep(0.01)
        # deltas, steps, hashes, loss; commit.
        assert service.counts() == {"PUT": 5}
