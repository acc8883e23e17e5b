"""The commands that the pages tell a user to type."""

import os
import re
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGES = ("docker", "ray", "kubernetes", "prometheus", "grafana", "systemd")


def blocks(page: str, heading: str | None = None) -> list[str]:
    """Return the shell blocks of a page, or of one section of it, without comments at the ends of lines."""
    text = (DEPLOY / page / "README.md").read_text("utf-8")
    if heading is not None:
        text = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    found: list[str] = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [re.sub(r"[ ]{2,}# .*", "", block) for block in found]


def commands(page: str) -> list[str]:
    """Return every command of a page, continued lines joined."""
    joined = "\n".join(blocks(page)).replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]


def command(page: str, start: str) -> str:
    """Return the one command of a page that starts so."""
    found = [text for text in commands(page) if text.startswith(start)]
    assert len(found) == 1, f"{start}: {found}"
    return found[0]


def run_here(text: str, folder: Path, **environment: str) -> str:
    """Run a command of a page with the Python of the tests; return what it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(DEPLOY.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
