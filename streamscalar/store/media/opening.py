"""The place that a path or URL names, and the medium of a place."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from streamscalar.errors import BadCall, Kind
from streamscalar.store.media.bucket import Bucket
from streamscalar.store.media.folder import Folder
from streamscalar.store.media.medium import Medium
from streamscalar.store.media.objects import ObjectPath, Place

_FOLDER, _BUCKET = Folder(), Bucket()
_MANGLED = re.compile(r"(?:^|.*/)(s3|gs|az|file):/+(.+)")


def place(where: str | os.PathLike[str] | ObjectPath) -> Place:
    """Return a folder, or the prefix in a bucket that a URL names; `file:///folder` is a folder.

    Raises
    ------
    BadCall
        It is a URL that names no bucket, or a path made from a URL.
    """
    if isinstance(where, ObjectPath):
        return where
    if isinstance(where, str) and where.startswith("file://"):
        parts = urlsplit(where)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise BadCall("store", "must look like file:///folder", repr(where), kind=Kind.CONFIG)
        return Path(url2pathname(parts.path))
    if isinstance(where, str) and "://" in where:
        return ObjectPath.parse(where)
    folder = Path(where)
    # `Path` removes one slash of a URL; without this error, a local folder of that name would be made.
    if lost := _MANGLED.match(str(folder)):
        url = f"{lost[1]}://{'/' if lost[1] == 'file' else ''}{lost[2]}"
        raise BadCall("store", "must be a folder here", url, "Where a URL can be given, give it as text", Kind.CONFIG)
    return folder


def medium_of(place: Place) -> Medium[Any]:
    """Return the medium of a place. Its methods take places of that medium only, hence `Any`."""
    return _BUCKET if isinstance(place, ObjectPath) else _FOLDER
