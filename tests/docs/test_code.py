"""Every block of code in the documentation and in the README runs, or stands here with the reason why not."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Session, blocks

SMALL = {
    "STREAMSCALAR_CLUSTER__EXECUTOR": "inline",
    "STREAMSCALAR_EXPERIMENT__N_INITIAL_CONDITIONS": "1",
    "STREAMSCALAR_TASK__N_TRAIN": "300",
    "STREAMSCALAR_TASK__N_TEST": "100",
    "STREAMSCALAR_TRAINING__LEARNING_RATE": "[1, 2.5]",
    "STREAMSCALAR_TRAINING__N_STEPS": "100",
}
"""What makes the experiments of the pages small: the environment counts for more than a preset or a file."""

ON_A_CLUSTER = "needs a cluster; tests/cluster runs such commands"
NOT_RUN = {
    "README.md": {
        "pip install": ".ci/run runs it",
        "pytest": ".ci/run runs it",
        "streamscalar add streamscalar-runs/mnist": "needs MNIST",
        "streamscalar run --preset mnist": "needs MNIST",
        "streamscalar resume streamscalar-runs/mnist": "needs MNIST",
        "streamscalar analyze streamscalar-runs/mnist": "needs MNIST",
        "streamscalar report streamscalar-runs/mnist": "needs MNIST",
        "streamscalar claims streamscalar-runs/mnist": "needs MNIST",
        "streamscalar export streamscalar-runs/mnist": "needs MNIST",
        "streamscalar find-onset --preset mnist": "needs MNIST",
        "streamscalar verify streamscalar-runs/mnist": "needs MNIST",
        "streamscalar serve streamscalar-runs --webhook": "the page starts a service already; how-to/alerts.md runs it",
        "client = ss.connect": "waits for events without end; how-to/compare.md runs the other calls",
        "streamscalar run my.yaml --address": ON_A_CLUSTER,
        "streamscalar attach": ON_A_CLUSTER,
        "streamscalar resume /shared": ON_A_CLUSTER,
        "streamscalar doctor /shared": ON_A_CLUSTER,
    },
    "docs/benchmarks.md": {"streamscalar bench": "takes minutes"},
    "docs/how-to/alerts.md": {"for event in": "waits for events without end"},
    "docs/how-to/check.md": {"streamscalar doctor /shared": ON_A_CLUSTER},
    "docs/how-to/cluster.md": {"streamscalar ": ON_A_CLUSTER},
    "docs/how-to/track.md": {"torchrun": "tests/integration/tracking/test_tracking_shards.py runs such trainings"},
    "docs/start/browser.md": {"ssh": "needs another machine"},
    "docs/start/install.md": {"pip install": ".ci/run runs it"},
}
"""How the pieces start that are not run, and why."""

WARN = {"docs/how-to/frameworks.md": "the frameworks warn of parts of torch that they use, and of CPUs"}
"""Pages whose warnings are no errors, and why."""

WITH_CODE = [
    pytest.param(page, marks=[pytest.mark.filterwarnings("ignore")] if page in WARN else [], id=page)
    for page in PAGES
    if blocks(page)
]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the store of `streamscalar demo`, small, which most pages take for granted."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        _place(patch, folder)
        Session(folder, ()).command("streamscalar demo")
    return folder / "streamscalar-runs"


def _place(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this process work in a folder of its own, on small experiments."""
    patch.chdir(folder)
    for name, value in SMALL.items():
        patch.setenv(name, value)
    patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    patch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Go to an empty folder; modules that a page writes there are forgotten afterwards."""
    _place(monkeypatch, tmp_path)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("page", WITH_CODE)
def test_every_block_runs(page: str, folder: Path, demo: Path) -> None:
    if "streamscalar-runs" in (ROOT / page).read_text("utf-8"):
        shutil.copytree(demo, folder / "streamscalar-runs")
    Session(folder, list(NOT_RUN.get(page, {}))).follow(page)


@pytest.mark.parametrize("page", NOT_RUN)
def test_every_exception_is_of_a_piece_that_is_there(page: str) -> None:
    pieces = [piece for block in blocks(page) for piece in block.pieces()]
    for start in NOT_RUN[page]:
        assert any(piece.startswith(start) for piece in pieces), f"{page} holds no {start} any more"


def test_blocks_say_what_they_are() -> None:
    for page in PAGES:
        fences = [line for line in (ROOT / page).read_text("utf-8").splitlines() if line.startswith("```")]
        assert len(fences) == 2 * len(blocks(page)), f"{page}: a block without a language, or one that does not end"
        for block in blocks(page):
            assert block.title or block.language in ("sh", "python"), f"{page}: a block of {block.language} is not run"
