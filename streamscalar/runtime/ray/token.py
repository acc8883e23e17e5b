"""The token with which processes of Ray authenticate to each other."""

import contextlib
import os
import secrets
from pathlib import Path


def token_file() -> Path:
    """Return the file from which Ray reads its token if RAY_AUTH_TOKEN is not set."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def adopt_token() -> None:
    """Make Ray send the token of this user to every cluster; by default it sends none to a cluster given by address.

    A cluster without authentication ignores the token. An explicit RAY_AUTH_MODE takes precedence.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    if "RAY_AUTH_MODE" not in os.environ and (os.environ.get("RAY_AUTH_TOKEN") or token_file().exists()):
        os.environ["RAY_AUTH_MODE"] = "token"
        # Ray reads its variables on import, so they must be read again.
        Config.initialize("")


def protect_token() -> None:
    """Create the token file if it is missing, and restrict it to its owner; Ray creates it readable by all."""
    file = token_file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
                new.write(secrets.token_hex(32))
        except FileExistsError:
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)
