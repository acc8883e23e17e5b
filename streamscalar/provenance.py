"""What the bits of a store depend on beyond its config: versions, machine, device, threads and git revision."""

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import streamscalar

PACKAGES = ("numpy", "scipy", "torch", "zarr")
"""Packages whose versions every store records."""


def gather_provenance(
    device: str, n_threads: int, *, further_packages: Iterable[str] = (), with_git: bool = False
) -> dict[str, Any]:
    """Return the provenance of a new store, as JSON.

    Parameters
    ----------
    device
        Where weights are computed, as torch names it.
    n_threads
        CPU threads of the training; sums depend on how they are split.
    further_packages
        Packages that this store depends on in addition to `PACKAGES`.
    with_git
        Whether to record the revision of the git checkout that contains the current folder, if there is one.

    Examples
    --------
    >>> facts = gather_provenance("cpu", 1)
    >>> list(facts), list(facts["packages"])
    (['streamscalar', 'python', 'machine', 'packages', 'device', 'n_threads'], ['numpy', 'scipy', 'torch', 'zarr'])
    """
    facts: dict[str, Any] = {
        "streamscalar": streamscalar.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: version(name) for name in (*PACKAGES, *further_packages)},
        "device": device,
        "n_threads": n_threads,
    }
    if with_git and (revision := _git_revision()):
        facts["git_revision"] = revision
    return facts


def _git_revision() -> str:
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return git.stdout.strip()
