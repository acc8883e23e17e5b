"""Fixtures for all tests; which tier a test belongs to, and which tests share a worker."""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Hundreds of processes import the same modules: without bytecode each would compile them again, for seconds.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
# Workers and the processes that they start keep all cores busy: threads of one operation would wait for each other,
# ten times as long as they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

import streamscalar as ss
from streamscalar.config import Config, load_config
from streamscalar.config.models import ClusterSection

for name in [name for name in os.environ if name.startswith("STREAMSCALAR_")]:
    del os.environ[name]

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TESTS = Path(__file__).parent
FAST = ("unit", "property")
"""Folders of tests without a process, a socket, Ray, or a training of more than a second."""
SYSTEM = ("cluster", "ray", "deploy", "e2e", "faults", "docs", "integration", "statistics", "soak")
"""Folders that are a mark each. The first start first: their groups take longest."""
Truth = Callable[[Config], ss.Experiment]
INLINE = ClusterSection(executor="inline")
ONE_GROUP = {"cluster": "cluster", "ray": "ray", "deploy": "ray", "e2e": "e2e"}
"""Groups of whole folders: they share what takes long to start, or a small machine runs one of them at a time."""


def tier(path: Path) -> str:
    """Return the mark of a test: that of its folder. Doctests, which lie with the code, are fast."""
    folder = path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else FAST[0]
    return "fast" if folder in FAST else folder


def group(item: pytest.Item) -> str | None:
    """Return the name of the tests that run one after the other in one worker with this one."""
    folder = tier(item.path)
    if folder in ONE_GROUP:
        return ONE_GROUP[folder]
    # What a module sets up once would otherwise be set up once per worker.
    found = getattr(item, "_fixtureinfo", None)
    definitions = [definition for several in found.name2fixturedefs.values() for definition in several] if found else []
    if any(definition.scope == "module" for definition in definitions):
        return str(item.path.relative_to(TESTS.parent))
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test after its folder, put the longest first, and leave out the soak unless `-m` names it."""
    for item in items:
        item.add_marker(tier(item.path))
        name = group(item)
        if name is not None:
            item.add_marker(pytest.mark.xdist_group(name))
    order = {folder: index for index, folder in enumerate((*SYSTEM, "fast"))}
    items.sort(key=lambda item: order[tier(item.path)])
    if "soak" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if tier(item.path) == "soak"])
        items[:] = [item for item in items if tier(item.path) != "soak"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no test of another folder where only fast tests are asked for."""
    is_other = config.option.markexpr == "fast" and collection_path.parent == TESTS and collection_path.name in SYSTEM
    return True if is_other else None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers: none for one file, and more than cores where most tests wait."""
    if len(config.args) == 1 and ".py" in config.args[0]:
        return 0
    n_cores = len(os.sched_getaffinity(0))
    return n_cores if config.option.markexpr == "fast" else n_cores + 1


def small_config(store: Path, /, **sections: dict[str, Any]) -> Config:
    """Return a digits experiment of seconds: 2 learning rates, 2 initial conditions, 41 rows."""
    base: dict[str, dict[str, Any]] = {
        "experiment": {"name": "small", "n_initial_conditions": 2, "tags": ["tiny"]},
        "task": {"n_train": 300, "n_test": 100},
        "model": {"widths": [8]},
        "training": {"learning_rate": [1, 5], "n_steps": 40},
        "perturbation": {"n_perturbed": 3},
        "store": {"url": str(store), "segment_rows": 8},
        "cluster": {"executor": "inline"},
    }
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}
    return load_config(merged, environment={})


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return what a config gives: trained inline, once for all tests and workers, to be read and never changed.

    Where the config says that its store lies, nothing is written.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "truths"
    folder.mkdir(exist_ok=True)

    def opened(config: Config) -> ss.Experiment:
        key = hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode()).hexdigest()[:16]
        store, done = folder / key / config.experiment.name, folder / f"{key}.done"
        with (folder / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                ss.run(Config.from_identity(config.identity(), str(store)).model_copy(update={"cluster": INLINE}))
                done.touch()
        return ss.open(store)

    return opened
