"""The file system of a folder, and what it does not guarantee to a store."""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from streamscalar.errors import BadCall, Kind

_ORDER = (
    "other machines may see a row up to a minute late (attribute caching); locks between machines need NFS 4, or lockd"
)
_SHARED = {
    "nfs": f"On NFS {_ORDER}.",
    "nfs4": "On NFS other machines may see a row up to a minute late, as attributes are cached.",
    "cifs": "On SMB locks hold between machines only where the mount does not say `nobrl`; readers may lag.",
    "smb3": "On SMB locks hold between machines only where the mount does not say `nobrl`; readers may lag.",
    "lustre": "On Lustre locks hold between machines only where every client mounts it with `flock`.",
    "ceph": "On CephFS a machine that was cut off may lose rows that it has written and not yet waited for.",
    "fuse.ceph": "On CephFS by FUSE a machine that was cut off may lose rows that it has not yet waited for.",
    "glusterfs": "On GlusterFS a brick that was cut off may show older rows until it has healed.",
    "fuse.glusterfs": "On GlusterFS a brick that was cut off may show older rows until it has healed.",
    "9p": "On 9p locks hold only within this machine, so a second machine is not locked out.",
    "virtiofs": "On virtiofs locks hold only within this machine unless the host shares them (`--posix-lock`).",
    "beegfs": "On BeeGFS locks hold between machines only where `tuneUseGlobalFileLocks` is set.",
    "gpfs": "On GPFS locks hold between machines only where the file system is mounted with Posix locks.",
}
_REFUSED = {
    "fuse.s3fs": "renames are copies that can be seen half done, and there are no locks between machines",
    "fuse.gcsfuse": "renames of folders are not atomic, and there are no locks between machines",
    "fuse.goofys": "files cannot be changed once written, and there are no locks between machines",
    "fuse.geesefs": "writes reach the bucket later and in any order, and there are no locks between machines",
    "fuse.rclone": "writes reach the remote side later and in any order, and there are no locks between machines",
    "fuse.mount-s3": "files cannot be changed or renamed once written, and there are no locks between machines",
    "fuse.sshfs": "renames over a file are not atomic, and there are no locks between machines",
}
_ALIASES = {"fuse.s3fs-fuse": "fuse.s3fs", "fuse.mountpoint-s3": "fuse.mount-s3", "fuse.ceph-fuse": "fuse.ceph"}
_ESCAPED = re.compile(r"\\([0-7]{3})")
_PROBE_S = 30
_PROBE = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("locked out")
else:
    print("not locked out")
"""


@dataclass(frozen=True, slots=True)
class Filesystem:
    """The file system under a folder.

    Attributes
    ----------
    kind
        Type as the kernel names it, such as `ext4` or `nfs4`; empty where it is unknown.
    is_shared
        Whether other machines can have it mounted too.
    promise
        One sentence on what it does not guarantee; empty for a local disk.
    is_refused
        Whether a store must not lie there.
    """

    kind: str
    is_shared: bool
    promise: str
    is_refused: bool = False


def filesystem_of(path: str | os.PathLike[str], mounts: str | None = None) -> Filesystem:
    """Return the file system of a folder, or the one where it would be made.

    Parameters
    ----------
    path
        The folder.
    mounts
        Table of mounts in the form of `/proc/self/mountinfo`; by default that of this process.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            mounts = ""
    folder = Path(path).expanduser().resolve()
    kind, deepest = "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if not after or len(before.split(" ")) < 5:
            continue
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4]))
        # Of several mounts on one folder, the last hides the others.
        if folder.is_relative_to(point) and len(point.parts) >= deepest:
            kind, deepest = after.split(" ")[0], len(point.parts)
    kind = _ALIASES.get(kind, kind)
    if kind in _REFUSED:
        return Filesystem(kind, True, f"On {kind} {_REFUSED[kind]}.", is_refused=True)
    if kind.startswith("fuse.") and kind not in _SHARED:
        return Filesystem(kind, True, f"What {kind} guarantees for renames and locks is unknown.")
    return Filesystem(kind, kind in _SHARED, _SHARED.get(kind, ""))


def require_usable(path: str | os.PathLike[str], mounts: str | None = None) -> Filesystem:
    """Return the file system of a folder that a store may lie on.

    Raises
    ------
    BadCall
        Its renames or locks do not work as a store needs them to.
    """
    found = filesystem_of(path, mounts)
    if found.is_refused:
        raise BadCall(
            f"store.url {path}",
            "must lie where renames are atomic and locks hold",
            f"{found.kind}: {_REFUSED[found.kind]}",
            "Use a bucket directly, as store.url=s3://bucket/prefix, or a local or network file system",
            Kind.CONFIG,
        )
    return found


def locks_work(folder: str | os.PathLike[str]) -> bool:
    """Return whether a lock that this process holds on a file in `folder` keeps another process out; about 50 ms.

    It does not test locks between machines; see `Filesystem.promise` for those.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-probe-") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            command = [sys.executable, "-I", "-S", "-c", _PROBE, file.name]
            found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PROBE_S)
            return found.stdout.strip() == "locked out"
    except (OSError, subprocess.SubprocessError):
        return False
