"""Paths of objects in a bucket, through `obstore`.

A bucket has no folders, no renames and no locks. It has one atomic write of a whole object, which can be made
conditional: that there is no such object, or that it still is the version that was read. The fence between machines
(`streamscalar.store.media.bucket_fence`) needs nothing else.

Rejected: `s3fs`, whose wheels are four times as large (20 MB against 5.6 MB) and whose writes do not support
`If-Match`; a mounted bucket (`fuse.s3fs`, `gcsfuse`, ...), which guarantees neither atomic renames nor locks.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeAlias

from streamscalar.errors import BadCall, Kind, WorkFailed

Version: TypeAlias = dict[str, str]
"""Identifies one content of an object: entity tag, and generation where the service has one."""

N_PARALLEL = 16
"""Concurrent requests of one publication or read: a request waits, it does not compute."""

_URL = re.compile(r"(s3|gs|az)://([^/]+)/*(.*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_REQUEST_S = 120
_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and AWS_ENDPOINT_URL where it is not Amazon's",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


_METADATA_PATHS = ("/latest/api/token", "/latest/meta-data", "/metadata/identity", "/computeMetadata/")
"""Paths of the metadata service of cloud machines, which clients query for credentials if the environment has none."""


class Changed(Exception):
    """The object is no longer the version that was to be replaced."""


class Unreachable(WorkFailed):
    """The bucket did not answer for about a minute; a retry may succeed."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """An object, or a prefix of objects, with the part of the interface of `pathlib.Path` that the store needs.

    Attributes
    ----------
    bucket
        Scheme and bucket, such as `s3://trajectories`.
    key
        Name within the bucket, without slashes at its ends.
    """

    bucket: str
    key: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the object that a URL names.

        Raises
        ------
        BadCall
            It names no bucket.
        """
        found = _URL.fullmatch(url)
        if found is None:
            raise BadCall("store.url", "must look like s3://bucket/prefix", repr(url), kind=Kind.CONFIG)
        scheme, bucket, key = found.groups()
        return cls(f"{scheme}://{bucket}", "/".join(part for part in key.split("/") if part))

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """Last part of the key; of a whole bucket, the bucket's."""
        return str(self).rpartition("/")[2]

    @property
    def client(self) -> Any:
        """Client of `obstore` for the bucket; made once per process and bucket."""
        return _client(self.bucket)

    def with_name(self, name: str) -> "ObjectPath":
        """Return the object of another name below the same prefix."""
        return ObjectPath(self.bucket, "/".join([*self.key.split("/")[:-1], name]))

    def read(self) -> tuple[bytes, Version]:
        """Return content and version; `FileNotFoundError` where there is no such object."""
        with _translated(self):
            found = _obstore().get(self.client, self.key)
            return bytes(found.bytes()), _version(found.meta)

    def read_bytes(self) -> bytes:
        """Return the content; `FileNotFoundError` where there is no such object."""
        return self.read()[0]

    def stamp(self) -> tuple[Version, float] | None:
        """Return the version that is there and when it was written, in seconds since 1970; `None` for none."""
        try:
            with _translated(self):
                found = _obstore().head(self.client, self.key)
        except FileNotFoundError:
            return None
        return _version(found), found["last_modified"].timestamp()

    def version(self) -> Version | None:
        """Return the version that is there, `None` where there is none."""
        found = self.stamp()
        return None if found is None else found[0]

    def exists(self) -> bool:
        """Return whether there is such an object."""
        return self.version() is not None

    def write_bytes(self, data: bytes) -> None:
        """Write the object unconditionally."""
        self._put(data, "overwrite")

    def create(self, data: bytes) -> Version:
        """Write the object where there is none, or the same content; `FileExistsError` otherwise."""
        return self._put(data, "create")

    def replace(self, data: bytes, version: Version) -> Version:
        """Write the object where it still is `version`, or has the same content; `Changed` otherwise."""
        return self._put(data, version)

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object; a missing one is no error."""
        del missing_ok
        remove([self])

    def names(self) -> list[str]:
        """Return the sorted names of the objects directly below this prefix."""
        return sorted(found["path"].rpartition("/")[2] for found in self._below()["objects"])

    def folders(self) -> list[str]:
        """Return the sorted names of the prefixes directly below this one."""
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in self._below()["common_prefixes"])

    def is_empty(self) -> bool:
        """Return whether there is nothing below this prefix."""
        with _translated(self):
            return next(iter(_obstore().list(self.client, self.key or None, chunk_size=1)), None) is None

    def _below(self) -> Any:
        with _translated(self):
            return _obstore().list_with_delimiter(self.client, self.key or None)

    def _put(self, data: bytes, mode: str | Version) -> Version:
        """Write under a condition; after a lost response, read the object to learn whether it was written."""
        try:
            with _translated(self, is_write=True):
                return _version(_obstore().put(self.client, self.key, data, mode=_mode(mode), use_multipart=False))
        except (FileExistsError, Changed):
            # The library repeats a request whose response was lost; the repetition then fails its condition.
            with contextlib.suppress(FileNotFoundError):
                there, version = self.read()
                if there == data:
                    return version
            raise


Place: TypeAlias = Path | ObjectPath
"""Where a store, or a part of it, lies: a folder, or a prefix in a bucket; see `streamscalar.store.media.opening`."""


def fetch(paths: Iterable[ObjectPath]) -> list[bytes]:
    """Return the contents of objects, read concurrently."""
    wanted = list(paths)
    if len(wanted) <= 1:
        return [path.read_bytes() for path in wanted]
    with ThreadPoolExecutor(min(N_PARALLEL, len(wanted))) as pool:
        return list(pool.map(ObjectPath.read_bytes, wanted))


def remove(paths: Iterable[ObjectPath]) -> None:
    """Delete objects of one bucket, in batches of a thousand where the service supports that."""
    wanted = list(paths)
    if wanted:
        with _translated(wanted[0]), contextlib.suppress(FileNotFoundError):
            _obstore().delete(wanted[0].client, [path.key for path in wanted])


def _obstore() -> Any:
    """Return the package, which is not imported for a store in a folder."""
    import obstore
    import obstore.exceptions

    return obstore


@lru_cache(maxsize=16)
def _client(bucket: str) -> Any:
    from obstore.store import from_url

    # Credentials and endpoint come from the environment alone, where the user may choose a plain-text endpoint.
    endpoints = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
    options: Any = {"allow_http": True} if next(filter(None, endpoints), "").startswith("http://") else {}
    options.update(connect_timeout=timedelta(seconds=5), timeout=timedelta(seconds=_REQUEST_S))
    return from_url(
        bucket,
        client_options=options,
        retry_config={
            # The time is the limit, not the count: twenty retries take only ten seconds.
            "max_retries": 1000,
            "retry_timeout": timedelta(seconds=60),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    )


def _version(found: Any) -> Version:
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


def _mode(mode: str | Version) -> Any:
    return mode if isinstance(mode, str) else dict(mode)


@contextlib.contextmanager
def _translated(path: ObjectPath, *, is_write: bool = False) -> Iterator[None]:
    """Translate errors of the service and the network into those of this package."""
    exceptions = _obstore().exceptions
    try:
        yield
    except exceptions.AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "is there already", str(path)) from None
    except exceptions.PreconditionError:
        raise Changed(str(path)) from None
    except FileNotFoundError as error:
        if is_write or "NoSuchBucket" in str(error):
            raise _bad(path, "must lie in a bucket that exists", "no such bucket", "Make it, or correct store.url",
                       Kind.STORE_MISSING) from None  # fmt: skip
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
    except exceptions.BaseError as error:
        raise _refusal(path, str(error)) from None


def _bad(path: ObjectPath, must: str, got: str, fix: str, kind: Kind) -> BadCall:
    return BadCall(f"store.url {path.bucket}", must, got, fix, kind)


def _refusal(path: ObjectPath, text: str) -> BadCall | WorkFailed:
    """Return the error for a response; only its code is quoted, so that no secret can be."""
    code = found[1] if (found := _CODE.search(text)) else ""
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    scheme = path.bucket.partition(":")[0]
    if any(part in text for part in _METADATA_PATHS):
        return _bad(path, "needs credentials from the environment", "none", _CREDENTIALS[scheme], Kind.CONFIG)
    if code == "NoSuchBucket":
        return _bad(path, "must lie in a bucket that exists", "no such bucket", "Make it, or correct store.url",
                    Kind.STORE_MISSING)  # fmt: skip
    if status in (401, 403):
        fix = f"Allow reading, writing, listing and deleting there. {_CREDENTIALS[scheme]}"
        return _bad(path, "must be open to these credentials", code or f"status {status}", fix, Kind.STORE_READ_ONLY)
    if 300 <= status < 500 and status not in (408, 409, 429):
        fix = "Check AWS_REGION and AWS_ENDPOINT_URL" if scheme == "s3" else "Check the URL"
        return _bad(path, "refused a request", code or f"status {status}", fix, Kind.CONFIG)
    return Unreachable(
        f"store.url {path.bucket}",
        "did not answer; every committed row is kept",
        code or (f"status {status}" if status else "no connection"),
        "Check the network and the endpoint, then resume",
    )
