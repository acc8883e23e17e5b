"""Format of the log lines, from the environment variable `STREAMSCALAR_LOG`."""

import os
from collections.abc import Mapping
from typing import Literal

from streamscalar.config.loading import ENVIRONMENT_PREFIX
from streamscalar.errors import BadCall, Kind

LogFormat = Literal["json", "text"]

VARIABLE = f"{ENVIRONMENT_PREFIX}LOG"


def log_format(environment: Mapping[str, str] = os.environ) -> LogFormat | None:
    """Return the format set by `STREAMSCALAR_LOG`, or `None` if it is unset or empty.

    Raises
    ------
    BadCall
        The variable is neither `json` nor `text`.

    Examples
    --------
    >>> log_format({"STREAMSCALAR_LOG": "json"})
    'json'
    """
    match environment.get(VARIABLE, ""):
        case "":
            return None
        case "json":
            return "json"
        case "text":
            return "text"
        case other:
            raise BadCall(VARIABLE, "must be json or text", repr(other), "Or unset it", Kind.CONFIG)
