"""Record trainings in workers of Ray Train and in trials of Ray Tune."""

import os
import re
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
import torch
from pyarrow.fs import LocalFileSystem
from torch import nn

from streamscalar.errors import BadCall, Kind
from streamscalar.tracking import Tracker
from streamscalar.tracking import track as track_here


def track(model: nn.Module, **options: Any) -> Tracker:
    """Record the training of a worker of Ray Train, or of a trial of Ray Tune, with `streamscalar.track`.

    Every worker calls this with the same arguments; that of rank 0 records. Defaults come from Ray:

    - `name` is that of the trial, or of the run of Ray Train;
    - `store` is `streamscalar-runs/<group>` in the folder of the experiment (`RunConfig(storage_path=...)`), which all
      trials share, because the current folder of a trial is a temporary one;
    - `resume` is `allow`: a worker that Ray starts again continues the run.

    Parameters
    ----------
    model
        Model whose trainable parameters are recorded.
    **options
        Options of `streamscalar.track`.

    Raises
    ------
    BadCall
        This is called elsewhere, or `store` is left out while the experiment is not in a folder; or an option is wrong.

    Examples
    --------
    In the function that a trainer or tuner runs::

        def train_loop_per_worker(config):
            run = track(model, optimizer=optimizer, config=config)
    """
    context, name, rank, n_ranks = _context()
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("._+-")
    if n_ranks > 1 and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        # Where no process group has the rank, streamscalar.track reads these, as torchrun sets them.
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(n_ranks))
    defaults: dict[str, Any] = {"name": name, "resume": "allow"}
    if "store" not in options:
        defaults["store"] = _store(context, options.get("group", "tracked"))
    return track_here(model, **{**defaults, **options})


def _context() -> tuple[Any, str, int, int]:
    """Return the context of this process in Ray, the name of its trial or run, its rank and the number of ranks."""
    try:
        context = ray.train.get_context()
        return context, context.get_experiment_name(), context.get_world_rank(), context.get_world_size()
    except (RuntimeError, DeprecationWarning):  # the second inside a trial of Ray Tune
        context = ray.tune.get_context()
    name = context.get_trial_name()
    if name is None:
        must = "must be called in a worker of Ray Train or a trial of Ray Tune"
        raise BadCall("track", must, fix="Use streamscalar.track elsewhere", kind=Kind.CONFIG)
    return context, name, 0, 1


def _store(context: Any, group: str) -> Path:
    storage = context.get_storage()
    if not isinstance(storage.storage_filesystem, LocalFileSystem):
        got = type(storage.storage_filesystem).__name__
        raise BadCall("store", "must be given where storage_path is no folder", got, "Name a folder", Kind.CONFIG)
    return Path(storage.experiment_fs_path, "streamscalar-runs", group)
