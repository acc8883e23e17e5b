"""The units: what systemd says of them, and that what they start starts."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.deploy.pages import DEPLOY, command, commands, run_here

SYSTEMD = DEPLOY / "systemd"
UNITS = ("streamscalar.service", "streamscalar-run@.service")
INSTALLED = "/opt/streamscalar/bin/streamscalar"

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is absent")


def _settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / unit).read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make a repository of the units alone, which start the command of this environment."""
    folder = tmp_path / "deploy" / "systemd"
    folder.mkdir(parents=True)
    program = tmp_path / "streamscalar"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m streamscalar "$@"\n')
    program.chmod(0o755)
    for unit in UNITS:
        (folder / unit).write_text((SYSTEMD / unit).read_text("utf-8").replace(INSTALLED, str(program)))
    return tmp_path


@needs_analyze
def test_systemd_finds_nothing_wrong(repository: Path) -> None:
    text = command("systemd", "systemd-analyze verify")
    assert all(unit in text for unit in UNITS)
    assert run_here(f"{text} 2>&1", repository) == ""


@needs_analyze
def test_systemd_finds_little_exposed() -> None:
    text = command("systemd", "systemd-analyze security")
    assert "--threshold=20 " in text
    run_here(text, DEPLOY.parent)
    run_here(text.replace(UNITS[0], UNITS[1]), DEPLOY.parent)


def test_the_page_and_the_units_agree() -> None:
    page = "\n".join(commands("systemd"))
    service, run = (_settings(unit) for unit in UNITS)
    for credential in service["LoadCredential"]:
        name, _, path = credential.partition(":")
        assert path == f"/etc/streamscalar/{name}"
    assert "for name in token admin-token; do openssl rand -hex 32 > /etc/streamscalar/$name" in page
    assert service["User"] == run["User"] == ["streamscalar"]
    assert re.search(r"useradd --system .* streamscalar$", page, re.MULTILINE)
    assert service["ExecStart"] == [f"{INSTALLED} serve /var/lib/streamscalar/stores --quiet"]
    assert run["ExecStart"][0].endswith("--store /var/lib/streamscalar/stores/%i")
    assert run["RestartPreventExitStatus"] == ["2"], "a bad config is not tried again"
    assert service["IPAddressDeny"] == ["any"]
    assert run["PrivateNetwork"] == ["yes"]


def test_the_service_starts_with_the_tokens_it_is_handed(repository: Path) -> None:
    settings = _settings(UNITS[0])
    credentials, runtime, state = (repository / name for name in ("credentials", "run", "stores"))
    for folder in (credentials, runtime / "streamscalar", state):
        folder.mkdir(parents=True)
    # What systemd makes of /etc/streamscalar: the page's command, with another folder.
    make = command("systemd", "(umask 077; for name in token")
    run_here(make.replace("/etc/streamscalar", str(credentials)), repository)
    for file in credentials.iterdir():
        file.chmod(0o400)
    (before,) = settings["ExecStartPre"]
    run_here(before.replace("%d", str(credentials)).replace("%t", str(runtime)), repository)
    names = dict(word.split("=") for line in settings["Environment"] for word in line.split())
    environment = {key: value.replace("%t", str(runtime)) for key, value in names.items()}
    (start,) = settings["ExecStart"]
    words = start.replace(INSTALLED, str(repository / "streamscalar")).replace(
        "/var/lib/streamscalar/stores", str(state)
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STREAMSCALAR_")}
    process = subprocess.Popen(
        [*words.split(), "--port", "0"],
        env={**kept, "PYTHONPATH": str(DEPLOY.parent), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{_port(process.pid)}/v1/experiments"
        token = (credentials / "token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        assert httpx.get(url, headers=headers, trust_env=False, timeout=30).json()["items"] == []
        assert httpx.get(url, trust_env=False, timeout=30).status_code == 401
    finally:
        process.kill()
        output, _ = process.communicate()
    assert token not in output.decode(), "the journal keeps what is printed"


def _port(pid: int) -> int:
    """Return the port that a process, or one it became, listens on."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        ports = [re.search(r":(\d+) ", line) for line in found.splitlines() if f"pid={pid}," in line]
        if ports and ports[0] is not None:
            return int(ports[0][1])
        time.sleep(0.1)
    raise AssertionError("nothing listens")


def test_a_preset_becomes_the_config_of_a_unit(tmp_path: Path) -> None:
    text = command("systemd", f"{INSTALLED} config show")
    folder = "/etc/streamscalar/experiments"
    run_here(text.replace(INSTALLED, f"{sys.executable} -m streamscalar").replace(folder, str(tmp_path)), tmp_path)
    name = Path(text.split()[-1]).name
    checked = f"{sys.executable} -m streamscalar run {name} --store {tmp_path}/store --executor inline --quiet"
    small = " --set training.n_steps=2 --set 'training.learning_rate=[1]' --set experiment.n_initial_conditions=1"
    run_here(checked + small, tmp_path)
    assert (tmp_path / "store" / "report.html").is_file()
