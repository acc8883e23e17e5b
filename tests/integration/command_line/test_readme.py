"""What the README says to type works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.conftest import READ, Service

ROOT = Path(__file__).parents[3]


def _block(heading: str, language: str) -> str:
    """Return the first block of code under a heading."""
    section = (ROOT / "README.md").read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_three_lines_track_a_training_and_show_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = _block("Track your own training", "python")
    command = [sys.executable, "-W", "error::streamscalar.tracking.TrackingWarning", "-c", code]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    assert re.match(r"run first: recorded \d+ of 600 steps", found.stdout), found.stdout
    service = Service(tmp_path / "streamscalar-runs")
    service.start()
    try:
        item = service.get("/v1/runs").json()["items"][0]
        assert (item["id"], item["state"], item["learning_rate"]) == ("mine:first", "done", 0.05)
        series = service.get("/v1/runs/mine:first/embedding").json()
        # A full ring drops steps where the machine is busy; it never waits.
        assert 1 < series["of"] == item["n_rows"] <= 120
    finally:
        service.kill()
    assert READ not in found.stdout
