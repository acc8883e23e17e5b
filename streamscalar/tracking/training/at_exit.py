"""Ends what is recorded when the interpreter ends by itself."""

import atexit
import sys
from collections.abc import Callable


def end_at_exit(end: Callable[[str], object]) -> Callable[[], None]:
    """Let the interpreter call `end` when it ends: with an empty text, or with the exception that ended it.

    Returns the function for `atexit.unregister`.
    """
    known = getattr(sys, "last_value", None)

    def at_exit() -> None:
        error = getattr(sys, "last_value", None)
        has_failed = error is not None and error is not known
        end(f"The training ended with {type(error).__name__}: {error}" if has_failed else "")

    atexit.register(at_exit)
    return at_exit
