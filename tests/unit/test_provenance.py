"""The provenance of a new store."""

import subprocess
from pathlib import Path

import pytest

from streamscalar.provenance import gather_provenance


def test_the_git_revision_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git_revision" not in gather_provenance("cpu", 1, with_git=True)
    commands = (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a", "--allow-empty"])
    for arguments in commands:
        subprocess.run(["git", *arguments], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert gather_provenance("cpu", 1, with_git=True)["git_revision"] == head
    assert "git_revision" not in gather_provenance("cpu", 1)
