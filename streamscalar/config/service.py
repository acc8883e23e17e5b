"""Where `streamscalar serve` listens, and where it and its clients find their tokens."""

import os
from collections.abc import Mapping
from pathlib import Path

DEFAULT_PORT = 8870
"""Port of `streamscalar serve`."""

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
"""URL of a service that was started on this machine without options."""

READ_TOKEN_FILE, ADMIN_TOKEN_FILE = "token", "admin-token"
"""Names of the token files in `token_folder()`."""


def token_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the token files of this user.

    Examples
    --------
    >>> token_folder({"XDG_CONFIG_HOME": "/etc/xdg"}) / READ_TOKEN_FILE
    PosixPath('/etc/xdg/streamscalar/token')
    """
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "streamscalar"
