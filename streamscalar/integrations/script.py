"""Run a training script as Python does, with its training tracked."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from streamscalar.errors import BadCall, Kind
from streamscalar.integrations.owners import optimizers
from streamscalar.integrations.updates import Updates

INTERRUPTED = 130
"""Exit code of a script that was interrupted, as a shell shows it."""


def run_script(path: Path, arguments: Sequence[str], options: dict[str, Any], say: Callable[[str], None]) -> int:
    """Run a script as `python path arguments...` does, and record the training in it.

    The script needs no change: it gets `sys.argv`, `sys.path` and `__main__` as from Python, and its training keeps all
    bits. Processes that it starts are not recorded.

    Parameters
    ----------
    path
        The script.
    arguments
        Its arguments.
    options
        Options of `streamscalar.track`.
    say
        Called with sentences for the user.

    Returns
    -------
    int
        Exit code of the script; 1 if it ends with an exception, whose traceback is printed.

    Raises
    ------
    BadCall
        There is no such script.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        got = f"{path} ({error.strerror})"
        raise BadCall("SCRIPT", "must be the path of a Python file", got, kind=Kind.CONFIG) from None
    updates = Updates(options, say, optimizers())
    failure: BaseException | None = None
    exit_code = 0
    with _as_main(path, arguments) as names:
        threads = set(threading.enumerate())
        try:
            exec(compile(source, names["__file__"], "exec", dont_inherit=True), names)
        except BaseException as error:  # noqa: BLE001  (a script may end with any)
            failure = error
            exit_code = _report(error)
        for thread in set(threading.enumerate()) - threads:
            # Python waits for these before it ends, too.
            if not thread.daemon:
                thread.join()
    updates.end(failure if exit_code else None)
    return exit_code


@contextmanager
def _as_main(path: Path, arguments: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the names of a new `__main__`, with `sys.argv` and `sys.path` as a script has them."""
    main = ModuleType("__main__")
    main.__file__ = str(path.absolute())
    main.__dict__.update(__annotations__={}, __cached__=None)
    main.__loader__ = SourceFileLoader("__main__", main.__file__)
    before = sys.modules["__main__"], sys.argv, list(sys.path)
    sys.modules["__main__"], sys.argv = main, [str(path), *arguments]
    if not sys.flags.safe_path:
        # The first entry is the folder of the program that runs this.
        sys.path[0] = str(path.resolve().parent)
    try:
        yield main.__dict__
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = before


def _report(error: BaseException) -> int:
    """Print what Python prints of an exception that ends a script; return the exit code."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)  # noqa: T201  (as Python does)
        return 1
    # The first frame is the one of this module.
    frames = None if error.__traceback__ is None else error.__traceback__.tb_next
    error.__traceback__ = frames
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, frames
    sys.excepthook(type(error), error, frames)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
