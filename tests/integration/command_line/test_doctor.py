"""`doctor` against real file systems, a real service and a real Ray cluster."""

import json
import os
import re
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from streamscalar.doctor import checks as doctor
from streamscalar.doctor import store as doctor_store
from streamscalar.doctor.checks import Check, CheckResult, CheckStatus, cpu_quota, made, worst
from streamscalar.doctor.store import store_checks
from streamscalar.errors import BadCall
from streamscalar.store import Store
from streamscalar.testing.sample_run import add, layout
from tests.conftest import small_config
from tests.forkserver import forkserver

TOKEN = "the-token-of-the-doctor-tests-".ljust(64, "0")


def called(home: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run `doctor` as a user whose home is `home`, and return its exit code and what it wrote."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_"))}
    own |= {"HOME": str(home), "COLUMNS": "200", "RAY_USAGE_STATS_ENABLED": "0", **environment}
    ended = forkserver().run("doctor", *arguments, environment=own)
    return ended.returncode, ended.stdout, ended.stderr


def found_by(home: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code and the checks by name, from the JSON document."""
    code, out, error = called(home, *arguments, "--json", **environment)
    assert "Traceback" not in error
    document = json.loads(out)
    assert document["schema"] == 1
    assert code == (1 if document["status"] == "fail" else 0)
    return code, {check["name"]: check for check in document["checks"]}


def test_an_installation_is_fine_and_the_document_has_its_shape(tmp_path: Path) -> None:
    code, checks = found_by(tmp_path)
    assert code == 0
    assert list(checks) == ["python", "packages", "torch", "cores", "clock", "umask", "tokens", "port"]
    assert all(set(check) == {"group", "name", "status", "found", "fix", "seconds"} for check in checks.values())
    assert {check["group"] for check in checks.values()} == {"installation"}
    assert all(check["fix"] for check in checks.values() if check["status"] in ("warn", "fail"))
    assert re.match(r"streamscalar \S+, all of its \d\d packages in range", checks["packages"]["found"])


def test_a_token_that_others_may_read_fails_with_the_command_that_mends_it(tmp_path: Path) -> None:
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text(TOKEN)
    file.chmod(0o644)
    code, out, _ = called(tmp_path)
    assert code == 1
    assert re.search(r"fail +tokens +others may read a token: \S+/\.ray/auth_token has mode 0644", out)
    command = re.search(r"Run (chmod 600 \S+);", out)
    assert command
    subprocess.run(command[1].split(), check=True)
    assert found_by(tmp_path)[1]["tokens"]["found"] == "1 token files, readable by their owner only"


def test_a_umask_that_lets_others_write_is_warned_of(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        finding = doctor.installation()["umask"]()
    finally:
        os.umask(before)
    assert (finding.status, finding.found) == (CheckStatus.WARN, "umask 0002 lets others write what this user makes")


def test_the_quota_of_a_control_group_is_read_in_both_versions(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert cpu_quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5


def test_who_holds_the_port_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"status":"ok"}'

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        monkeypatch.setattr(doctor, "DEFAULT_PORT", server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = doctor.installation()["port"]
        assert port() == CheckResult(CheckStatus.OK, f"a streamscalar service answers on port {server.server_port}")
        body = b"hello"
        assert port().status is CheckStatus.WARN
        server.shutdown()
    assert port() == CheckResult(CheckStatus.OK, f"port {server.server_port} is free for streamscalar serve")


def test_a_check_that_hangs_or_breaks_is_a_finding_of_its_own() -> None:
    over = threading.Event()

    def hangs() -> CheckResult:
        over.wait(60)
        return CheckResult(CheckStatus.OK, "")

    def breaks() -> CheckResult:
        raise OSError(5, "Input/output error")

    def refuses() -> CheckResult:
        raise BadCall("store", "must be there", "nothing", "Make it")

    began = time.monotonic()
    first, second, third = made("store", {"a": hangs, "b": breaks, "c": refuses}, timeout_s=0.3)
    over.set()
    assert time.monotonic() - began < 10
    assert first.result.status is CheckStatus.FAIL
    assert first.result.found == "no answer within 0.3 s"
    assert second.result.found == "OSError: [Errno 5] Input/output error"
    assert third.result == CheckResult(CheckStatus.FAIL, "store: must be there; nothing", "Make it")


def test_the_worst_check_decides() -> None:
    checks = [Check("store", "a", CheckResult(verdict, "")) for verdict in (CheckStatus.OK, CheckStatus.SKIPPED)]
    assert worst(checks) is CheckStatus.OK
    checks.append(Check("store", "b", CheckResult(CheckStatus.WARN, "")))
    assert worst(checks) is CheckStatus.WARN
    assert worst([*checks, Check("store", "c", CheckResult(CheckStatus.FAIL, ""))]) is CheckStatus.FAIL


# Stores.


def of_store(path: Path) -> dict[str, CheckResult]:
    return {check.name: check.result for check in made("store", store_checks(str(path)))}


def test_a_store_is_examined_and_left_as_it_was(tmp_path: Path) -> None:
    config = small_config(tmp_path / "s")
    store = Store.create(tmp_path / "s", config.identity(), {"streamscalar": "0.1.0"})
    for run_id, reason in (("lr1_ic0", ""), ("lr5_ic0", "the worker's process died\x1b[31m [bold]")):
        add(store, run_id, layout(), 8, 8)
        store.set_status(run_id, phase="failed" if reason else "done", reason=reason)
    old = tmp_path / "s" / "runs" / ".lr7_ic0.99-0.partial"
    old.mkdir()
    os.utime(old, (0, 0))
    before = sorted(path for path in tmp_path.rglob("*"))
    code, checks = found_by(tmp_path, str(tmp_path / "s"))
    assert code == 0
    assert [name for name, check in checks.items() if check["group"] == "store"] == [
        "file system",
        "free space",
        "locks",
        "disk",
        "store",
        "leftovers",
        "runs",
    ]
    times = re.search(r"in ([\d.e-]+) ms \(p50\), ([\d.e-]+) ms \(p99\)", checks["disk"]["found"])
    assert times
    assert 0 < float(times[1]) <= float(times[2])
    assert checks["store"]["found"] == "a store that this version can read and write, created by streamscalar 0.1.0"
    assert checks["leftovers"]["status"] == "warn"
    assert str(old) in checks["leftovers"]["found"]
    assert checks["runs"]["found"].startswith("2 runs: 1 done, 1 failed (lr5_ic0: the worker's process died")
    assert "streamscalar resume" in checks["runs"]["fix"]
    code, out, _ = called(tmp_path, str(tmp_path / "s"))
    assert "\x1b[31m" not in out
    assert "[bold]" in out
    # What Python itself keeps in a home is not ours.
    after = sorted(path for path in tmp_path.rglob("*") if ".cache" not in path.parts)
    assert after == before


def test_a_store_of_a_newer_schema_fails(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", small_config(tmp_path / "s").identity(), {})
    document = json.loads((tmp_path / "s" / "zarr.json").read_text())
    document["attributes"]["schema_version"] = 99
    (tmp_path / "s" / "zarr.json").write_text(json.dumps(document))
    code, checks = found_by(tmp_path, str(tmp_path / "s"))
    assert code == 1
    assert checks["store"]["found"].endswith("must have schema version 1 or older; 99")
    assert checks["store"]["fix"] == "Install a newer streamscalar"
    assert checks["runs"]["status"] == "skipped"


def test_a_place_where_nothing_is_yet_is_examined_above_it(tmp_path: Path) -> None:
    found = of_store(tmp_path / "runs" / "mine")
    assert set(found) == {"file system", "free space", "locks", "disk", "store"}
    assert found["store"].found == f"does not exist yet; checked {tmp_path}, where it would be created"
    assert list(tmp_path.iterdir()) == []
    Store.create(tmp_path / "one", small_config(tmp_path / "one").identity(), {})
    assert of_store(tmp_path)["store"].found == "a folder of 1 stores: one"


def test_a_full_memory_file_system_fails_with_what_to_do(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        found = of_store(small / "mine")
        left = list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)
    gone = "tmpfs: its files are lost when the machine stops"
    assert found["file system"] == CheckResult(CheckStatus.WARN, gone, "Keep stores on a disk")
    assert found["free space"].status is CheckStatus.FAIL
    assert found["disk"].status is CheckStatus.FAIL
    assert "No space left on device" in found["disk"].found
    assert left == []


def test_a_dead_mount_is_told_instead_of_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    over = threading.Event()
    real = Path.exists
    monkeypatch.setattr(doctor_store, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(doctor_store, "answered", lambda call: doctor.answered(call, 0.2))
    # A mount whose server is gone: whoever asks for what is in it waits.
    monkeypatch.setattr(Path, "exists", lambda path: real(path) or over.wait(60))
    found = of_store(tmp_path / "dead")
    over.set()
    monkeypatch.undo()
    assert list(found) == ["place"]
    assert found["place"].found == f"{tmp_path / 'dead'} does not answer within 0.2 s"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("{file}",), "STORE: must be a folder or a URL; got a file"),
        (("--address", "head"), "--address: must be host:port; got 'head'"),
        (("--config", "{file}"), "must consist of sections"),
    ],
)
def test_a_wrong_call_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    code, out, error = called(tmp_path, *(argument.replace("{file}", str(file)) for argument in arguments))
    assert (code, out) == (2, "")
    assert sentence in error.splitlines()[-1]
