"""`ss.track`: checks the arguments, starts the worker, and returns the tracker."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import nn
from torch.optim import Optimizer

from streamscalar.config import Config, RunSetting
from streamscalar.config.models import ExperimentSection, PerturbationSection, TaskSection
from streamscalar.errors import BadCall, Kind, StreamscalarError
from streamscalar.provenance import gather_provenance
from streamscalar.store import place
from streamscalar.store.media.files import plain
from streamscalar.tracking.channel.link import Link
from streamscalar.tracking.channel.messages import Open, Opened, Resume
from streamscalar.tracking.channel.ring import Ring, n_slots_for
from streamscalar.tracking.channel.shards import Shards
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.budget import Budget
from streamscalar.tracking.training.capture import Selection, is_sharded, require_known_shards, select
from streamscalar.tracking.training.identity import Identity
from streamscalar.tracking.training.idle import IdleTracker, RankStream
from streamscalar.tracking.training.metrics import Metrics, learning_rates, nominal_learning_rate
from streamscalar.tracking.training.mirrors import MirrorName, destinations
from streamscalar.tracking.training.ranks.meeting import Meeting
from streamscalar.tracking.training.ranks.recording import RankHashes, first_rank, may_compare
from streamscalar.tracking.training.repeating.companions import Companions, NoCompanions
from streamscalar.tracking.training.repeating.shadow import Shadows, checked_epsilon
from streamscalar.tracking.training.repeating.tangent_vector import METRIC, Tangent
from streamscalar.tracking.training.repeating.twin import LossFunction, Procedure, StepFunction
from streamscalar.tracking.training.tracker import WORKER_WEIGHT, Tracker
from streamscalar.types import RUN_ID_PATTERN


def track(
    model: nn.Module,
    *,
    name: str | None = None,
    group: str = "tracked",
    config: Mapping[str, Any] | None = None,
    tags: Iterable[str] = (),
    store: str | Path | None = None,
    address: str | None = None,
    optimizer: Optimizer | None = None,
    metrics: Iterable[str] = (),
    every_n_steps: int | None = None,
    max_overhead: float = 0.02,
    probe: int | None = None,
    buffers: bool = False,
    shadow: bool | int = False,
    tangent: bool = False,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    epsilon: float | None = None,
    seed: int = 0,
    resume: Resume = "never",
    compare_ranks_every: int | None = None,
    mirror: MirrorName | Iterable[MirrorName] | None = None,
) -> Tracker:
    """Record a training run: call `step` of the returned tracker after every update, and `finish` at the end.

    The training is not changed, bit for bit. Weights are copied into shared memory; a separate process, at the lowest
    priority, stores and embeds them. Returns when that process is ready, after about a second.

    Parameters
    ----------
    model
        Model whose trainable parameters are recorded, bit for bit (bfloat16 and float16 as float32).
    name
        Name of the run; by default `run`, with a number if that name is taken.
    group
        Name of the experiment. Its runs share a store, into which several processes may record at the same time.
    config
        Settings of the run, to tell runs apart; `learning_rate` (or `lr`) is used by the analysis.
    tags
        Words to find the run by.
    store
        Folder of the store, or its URL such as `file:///runs`; by default `./streamscalar-runs/<group>`.
    address
        Address of a Ray cluster that stores and embeds the rows; if it does not answer, this machine does.
    optimizer
        The optimizer; gives the learning rate if `config` does not. Its learning rate is recorded with each row, as
        the metric `learning_rate` (`learning_rate/1`... for further groups of parameters). Required by `shadow` and
        `tangent`.
    metrics
        Names of metrics that rows carry although they are not passed to the first `step`. Not required: every metric
        is stored with its own steps, and aligned to the rows when it is read.
    every_n_steps
        Number of steps between rows; by default as few as `max_overhead` allows. The first rows wait until the run is
        created. Required for a sharded model (FSDP2, tensor parallelism), whose ranks have to record the same steps.
    max_overhead
        Maximum share of the training time spent on recording. Where steps are so short that reporting metrics takes
        over half of it, rows get the other half in any case, and the summary reports the sum.
    probe
        Record only about this many coordinates, the same at every step: a sample stratified by layer.
    buffers
        Whether floating-point buffers that belong to the state of the model, such as batch-norm statistics, are
        recorded after the parameters, as further layers. The embedding and all distances then include them.
    shadow
        Number of perturbed copies of the model to train in parallel; `True` is one. Each costs as much as the training.
        Requires `optimizer`, `step(batch=...)`, and `loss_fn` or `train_step`. Every update is
        also repeated without a perturbation, at the same cost once more: where the weights do not get the bits of the
        training, the copies are given up, and exponents have the status `not_reproduced` with the reason.
    tangent
        Whether to compute a tangent vector, at the cost of about three gradients per step. Requires `optimizer`,
        `step(batch=...)` and `loss_fn`.
    loss_fn
        `loss_fn(model, batch)` returns the loss that the training minimises, where an update follows its plain
        gradient. Gradients of several calls of `step(batch=...)` before an update add up.
    train_step
        `train_step(model, optimizer, batch)` does all that the training does for a batch, such as clipping,
        accumulation, loss scaling or several updates, with the model and the optimizer that it is given. Call it in
        the training, too, and then `step(batch=...)`. What it changes beside the model is put back after each repeat:
        generators, scalers, schedulers, other models and optimizers, tensors, and variables.
    epsilon
        Perturbation of the shadows, uniform in each weight; by default 1e-8 in float64, else the smallest that changes
        nine weights in ten.
    seed
        Seed of perturbations, tangent vector and probe.
    resume
        What to do if the run exists: `never` starts another one (`name-2`), `allow` and `must` resume it. With `must`
        the run has to exist.
    compare_ranks_every
        Number of steps between two comparisons of the ranks of a distributed training, of which the first is at the
        first step; 0 for none. By default 100 for a model in `DistributedDataParallel`, and more where that would take
        over a quarter of `max_overhead`. Parameters and buffers that differ in a bit raise the alert `ranks_drifted`.
        With a number, a model without that wrapper is compared, too.
    mirror
        Back ends that scalar, separation, exponents, regime and alerts are also sent to, as metrics below
        `streamscalar/`: `wandb`, `mlflow`, `trackio`, `tensorboard`, or a list of them. A separate process sends them
        after they are stored. Metrics of the training are not sent. Not with `address`.

    Returns
    -------
    Tracker
        If the worker does not start, a warning is issued and the tracker records nothing. In a distributed training
        every process may call this with the same arguments: rank 0 records. The other ranks of a replicated model are
        compared with it; those of a model sharded by `fully_shard` or tensor parallelism add their part to every row.

    Raises
    ------
    BadCall
        An argument is wrong, or the store holds another experiment.
    """
    n_shadows = int(shadow)
    if (n_shadows or tangent) and (is_replicated(model) or is_sharded(model)):
        must = "must be left out under DistributedDataParallel and FSDP, where a copy would wait for other ranks"
        raise BadCall("shadow", must, kind=Kind.CONFIG)
    if buffers and is_sharded(model):
        raise BadCall("buffers", "must be left out for a sharded model", kind=Kind.CONFIG)
    _check_numbers(n_shadows, every_n_steps, max_overhead, probe, seed, resume)
    identity = _identity(group, name, n_shadows)
    folder = _folder(store, group)
    if config is not None and not isinstance(config, Mapping):
        raise BadCall("config", "must be a mapping", type(config).__name__, "Use vars(arguments)", Kind.CONFIG)
    for field, words in (("tags", tags), ("metrics", metrics)):
        if isinstance(words, str):
            raise BadCall(field, "must be a list of words", repr(words), f"Write [{words!r}]", Kind.CONFIG)
    if compare_ranks_every is not None and compare_ranks_every < 0:
        must = "must be at least 1, 0 for no comparison, or None"
        raise BadCall("compare_ranks_every", must, str(compare_ranks_every), kind=Kind.CONFIG)
    require_known_shards(model)
    mirrors = destinations(mirror, address)
    notices = Notices()
    compares = may_compare(model, compare_ranks_every)
    if rank() > 0:
        stream: RankStream | None = None
        if is_sharded(model):
            stream = _part_of_this_rank(model, select(model, probe, seed), every_n_steps, group, name, notices)
        elif compares:
            find = Meeting("hashes", group, name).find
            stream = RankHashes(model, find, compare_ranks_every, max_overhead, notices)
        return IdleTracker(name or "run", stream, notices)
    selection = select(model, probe, seed, buffers=buffers)
    shards = None
    if is_sharded(model):
        selection, shards = _own_part(selection, every_n_steps, folder)
    size = checked_epsilon(selection, epsilon) if n_shadows else None
    layout = selection.layout(n_shadows)
    try:
        ring = Ring.create(layout)
    except OSError as error:
        must = f"must leave shared memory for {n_slots_for(layout)} rows of {layout.n_parameters:,} parameters"
        raise BadCall(
            "model", must, str(error), "Record a sample of the parameters: probe=100_000", Kind.DATA
        ) from error
    request = Open(
        store=str(folder),
        config=identity,
        provenance=gather_provenance(str(selection.device), torch.get_num_threads()),
        address=address,
        name=name or "run",
        is_named=name is not None,
        resume=resume,
        keeps_pace=bool(n_shadows or tangent),
        layout=layout,
        setting=RunSetting(
            learning_rate=nominal_learning_rate(config, optimizer),
            epsilon=size,
            initial_condition=0,
            is_tracked=True,
            group=group,
            tags=list(tags),
            config=plain(config or {}),
            **selection.setting(),
        ),
        seed=seed,
        n_slots=n_slots_for(layout),
        n_values=ring.values.n_values,
        shards=shards,
        mirrors=mirrors,
    )
    procedure = Procedure(loss_fn, train_step)
    companions = _companions(model, optimizer, procedure, n_shadows, tangent, size, selection, seed, notices)
    link = Link(ring, request, notices, holds_first_rows=every_n_steps is not None)
    opened: Opened | None = None
    try:
        opened = link.start()
    except BadCall:
        companions.remove()
        link.close()
        raise
    except (OSError, StreamscalarError) as error:
        companions.remove()
        notices.warn("worker", f"nothing is recorded: {error}")
    for note in opened.notes if opened else ():
        notices.warn(note, note)
    names = (*metrics, *(learning_rates(optimizer) if optimizer else ()), *([METRIC] if tangent else []))
    budget = Budget(max_overhead, WORKER_WEIGHT, every_n_steps)
    recorded = Identity(model, selection)
    hashes = None
    if shards is not None and opened is not None:
        _announce(shards, recorded, group, name, notices)
    elif compares and opened is not None:
        run = Path(request.store, "runs", opened.run_id)
        find = first_rank(Meeting("hashes", group, name), run, opened.newest or 0)
        hashes = RankHashes(model, find, compare_ranks_every, max_overhead, notices)
    return Tracker(
        recorded,
        optimizer,
        ring,
        link,
        opened,
        budget,
        Metrics(names, layout.n_replicas, notices, ring.values),
        companions,
        layout.n_replicas,
        notices,
        hashes,
    )


def rank() -> int:
    """Return the rank of this process in a distributed training, 0 in any other."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return 0
    try:
        return int(os.environ.get("RANK", "0"))
    except ValueError:
        return 0


