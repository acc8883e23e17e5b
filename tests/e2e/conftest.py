"""Fixtures: a real experiment, a real service, a real browser."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "e2e-token-0123456789abcdef0123456789"
ADMIN_TOKEN = "e2e-admin-0123456789abcdef0123456789"
SMALL = ("task.n_train=300", "task.n_test=100", "model.widths=[8]", "perturbation.n_perturbed=3")
"""Digits at a size that trains in seconds."""
PYTHONPATH = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
"""Where a run finds this repository's networks."""
WAIT_MS = 120_000
"""What a loaded machine may take to train, analyse and tell."""


def command(*words: str) -> list[str]:
    """Return the command line of streamscalar in this interpreter."""
    return [sys.executable, "-m", "streamscalar", *words]


def environment() -> dict[str, str]:
    """Return an environment in which the service takes the tokens of the tests."""
    tokens = {"STREAMSCALAR_TOKEN": TOKEN, "STREAMSCALAR_ADMIN_TOKEN": ADMIN_TOKEN}
    return {**os.environ, **tokens, "OMP_NUM_THREADS": "1"}


def run_words(store: Path, *settings: str) -> list[str]:
    """Return the command line of a small sweep into `store`."""
    chosen = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return command("run", "--preset", "digits-sweep", "--executor", "inline", "--store", str(store), "--quiet", *chosen)


expect.set_options(timeout=WAIT_MS)


@dataclass
class Seen:
    """What a page did besides what it shows.

    Attributes
    ----------
    errors
        Errors on its console, and exceptions that nobody caught.
    addresses
        Everything it asked for.
    """

    errors: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Note errors and requests of `page` from now on."""
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def _asked(self, request: Request) -> None:
        self.addresses.append(request.url)


@dataclass(frozen=True)
class Service:
    """A served folder of stores.

    Attributes
    ----------
    folder
        Where stores may be put.
    address
        Its root, without a slash at the end.
    """

    folder: Path
    address: str

    @property
    def link(self) -> str:
        """The link that signs in."""
        return f"{self.address}/#token={TOKEN}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rsplit(":", 1)[1])


def served_at(process: "subprocess.Popen[bytes]", timeout_s: float = 60.0) -> str:
    """Return the address that a service prints."""
    assert process.stdout is not None
    text = b""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ready, _, _ = select.select([process.stdout], [], [], 1.0)
        if ready:
            text += os.read(process.stdout.fileno(), 4096)
        if found := re.search(rb"(http://127\.0\.0\.1:\d+)/#token=", text):
            return found.group(1).decode()
        assert process.poll() is None, text.decode()
    raise AssertionError(f"the service printed no link in {timeout_s} s: {text.decode()}")


@contextmanager
def serving(folder: Path, port: int = 0) -> "Iterator[tuple[Service, subprocess.Popen[bytes]]]":
    """Serve a folder while the block runs; gives the service and its process."""
    process = subprocess.Popen(
        command("serve", str(folder), "--port", str(port)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Service(folder, served_at(process)), process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def growing(store: Path) -> Iterator[None]:
    """Write an experiment of one long, slow run into `store` while the block runs."""
    settings = ("training.n_steps=20000", "training.learning_rate=1", "experiment.n_initial_conditions=1")
    words = run_words(store, *settings, "model.name=tests.slow:Slow")
    slow = {**environment(), "SLOW_MS": "5", "PYTHONPATH": PYTHONPATH}
    process = subprocess.Popen(words, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def eventually(condition: Callable[[], bool], timeout_s: float = WAIT_MS / 1000) -> None:
    """Wait until `condition` holds; the page's policy forbids the browser to evaluate one by itself."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve a folder with one finished experiment: nine runs, from regular to diverged."""
    folder = tmp_path_factory.mktemp("stores")
    sweep = run_words(
        folder / "sweep",
        "training.n_steps=60",
        "training.learning_rate=[0.5,2.5,6]",
        "experiment.n_initial_conditions=3",
    )
    subprocess.run(sweep, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with serving(folder) as (found, _):
        yield found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Start one browser for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def look() -> dict[str, Any]:
    """Return how the browser looks at the page; a test overrides it by `parametrize`."""
    return {"viewport": {"width": 1280, "height": 900}}


@pytest.fixture
def seen() -> Seen:
    """Return what the page of this test did."""
    return Seen()


@pytest.fixture
def tab(chromium: Browser, look: dict[str, Any], seen: Seen) -> Iterator[Page]:
    """Open an empty tab with its own session; whatever the test, it asks no other host."""
    context = chromium.new_context(**look)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    seen.watch(page)
    yield page
    context.close()
    foreign = [address for address in seen.addresses if not address.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert foreign == []


@pytest.fixture
def home(tab: Page, service: Service) -> Page:
    """Open the overview by the printed link."""
    tab.goto(service.link)
    tab.wait_for_selector("tr[data-id]")
    return tab
