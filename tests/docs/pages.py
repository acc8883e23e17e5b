"""Code blocks of a page, run in the order in which a reader meets them."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner

from streamscalar.cli.commands import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes
    ----------
    language
        As the fence names it.
    title
        File that the block is; empty for one that is run.
    text
        The code.
    """

    language: str
    title: str
    text: str

    def pieces(self) -> list[str]:
        """Return what is run in one go: each command of a shell block, or the whole block."""
        if self.language != "sh":
            return [self.text]
        lines = re.sub(r"\s{2,}#.*", "", self.text.replace("\\\n", " ")).splitlines()
        return [command.strip() for line in lines if line.strip() for command in line.split(" && ")]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [Block(*found) for found in _BLOCK.findall((ROOT / page).read_text("utf-8"))]


@dataclass
class Session:
    """One page being followed in a folder: names that its Python defines, and the service that it starts.

    Attributes
    ----------
    folder
        Current folder of the process.
    skipped
        How the pieces start that are not run.
    """

    folder: Path
    skipped: Sequence[str]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    port: int = field(default_factory=lambda: _free_port())
    service: subprocess.Popen[str] | None = None

    def follow(self, page: str) -> None:
        """Run every block; the first that fails ends it."""
        try:
            for block in blocks(page):
                if block.title:
                    (self.folder / block.title).write_text(block.text)
                elif block.language in ("sh", "python"):
                    for piece in block.pieces():
                        if not piece.startswith(tuple(self.skipped)):
                            self._run(block.language, piece.replace("8870", str(self.port)))
        finally:
            if self.service is not None:
                self.service.send_signal(signal.SIGTERM)
                self.service.communicate(timeout=30)

    def _run(self, language: str, text: str) -> None:
        if language == "python":
            exec(compile(text, f"block at {text.splitlines()[0]!r}", "exec"), self.names)
        elif text.split()[:2] == ["streamscalar", "serve"]:
            self._serve(shlex.split(text)[1:])
        elif text.startswith("streamscalar "):
            self.command(text)
        else:
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"

    def command(self, text: str) -> None:
        """Run a command in this process, which has loaded everything already."""
        words = shlex.split(text)[1:]
        target = None
        if ">" in words:
            words, target = words[: words.index(">")], words[-1]
        result = CliRunner().invoke(app, words)
        trace = "" if result.exc_info is None else "".join(traceback.format_exception(*result.exc_info))
        assert result.exit_code == 0, f"{text}\n{result.output}\n{trace}"
        if target is not None:
            (self.folder / target).write_text(result.stdout)

    def _serve(self, words: Sequence[str]) -> None:
        assert self.service is None, "a page starts one service"
        command = [sys.executable, "-m", "streamscalar", *words, "--port", str(self.port)]
        self.service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert self.service.stdout is not None
        link = self.service.stdout.readline()
        assert re.match(rf"Dashboard: http://127\.0\.0\.1:{self.port}/#token=", link), link
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as client:
            while client.get("/ready").status_code != 200:
                assert self.service.poll() is None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
