"""Errors, grouped by what the caller does with them.

`BadCall` means that the caller can fix the call: exit code 2, nothing was written. `WorkFailed` means that the work
stopped: exit code 1, all acknowledged rows are kept. Unsuitable data in an analysis raise no error; they are the status
of an estimate (see `streamscalar.types.Status`).
"""

from enum import StrEnum


class Kind(StrEnum):
    """Machine-readable kind of an error. New members may be added; members are never renamed or removed."""

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
    """Base of all errors that streamscalar raises for users.

    Its text is *where: must; got. fix. [context]*.

    Parameters
    ----------
    where
        Name of the field, file or object at fault, as the user knows it.
    must
        What it must be, or what went wrong; continues the sentence after `where:`.
    got
        What was found instead; empty if that adds nothing.
    fix
        What to do, as an imperative sentence; empty if there is nothing to advise.
    kind
        Machine-readable kind of the error.
    context
        Run and step, if any.
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
    """The call, the config or a file is wrong and the caller can fix it; nothing was written. Exit code 2."""

    exit_code = 2


class WorkFailed(StreamscalarError):
    """The work stopped; all acknowledged rows are kept. Exit code 1."""


class Fenced(StreamscalarError):
    """A newer attempt has taken over the stream; this writer must stop and write nothing more."""
