"""Objects in place of files: conditions, listings, and the message of every error."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from streamscalar.errors import BadCall
from streamscalar.store import Store
from streamscalar.store.format.arrays import StoredArray, series_document, sharded, trajectory_document
from streamscalar.store.media.objects import Changed, ObjectPath, fetch, remove
from streamscalar.store.media.opening import medium_of, place
from tests.bucket import SECRET, Bucket, running


@pytest.fixture(scope="module")
def service() -> Iterator[Bucket]:
    with running() as service:
        yield service


@pytest.fixture
def root(service: Bucket) -> ObjectPath:
    return ObjectPath.parse(service.make())


def test_a_url_is_taken_apart_and_put_together() -> None:
    path = ObjectPath.parse("s3://bucket//some/prefix/")
    assert (path.bucket, path.key, str(path)) == ("s3://bucket", "some/prefix", "s3://bucket/some/prefix")
    assert str(path / "runs/r" / "zarr.json") == "s3://bucket/some/prefix/runs/r/zarr.json"
    assert (path / "a" / "b").with_name("c") == path / "a/c"
    assert str(ObjectPath.parse("gs://bucket") / "x") == "gs://bucket/x"
    assert place("a/folder") == Path("a/folder")
    assert place("file:///a%20b/c") == place("file://localhost/a b/c") == Path("/a b/c")
    with pytest.raises(BadCall, match=r"must look like s3://bucket/prefix; got 'http://host/x'"):
        place("http://host/x")


def test_a_url_that_lost_a_slash_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadCall, match="must be a folder here; got s3://bucket/prefix"):
        Store.create(tmp_path / "s3://bucket/prefix", {}, {})
    assert not list(tmp_path.iterdir())


def test_conditions_hold(root: ObjectPath) -> None:
    path = root / "a"
    with pytest.raises(FileNotFoundError):
        path.read()
    assert (path.exists(), path.version()) == (False, None)
    first = path.create(b"1")
    with pytest.raises(FileExistsError):
        path.create(b"2")
    second = path.replace(b"2", first)
    with pytest.raises(Changed):
        path.replace(b"3", first)
    assert path.read() == (b"2", second)
    assert path.version() == second != first
    with pytest.raises(Changed):
        (root / "b").replace(b"3", first)
    # The content is there already: the response to an earlier try was lost.
    assert path.create(b"2") == second
    assert path.replace(b"2", first) == second


def test_listing_fetching_and_deleting(root: ObjectPath) -> None:
    assert root.is_empty()
    for name in ("b", "a", "deeper/c"):
        (root / name).write_bytes(name.encode())
    assert root.names() == ["a", "b"]
    assert not root.is_empty()
    assert fetch(root / name for name in ("b", "deeper/c", "a")) == [b"b", b"deeper/c", b"a"]
    remove([root / "a", root / "b", root / "never"])
    assert root.names() == []


@pytest.mark.parametrize("method", ["create", "replace"])
def test_after_a_lost_response_the_object_is_read(service: Bucket, root: ObjectPath, method: str) -> None:
    path = root / "object"
    before = path.create(b"before") if method == "replace" else None
    service.control("lose", user=service.environment["AWS_ACCESS_KEY_ID"], method="PUT", path="object", after=0)
    service.counts()
    version = path.create(b"after") if before is None else path.replace(b"after", before)
    assert path.read() == (b"after", version)
    assert service.counts()["PUT"] >= 2


_OPEN = "import sys; from streamscalar.store import Store; Store.create(sys.argv[1], {}, {})"


def _error_of(environment: dict[str, str], url: str) -> str:
    code = f"""
from streamscalar.errors import StreamscalarError
try:
    {_OPEN}
except StreamscalarError as error:
    print(error.exit_code, error.kind, error)
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ran = subprocess.run(
        [sys.executable, "-c", code, url], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    assert SECRET not in ran.stdout + ran.stderr
    assert ran.stderr == ""
    return ran.stdout.strip()


def test_errors_are_one_sentence_each(service: Bucket) -> None:
    url, good = service.make(), service.environment
    bucket = url.removesuffix("/some/prefix")
    assert _error_of(good, "s3://no-such-bucket/x").startswith(
        "2 store_missing store.url s3://no-such-bucket: must lie in a bucket that exists; got no such bucket."
    )
    assert _error_of({**good, "AWS_ACCESS_KEY_ID": "AKIASTRANGER"}, url).startswith(
        f"2 store_read_only store.url {bucket}: must be open to these credentials; "
        "got InvalidAccessKeyId. Allow reading, writing, listing and deleting there. Set AWS_ACCESS_KEY_ID"
    )
    without = {name: value for name, value in good.items() if "KEY" not in name}
    # Without credentials in the environment, the client queries the metadata service of cloud machines.
    assert _error_of({**without, "AWS_METADATA_ENDPOINT": good["AWS_ENDPOINT_URL"]}, url).startswith(
        f"2 config store.url {bucket}: needs credentials from the environment; got none. Set AWS_ACCESS_KEY_ID"
    )
    assert _error_of(good, url) == ""


def test_a_store_in_a_bucket_has_no_folder(root: ObjectPath) -> None:
    store = Store.create(str(root), {"a": 1}, {})
    assert store.url == str(root)
    with pytest.raises(BadCall, match="must be a folder for this; got a URL"):
        _ = store.path


def test_no_secret_is_stored(service: Bucket, root: ObjectPath) -> None:
    Store.create(str(root), {"a": 1}, {})
    assert sorted(json.loads((root / "zarr.json").read_bytes())["attributes"]) == [
        "config",
        "provenance",
        "schema_version",
    ]
    for secret in (service.environment["AWS_ACCESS_KEY_ID"], SECRET):
        assert secret.encode() not in (root / "zarr.json").read_bytes()


@pytest.mark.parametrize("kind", ["series", "trajectory"])
def test_any_zarr_reader_ignores_the_marks(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 9, size=(16, 3, 130)).astype(np.uint32)
    document = (
        series_document((3, 130), "uint32", 8)
        if kind == "series"
        else trajectory_document((3, 130), "uint32", 8, 50, "zstd")
    )
    array = StoredArray(tmp_path, {**sharded(document), "shape": [16, 3, 130]}, medium_of(tmp_path))
    files = array.put(tmp_path / "aside", 0, values)
    names = [path.rename(tmp_path / name).name for name, path in files.items()]
    (tmp_path / "zarr.json").write_text(json.dumps(array.document))
    plain = [(tmp_path / name).read_bytes() for name in names]
    for mark in (b"a" * 12, b"b" * 12):
        for name, data in zip(names, plain, strict=True):
            (tmp_path / name).write_bytes(array.marked(data, mark))
            assert mark in (tmp_path / name).read_bytes()
        np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path, mode="r")), values)
        np.testing.assert_array_equal(array.read(0, 16), values)
    assert array.marked(plain[0], b"a" * 12) != array.marked(plain[0], b"b" * 12)
