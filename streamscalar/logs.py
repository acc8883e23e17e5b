r"""Log lines: one JSON object, or one line of text, for every event.

Whoever logs uses `logging` and says in `extra` what the event is about; `FIELDS` names what a line can hold. Nothing
that comes from outside can end a line early or begin another: JSON escapes it, and the text form does the same.

>>> event = {"name": "a", "levelname": "INFO", "msg": "ended\nERROR b", "created": 0.25, "row": 7}
>>> record = logging.makeLogRecord(event)
>>> JsonLines({"node": "n1"}).format(record)
'{"time":"1970-01-01T00:00:00.250Z","level":"INFO","logger":"a","message":"ended\\nERROR b","row":7,"node":"n1"}'
>>> TextLines({}).format(record)
'1970-01-01T00:00:00.250Z INFO a: ended\\nERROR b [row=7]'
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from streamscalar.config.log_settings import LogFormat

FIELDS = ("experiment", "run", "attempt", "row", "node", "event", "reason")
"""What an event may be about, in the order of a line."""

OURS = ("streamscalar", "streamscalar_services")
"""Loggers of which everything is written; of others only warnings are."""


class JsonLines(logging.Formatter):
    """One JSON object per event: time, level, logger, message, the fields that apply, and the exception if any.

    Parameters
    ----------
    always
        Fields of every line of this process, where the event does not say otherwise.
    """

    def __init__(self, always: Mapping[str, str]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, in ASCII and without its end."""
        document: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record, self._always),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=_plain, separators=(",", ":"))


class TextLines(logging.Formatter):
    """One line of text per event for people; of a traceback every line is indented.

    Parameters
    ----------
    always
        As in `JsonLines`.
    """

    def __init__(self, always: Mapping[str, str]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record, self._always).items())
        about = f" [{fields}]" if fields else ""
        line = one_line(f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{about}")
        if not record.exc_info:
            return line
        traceback = self.formatException(record.exc_info).split("\n")
        return "\n".join([line, *(f"    {one_line(part)}" for part in traceback)])


def set_up_logs(form: LogFormat | None, level: int = logging.INFO, **always: str) -> None:
    """Write what this process logs to its standard error from now on, in place of what an earlier call chose.

    Parameters
    ----------
    form
        `json` or `text`; `None` writes nothing, not even the warnings that Python would print by itself.
    level
        Least grave level of our own events; of other packages, and of Python's warnings, only warnings are written.
    always
        Fields of every line, such as `node`.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Ours | _Silence)]:
        root.removeHandler(handler)
    logging.captureWarnings(form is not None)
    if form is None:
        root.addHandler(_Silence())
        return
    handler = _Ours(sys.stderr)
    handler.setFormatter(JsonLines(always) if form == "json" else TextLines(always))
    root.addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(level)


class _Ours(logging.StreamHandler[Any]):
    """The handler of `set_up_logs`, which the next call replaces."""


class _Silence(logging.NullHandler):
    """The same where nothing is written."""


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord, always: Mapping[str, str]) -> dict[str, Any]:
    own = {**always, **{name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}}
    return {name: own[name] for name in FIELDS if name in own}


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python, and anything else as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def one_line(text: str) -> str:
    """Return a text with its control characters, line ends of every alphabet and directions spelled out."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)
