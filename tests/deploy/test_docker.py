"""The steps of the Dockerfile, as far as they run without an image."""

import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.deploy.dockerfile import Step, steps
from tests.deploy.pages import DEPLOY, command, run_here

REPOSITORY = DEPLOY.parent
DOCKER = DEPLOY / "docker"
STEPS = steps(DOCKER / "Dockerfile")


def _the(name: str, word: str = "") -> Step:
    """Return the one instruction of that name that has the word among its own or those of its commands."""
    (found,) = (
        step for step in STEPS if step.name == name and (not word or any(word in words for words in step.commands))
    )
    return found


def _pins() -> dict[str, str]:
    lines = (DOCKER / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Copy what the Dockerfile copies, out of what its ignore file lets into the build."""
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "**"
    allowed = [line.removeprefix("!") for line in rules if line.startswith("!")]
    folder = tmp_path / "build"
    folder.mkdir()
    for step in STEPS:
        if step.name == "COPY" and "from" not in step.flags:
            *sources, target = step.words
            for source in sources:
                assert source in allowed, f"{source} does not reach the build"
                goal = folder / (Path(source).name if target == "./" else target)
                if (REPOSITORY / source).is_dir():
                    shutil.copytree(REPOSITORY / source, goal, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(REPOSITORY / source, goal)
    return folder


def test_two_stages_and_nothing_to_compile_with_in_the_last() -> None:
    assert [step.words for step in STEPS if step.name == "FROM"] == [
        ["python:${PYTHON}", "AS", "build"],
        ["python:${PYTHON}"],
    ]
    (tag,) = (step.text.removeprefix("PYTHON=") for step in STEPS if (step.stage, step.name) == (-1, "ARG"))
    version, slim, _ = tag.split("-")
    assert slim == "slim"
    assert len(version.split(".")) == 3, "pinned to the patch"
    assert Version(version) >= Version("3.11")
    (run,) = (step for step in STEPS if (step.stage, step.name) == (1, "RUN"))
    assert ["apt-get", "install", "-y", "--no-install-recommends", "wget"] in run.commands
    assert {words[0] for words in run.commands} == {"apt-get", "rm", "useradd", "install"}
    minor = ".".join(version.split(".")[:2])
    (install,) = _the("RUN", f"PYTHONPATH=/install/lib/python{minor}/site-packages").commands
    assert install[1:3] == ["pip", "install"]


def test_the_user_is_a_number_and_owns_little() -> None:
    user, run = _the("USER"), _the("RUN", "useradd")
    assert user.words == ["10001:10001"]
    assert STEPS.index(run) < STEPS.index(user) < STEPS.index(_the("CMD"))
    (made,) = (words for words in run.commands if words[0] == "useradd")
    assert made[made.index("--uid") + 1] == "10001"


def test_the_pins_are_what_the_package_needs() -> None:
    pins = _pins()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [Requirement(text) for text in project["dependencies"]]
    assert len(needed) > 15
    for requirement in needed:
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not pinned: refresh constraints.txt"
        assert requirement.specifier.contains(pinned), f"{requirement} and its pin {pinned}"


def _choice() -> str:
    """Return the script that chooses the index of torch by `VARIANT`."""
    return _the("RUN", "case").text


@pytest.mark.parametrize(("variant", "asked"), [("cpu", True), ("cuda", False)])
def test_the_variant_chooses_the_index_of_torch(variant: str, asked: bool, build: Path, tmp_path: Path) -> None:
    choose = _choice()
    called = tmp_path / "called"
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    pip.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VARIANT": variant}
    subprocess.run(["sh", "-c", choose], cwd=build, env=environment, check=True)
    index = "https://download.pytorch.org/whl/cpu"
    torch = f"install --prefix=/install --no-deps --index-url {index} torch=={_pins()['torch']}\n"
    assert (called.read_text() if called.exists() else "") == (torch if asked else "")


def test_another_variant_is_refused(build: Path) -> None:
    choose = _choice()
    done = subprocess.run(["sh", "-c", choose], cwd=build, env={"VARIANT": "rocm"}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"VARIANT must be cpu or cuda; got rocm\n")


def test_the_context_holds_what_pip_builds(build: Path, tmp_path: Path) -> None:
    (install,) = _the("RUN", "constraints.txt").commands
    words = [word.replace("/install", str(tmp_path / "install")) for word in install[install.index("pip") + 1 :]]
    # Dependencies are here already; what is tried is the build of the package from the context.
    command = [sys.executable, "-m", "pip", *words, "--no-deps", "--quiet", "--ignore-installed"]
    subprocess.run(command, cwd=build, check=True)
    (site,) = (tmp_path / "install").glob("lib/python*/site-packages")
    for part in ("streamscalar/config/presets/digits-sweep.yaml", "streamscalar_services/dashboard/static/index.html"):
        assert (site / part).is_file(), part
    assert (tmp_path / "install" / "bin" / "streamscalar").is_file()
    expected = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "streamscalar").rglob("*.py")}
    assert {path.relative_to(site) for path in (site / "streamscalar").rglob("*.py")} == expected


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def served(tmp_path: Path, free_port: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Run the image's command with the variables that the page makes, on a free port."""
    run_here(command("docker", "(umask 077; printf"), tmp_path)
    file = tmp_path / "service.env"
    assert file.stat().st_mode & 0o777 == 0o600
    tokens = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert tokens.keys() == {"STREAMSCALAR_TOKEN", "STREAMSCALAR_ADMIN_TOKEN"}
    program, *arguments = _the("CMD").words
    assert (program, arguments[:2]) == ("streamscalar", ["serve", "/stores"])
    (tmp_path / "stores").mkdir()
    arguments[1] = str(tmp_path / "stores")
    environment = {**os.environ, **tokens, "PYTHONPATH": str(REPOSITORY)}
    words_here = [sys.executable, "-m", "streamscalar", *arguments, "--port", str(free_port)]
    process = subprocess.Popen(words_here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    yield free_port, tokens
    process.kill()
    output, _ = process.communicate()
    assert not any(token in output.decode() for token in tokens.values())


def test_the_command_and_its_health_check(served: tuple[int, dict[str, str]]) -> None:
    if shutil.which("wget") is None:
        pytest.skip("wget, which the image installs, is absent")
    port, tokens = served
    check = _the("HEALTHCHECK")
    assert check.words[0] == "CMD"
    words = check.text.partition(" CMD ")[2].replace("8870", str(port))
    deadline = time.monotonic() + 180
    while subprocess.run(["sh", "-c", words], check=False).returncode != 0:
        assert time.monotonic() < deadline, "never healthy"
        time.sleep(0.2)
    url = f"http://127.0.0.1:{port}/v1/experiments"
    assert httpx.get(url, trust_env=False).status_code == 401
    headers = {"authorization": f"Bearer {tokens['STREAMSCALAR_TOKEN']}"}
    assert httpx.get(url, headers=headers, trust_env=False).json()["items"] == []
    silent = subprocess.run(["sh", "-c", words.replace(str(port), "9")], check=False)
    assert silent.returncode == 1
