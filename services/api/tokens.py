"""Access rights: bearer tokens, and the session cookie of a browser.

Tokens are compared in constant time. The cookie holds a keyed hash instead of the token, so that it survives a restart
of the service and gives no access elsewhere. A request with a cookie may change something only if it comes from the
page of the service.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from streamscalar.config.service import ADMIN_TOKEN_FILE, READ_TOKEN_FILE, token_folder
from streamscalar.errors import BadCall, Kind

LEAST_CHARACTERS = 16


class Right(StrEnum):
    """What a token allows."""

    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The two secrets of a service; `admin` may also read."""

    read: str
    admin: str

    def __repr__(self) -> str:
        return "Tokens(...)"

    def right(self, presented: str) -> Right | None:
        """Return the right of a token; `None` for an unknown one."""
        return self._match(presented, {Right.READ: self.read, Right.ADMIN: self.admin})

    def cookie_right(self, presented: str) -> Right | None:
        """Return the right of a cookie; `None` for an unknown one."""
        return self._match(presented, {right: self.cookie(right) for right in Right})

    def cookie(self, right: Right) -> str:
        """Return the value of the cookie for a token."""
        key = self.read if right is Right.READ else self.admin
        return hmac.new(key.encode(), b"streamscalar cookie 1", hashlib.sha256).hexdigest()

    @property
    def cookie_name(self) -> str:
        """Name of the cookie; it differs between services, as browsers share cookies between ports."""
        return "streamscalar_" + hashlib.sha256(b"name " + self.read.encode()).hexdigest()[:8]

    @staticmethod
    def _match(presented: str, known: Mapping[Right, str]) -> Right | None:
        found = None
        for right, secret in known.items():
            # All are compared, each in constant time.
            if hmac.compare_digest(_digest(presented), _digest(secret)):
                found = right
        return found

    @classmethod
    def load(cls, folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the tokens of the environment, else of their files, which are created if they are missing.

        Parameters
        ----------
        folder
            Folder of the files `token` and `admin-token`; `~/.config/streamscalar` by default.
        environ
            Environment, with or without `STREAMSCALAR_TOKEN` and `STREAMSCALAR_ADMIN_TOKEN`.

        Raises
        ------
        BadCall
            A token is too short, or other users may read its file.
        """
        place = folder or token_folder(environ)
        return cls(
            _load("STREAMSCALAR_TOKEN", environ, place / READ_TOKEN_FILE),
            _load("STREAMSCALAR_ADMIN_TOKEN", environ, place / ADMIN_TOKEN_FILE),
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _load(variable: str, environ: Mapping[str, str], path: Path) -> str:
    token = environ.get(variable)
    if token is not None:
        return _checked(token, variable)
    try:
        return _checked(_read(path), str(path))
    except FileNotFoundError:
        pass
    token = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _checked(_read(path), str(path))
    except OSError as error:
        raise BadCall(
            str(path), "cannot be written", str(error.strerror), f"Set {variable} instead", Kind.CONFIG
        ) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def _read(path: Path) -> str:
    with path.open() as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise BadCall(
                str(path), "must be readable by its owner alone", f"mode {mode:04o}", f"Run chmod 600 {path}",
                Kind.CONFIG,
            )  # fmt: skip
        return file.read().strip()


def _checked(token: str, where: str) -> str:
    if len(token) < LEAST_CHARACTERS or not token.isascii() or any(c.isspace() for c in token):
        must = f"must be at least {LEAST_CHARACTERS} ASCII characters without spaces"
        raise BadCall(where, must, f"{len(token)} characters", kind=Kind.CONFIG)
    return token
