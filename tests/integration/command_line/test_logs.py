"""Log lines of real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def test_a_poor_choice_ends_the_command_with_one_sentence(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "streamscalar", "serve", str(tmp_path), "--port", "0"],
        env={"STREAMSCALAR_LOG": "yaml", "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("streamscalar: STREAMSCALAR_LOG: must be json or text; got 'yaml'")
    assert "Traceback" not in found.stderr


def test_a_service_writes_nothing_but_json(tmp_path: Path) -> None:
    """A store of a newer schema is left out, which the service says in its log."""
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "zarr.json").write_text('{"attributes": {"schema_version": 99}}')
    command = [sys.executable, "-m", "streamscalar", "serve", str(tmp_path), "--port", "0", "--quiet"]
    environment = {**os.environ, "STREAMSCALAR_LOG": "json", "STREAMSCALAR_TOKEN": "t" * 20, "HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        process.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in process.stderr]
    assert (first["level"], first["logger"]) == ("WARNING", "streamscalar_services.api.watch.catalog")
    assert "must have schema version 1 or older" in first["message"]
    assert first["node"] == socket.gethostname()
    assert all({"time", "level", "logger", "message"} <= set(line) for line in rest)
