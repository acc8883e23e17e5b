"""Commands of the package in processes forked from one that has imported it: real ones, but for the seconds of imports.

A test of how Python starts, or of what is imported, starts `python -m streamscalar` itself.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
LOADED = (
    *("streamscalar.cli", "streamscalar.experiment", "streamscalar.report", "streamscalar.runtime.inline"),
    *("pandas", "pyarrow.parquet", "scipy.stats", "sklearn.datasets", "torch", "uvicorn"),
    *("streamscalar_services.api", "uvicorn.loops.auto", "uvicorn.protocols.http.auto"),
)


class Forkserver:
    """The process that forks."""

    def __init__(self) -> None:
        # One thread: a fork copies no other, and whatever one held stays locked for ever.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `streamscalar` with these arguments to its end."""
        with TemporaryDirectory() as folder:
            out, error = (Path(folder) / name for name in ("out", "error"))
            words = list(map(str, arguments))
            request = {
                "arguments": words,
                "cwd": str(cwd or Path.cwd()),
                "environment": {**(os.environ if environment is None else environment)},
                "out": str(out),
                "error": str(error),
            }
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(words, code, out.read_text("utf-8"), error.read_text("utf-8"))


@cache
def forkserver() -> Forkserver:
    """Return the one of this process, started when it is first needed."""
    server = Forkserver()
    atexit.register(server.close)
    return server


def _serve() -> None:
    for name in LOADED:
        importlib.import_module(name)
    threads = [path.read_text("utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")]
    # The allocator of Arrow is made to be forked.
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, f"an import started a thread: {threads}"
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_command(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201  (the answer)


def _command(request: dict[str, Any]) -> int:
    """Be `streamscalar` with the arguments, and return its exit code."""
    from streamscalar.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["streamscalar", *request["arguments"]]
    try:
        main()
    except SystemExit as left:
        code = left.code
    except BaseException:  # noqa: BLE001  (as Python itself ends)
        traceback.print_exc()
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    _serve()