def is_replicated(model: nn.Module) -> bool:
    """Return whether a pass through the model waits for other processes."""
    names = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    return bool(names & {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"})


def _part_of_this_rank(
    model: nn.Module, selection: Selection, every: int | None, group: str, name: str | None, notices: Notices
) -> RankStream:
    """Return what writes the part of a sharded model that a rank other than 0 holds."""
    from streamscalar.tracking.training.ranks.shard_rows import ShardRows

    part, _ = _own_part(selection, every, Path())
    return ShardRows(Identity(model, part), every or 1, Meeting("shards", group, name).find, notices)


def _own_part(selection: Selection, every_n_steps: int | None, store: Path) -> tuple[Selection, Shards]:
    """Return the part of a sharded model that this rank holds, and a folder for those of the others."""
    from streamscalar.tracking.training.ranks.shard_rows import new_shards
    from streamscalar.tracking.training.ranks.shards import ShardedSelection

    if every_n_steps is None:
        must = "must be given for a sharded model, whose ranks have to record the same steps"
        raise BadCall("every_n_steps", must, fix="Pass every_n_steps=10, for example", kind=Kind.CONFIG)
    return ShardedSelection.part_of(selection), new_shards(store)


def _announce(shards: Shards, identity: Identity, group: str, name: str | None, notices: Notices) -> None:
    """Publish where the other ranks of a sharded model write their parts."""
    from streamscalar.tracking.training.ranks.shard_rows import announce_shards

    try:
        announce_shards(shards, identity, Meeting("shards", group, name))
    except OSError as error:
        notices.failed("shards", error)


def _folder(store: str | Path | None, group: str) -> Path:
    """Return the folder of the store."""
    folder = place(store or Path("streamscalar-runs", group))
    if not isinstance(folder, Path):
        fix = "Record to a folder, and copy the store when the training is over"
        raise BadCall("store", "must be a folder of this machine", str(folder), fix, Kind.CONFIG)
    return folder.expanduser().absolute()


def _check_numbers(
    n_shadows: int, every_n_steps: int | None, max_overhead: float, probe: int | None, seed: int, resume: str
) -> None:
    for field, count in (("every_n_steps", every_n_steps), ("probe", probe)):
        if count is not None and count < 1:
            raise BadCall(field, "must be at least 1, or None", str(count), kind=Kind.CONFIG)
    if n_shadows < 0:
        raise BadCall("shadow", "must be True, False or a number of shadows", str(n_shadows), kind=Kind.CONFIG)
    if seed < 0:
        raise BadCall("seed", "must be at least 0", str(seed), kind=Kind.CONFIG)
    if not 0 < max_overhead <= 1:
        raise BadCall("max_overhead", "must be over 0 and at most 1, such as 0.02", str(max_overhead), kind=Kind.CONFIG)
    if resume not in {"never", "allow", "must"}:
        raise BadCall("resume", "must be never, allow or must", repr(resume), kind=Kind.CONFIG)


def _identity(group: str, name: str | None, n_shadows: int) -> dict[str, Any]:
    if name is not None and not re.fullmatch(RUN_ID_PATTERN, name):
        must = "must be letters, digits and . _ + -, the first a letter or digit"
        raise BadCall("name", must, repr(name), kind=Kind.CONFIG)
    try:
        experiment = ExperimentSection(name=group)
    except pydantic.ValidationError:
        must = "must be letters, digits and . _ - (100 at most), the first a letter or digit"
        raise BadCall("group", must, repr(group), kind=Kind.CONFIG) from None
    perturbation = PerturbationSection(n_perturbed=n_shadows, control=False)
    return Config(experiment=experiment, task=TaskSection(name="tracked"), perturbation=perturbation).identity()


def check_names(group: str, name: str | None) -> None:
    """Check the names of a group and of a run before there is a model.

    Raises
    ------
    BadCall
        One of them is no such name.
    """
    _identity(group, name, 0)


def _companions(
    model: nn.Module,
    optimizer: Optimizer | None,
    procedure: Procedure,
    n_shadows: int,
    tangent: bool,
    epsilon: float | None,
    selection: Selection,
    seed: int,
    notices: Notices,
) -> Companions | NoCompanions:
    if not (n_shadows or tangent):
        return NoCompanions()
    if optimizer is None:
        raise BadCall("optimizer", "must be given with shadow or tangent, which repeat every update", kind=Kind.CONFIG)
    if (procedure.loss_fn is None) == (procedure.train_step is None):
        must = "must be given, or train_step, and not both, with shadow or tangent, which repeat every update"
        raise BadCall("loss_fn", must, kind=Kind.CONFIG)
    if tangent and procedure.loss_fn is None:
        fix = "Use shadow=True with train_step"
        raise BadCall("loss_fn", "must be given with tangent, which differentiates it twice", "", fix, Kind.CONFIG)
    if tangent and selection.buffers:
        raise BadCall("buffers", "must be left out with tangent, which needs weights alone", kind=Kind.CONFIG)
    if tangent and selection.indices is not None:
        raise BadCall("probe", "must be left out with tangent, which needs all weights", kind=Kind.CONFIG)
    carried = Tangent(optimizer, procedure.function, selection, seed) if tangent else None
    shadows = None
    if epsilon is not None:
        shadows = Shadows(model, optimizer, n_shadows, epsilon, selection, seed)
    return Companions(model, optimizer, procedure, shadows, carried, selection.device, notices)
