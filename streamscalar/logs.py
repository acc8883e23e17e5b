r"""Log lines: one JSON object or one line of text per event.

Modules log with `logging` and pass the subject of the event in `extra`; `FIELDS` lists the possible keys. Values from
outside cannot end a line or begin another one: control characters and line ends are escaped in both formats.

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
"""Keys of the subject of an event, in the order of a line."""

OURS = ("streamscalar", "streamscalar_services")
"""Loggers whose events are written from the chosen level on; of all others only warnings and errors are."""


class JsonLines(logging.Formatter):
    """Format events as JSON objects: time, level, logger, message, the fields that apply, and the exception if any.

    Parameters
    ----------
    always
        Fields of every line of this process; those of the event take precedence.
    """

    def __init__(self, always: Mapping[str, str]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """Return the line in ASCII, without a line end."""
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
    """Format events as lines of text; lines of a traceback are indented.

    Parameters
    ----------
    always
        As in `JsonLines`.
    """

    def __init__(self, always: Mapping[str, str]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without a line end."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record, self._always).items())
        about = f" [{fields}]" if fields else ""
        line = one_line(f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{about}")
        if not record.exc_info:
            return line
        traceback = self.formatException(record.exc_info).split("\n")
        return "\n".join([line, *(f"    {one_line(part)}" for part in traceback)])


def set_up_logs(form: LogFormat | None, level: int = logging.INFO, **always: str) -> None:
    """Write the log of this process to standard error; replaces the setting of an earlier call.

    Parameters
    ----------
    form
        `json` or `text`; `None` writes nothing, not even the warnings that Python prints by default.
    level
        Minimum level of events of streamscalar; events of other packages are written from `WARNING` on.
    always
        Fields of every line, such as `node="host1"`.
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
    """Handler of `set_up_logs`, which the next call replaces."""


class _Silence(logging.NullHandler):
    """Handler of `set_up_logs` that writes nothing."""


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord, always: Mapping[str, str]) -> dict[str, Any]:
    own = {**always, **{name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}}
    return {name: own[name] for name in FIELDS if name in own}


def _plain(value: Any) -> Any:
    """Return a NumPy number as a Python number, and any other value as text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def one_line(text: str) -> str:
    """Return a text with all control characters, Unicode line ends and direction marks escaped."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)
