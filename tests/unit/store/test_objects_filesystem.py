"""Network file systems: found in the table of mounts, refused where a store breaks, and what they do not guarantee."""

import fcntl
from pathlib import Path

import pytest

from streamscalar.errors import BadCall, Kind
from streamscalar.store import Store, filesystem_of, locks_work
from streamscalar.store.media import filesystem

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /data rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
31 30 0:41 / /data/fast rw,relatime shared:3 master:4 - lustre mgs@tcp:/fast rw,flock
32 22 0:42 / /mnt/with\040space rw - fuse.s3fs s3fs rw,user_id=0
33 22 0:43 / /bucket rw - fuse.gcsfuse trajectories rw
34 22 0:44 / /home/me/remote rw - fuse.sshfs me@host:/ rw
35 22 0:45 / /odd rw - fuse.unheard-of thing rw
36 22 0:46 / /over rw - nfs server:/a rw
37 36 254:1 / /over rw - xfs /dev/sdb rw
not a mount
"""


@pytest.mark.parametrize(
    ("folder", "kind", "is_shared", "promise"),
    [
        ("/home/me/runs", "ext4", False, ""),
        ("/data/runs", "nfs4", True, "On NFS other machines may see a row up to a minute late"),
        ("/database", "ext4", False, ""),
        ("/data/fast/x/y", "lustre", True, "only where every client mounts it with `flock`"),
        ("/mnt/with space/runs", "fuse.s3fs", True, "renames are copies that can be seen half done"),
        ("/odd", "fuse.unheard-of", True, "What fuse.unheard-of guarantees for renames and locks is unknown."),
        ("/over/there", "xfs", False, ""),
    ],
)
def test_the_deepest_mount_counts(folder: str, kind: str, is_shared: bool, promise: str) -> None:
    found = filesystem_of(folder, MOUNTS)
    assert (found.kind, found.is_shared) == (kind, is_shared)
    assert promise in found.promise
    assert found.promise.count(". ") == 0
    assert bool(found.promise) is bool(promise)


@pytest.mark.parametrize("folder", ["/mnt/with space/runs", "/bucket/runs", "/home/me/remote/runs"])
def test_mounts_without_locks_or_renames_are_refused(folder: str) -> None:
    with pytest.raises(BadCall, match=r"must lie where renames are atomic and locks hold; got fuse\.") as refused:
        filesystem.require_usable(folder, MOUNTS)
    assert "Use a bucket directly, as store.url=s3://bucket/prefix" in str(refused.value)
    assert (refused.value.kind, refused.value.exit_code) == (Kind.CONFIG, 2)
    assert filesystem.require_usable("/data/runs", MOUNTS).kind == "nfs4"


def test_a_store_is_not_made_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = filesystem_of(tmp_path)
    assert real.kind
    table = f"{MOUNTS}40 22 0:50 / {tmp_path.resolve()} rw - fuse.rclone remote: rw\n"
    usable = filesystem.require_usable
    monkeypatch.setattr("streamscalar.store.media.folder.require_usable", lambda path: usable(path, table))
    with pytest.raises(BadCall, match="writes reach the remote side later"):
        Store.create(tmp_path / "store", {}, {})
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    Store.create(tmp_path / "store", {}, {})


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    table = f"40 22 0:50 / {(tmp_path / 'disk').resolve()} rw - cifs //host/share rw\n"
    assert filesystem_of(tmp_path / "link" / "store", table).kind == "cifs"
    assert filesystem_of(tmp_path / "store", table).kind == ""


def test_locks_are_tested_by_a_second_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locks_work(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not locks_work(tmp_path / "nowhere")
    # A file system that grants every lock: the first of the two takes none.
    monkeypatch.setattr(fcntl, "flock", lambda file, mode: None)
    assert not locks_work(tmp_path)
