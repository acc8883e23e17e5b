"""Errors, grouped by what a handler would do with them.

`BadCall` means the caller can fix it: one sentence, exit code 2, nothing written. `WorkFailed` means the work
itself stopped: exit code 1, everything acknowledged so far is kept. Bad *data* inside an analysis is no error at
all but the status of an estimate (see `streamscalar.types.Status`).
"""

from enum import StrEnum


class Kind(StrEnum):
    """Machine-readable kinds of error; members are only ever appended."""

    CONFIG = "config"
    DATA = "data"
    STORE_MISSING = "store_missing"
    STORE_OTHER_CONFIG = "store_other_config"
    STORE_SCHEMA = "store_schema"
    STORE_READ_ONLY = "store_read_only"
    STORE_CORRUPT = "store_corrupt"
    STORE_FULL = "store_full"
    NOT_RETAINED = "not_retained"
    FENCED = "fenced"
    NOT_REPRODUCIBLE = "not_reproducible"
    CLUSTER = "cluster"
    RUN_FAILED = "run_failed"
    CANCELLED = "cancelled"


class StreamscalarError(Exception):
    """Base of all errors that a user may see.

    Parameters
    ----------
    where
        The field, file or object at fault, as the user would name it.
    must
        What it must be, or what went wrong, as the rest of a sentence.
    got
        What was found instead; empty where that says nothing.
    fix
        What to do, as an imperative sentence.
    kind
        Machine-readable kind.
    context
        Run and step, where there are any.
    """

    exit_code = 1

    def __init__(
        self,
        where: str,
        must: str,
        got: str = "",
        fix: str = "",
        kind: Kind = Kind.RUN_FAILED,
        context: str = "",
    ) -> None:
        super().__init__(where, must, got, fix, kind, context)
        self.where = where
        self.must = must
        self.got = got
        self.fix = fix
        self.kind = kind
        self.context = context

    def __str__(self) -> str:
        got = f"; got {self.got}" if self.got else ""
        fix = f". {self.fix}" if self.fix else ""
        context = f" [{self.context}]" if self.context else ""
        text = f"{self.where}: {self.must}{got}{fix}{context}"
        return text if text.endswith((".", "?")) else f"{text}."


class BadCall(StreamscalarError):
    """The call, the config or a named file is wrong; the caller can fix it. Exit code 2, nothing was written."""

    exit_code = 2


class WorkFailed(StreamscalarError):
    """The work stopped; every acknowledged row is kept. Exit code 1."""


class Fenced(StreamscalarError):
    """A newer attempt owns the stream; this writer must stop at once and write nothing more."""
