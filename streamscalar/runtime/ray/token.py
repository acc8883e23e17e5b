"""The token that Ray's processes show each other."""

import contextlib
import os
import secrets
from pathlib import Path


def token_file() -> Path:
    """Return the file that Ray reads its token from where RAY_AUTH_TOKEN is not set."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def adopt_token() -> None:
    """Show the token of this user to every cluster, as Ray itself does to none that is given by address.

    A cluster without authentication ignores it. An explicit RAY_AUTH_MODE is obeyed.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    if "RAY_AUTH_MODE" not in os.environ and (os.environ.get("RAY_AUTH_TOKEN") or token_file().exists()):
        os.environ["RAY_AUTH_MODE"] = "token"
        # Ray has read its variables when it was imported.
        Config.initialize("")


def protect_token() -> None:
    """Make the token file where it is missing, and let nobody else read it; Ray makes it readable to all."""
    file = token_file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
                new.write(secrets.token_hex(32))
        except FileExistsError:
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)
