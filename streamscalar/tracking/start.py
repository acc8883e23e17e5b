"""`ss.track`: checks what is asked for, starts the worker, and returns the tracker."""

import math
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
from streamscalar.store.media.files import plain
from streamscalar.tracking.channel.link import Link
from streamscalar.tracking.channel.messages import Open, Opened, Resume
from streamscalar.tracking.channel.ring import Ring, n_slots_for
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.budget import Budget
from streamscalar.tracking.training.capture import Selection, select
from streamscalar.tracking.training.companions import Companions
from streamscalar.tracking.training.metrics import Metrics
from streamscalar.tracking.training.shadow import LossFunction, Shadows, checked_epsilon
from streamscalar.tracking.training.tangent_vector import METRIC, Tangent
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
    shadow: bool | int = False,
    tangent: bool = False,
    loss_fn: LossFunction | None = None,
    epsilon: float | None = None,
    seed: int = 0,
    resume: Resume = "never",
) -> Tracker:
    """Record a training: call `step` on what this returns after every update, and `finish` at the end.

    The training stays bit for bit what it is without. Weights are copied into shared memory; a process of its own, at
    the lowest priority, stores and embeds them. Returns when that process is ready, after about a second.

    Parameters
    ----------
    model
        Its trainable parameters are recorded, bit for bit (bfloat16 and float16 as float32).
    name
        Of the run. By default `run`, with a number where that is taken.
    group
        Name of the experiment; its runs share a store, and several processes may track into it.
    config
        What distinguishes the run. `learning_rate` (or `lr`) is the setting it is analysed under.
    tags
        Words to find it by.
    store
        Folder; by default `./streamscalar-runs/<group>`.
    address
        Ray cluster to embed on; where it cannot be reached, the run is recorded on this machine alone.
    optimizer
        Gives the learning rate where `config` does not; needed by shadows and tangent vectors.
    metrics
        Names of metrics that come after the first step.
    every_n_steps
        A fixed distance of the rows; by default as close as `max_overhead` allows.
    max_overhead
        Largest share of the training time that recording may cost.
    probe
        Record about this many coordinates only, the same at each step: a sample stratified by layer.
    shadow
        Number of perturbed copies to train beside the model; `True` is one. Each costs as much as the training. Needs
        `optimizer`, `loss_fn` and `step(batch=...)`.
    tangent
        Whether to carry a tangent vector: about three more gradients per step. Needs the same.
    loss_fn
        `loss_fn(model, batch)` returns the loss that the training minimises.
    epsilon
        Perturbation of the shadows, uniform in each weight; by default 1e-8 in float64, else the smallest that moves
        nine weights in ten.
    seed
        Of perturbation, tangent vector and probe.
    resume
        What to do where there is a run of that name: `never` begins another (`name-2`), `allow` and `must` go on with
        it, and `must` needs it to be there.

    Returns
    -------
    Tracker
        Where the worker does not start, one that records nothing, with a warning.

    Raises
    ------
    BadCall
        An argument is wrong, or the store holds another experiment.
    """
    n_shadows = int(shadow)
    _check_numbers(n_shadows, every_n_steps, max_overhead, probe, seed, resume)
    identity = _identity(group, name, n_shadows)
    if config is not None and not isinstance(config, Mapping):
        raise BadCall("config", "must be a mapping", type(config).__name__, "Use vars(arguments)", Kind.CONFIG)
    for field, words in (("tags", tags), ("metrics", metrics)):
        if isinstance(words, str):
            raise BadCall(field, "must be a list of words", repr(words), f"Write [{words!r}]", Kind.CONFIG)
    selection = select(model, probe, seed)
    notices = Notices()
    size = checked_epsilon(selection, epsilon) if n_shadows else None
    layout = selection.layout(n_shadows)
    try:
        ring = Ring.create(layout)
    except OSError as error:
        must = f"must leave memory for {n_slots_for(layout)} rows of {layout.n_parameters:,} parameters"
        raise BadCall("model", must, str(error), "Record a sample of them: probe=100_000", Kind.DATA) from error
    request = Open(
        store=str(Path(store or Path("streamscalar-runs", group)).expanduser().absolute()),
        config=identity,
        provenance=gather_provenance(str(selection.device), torch.get_num_threads()),
        address=address,
        name=name or "run",
        is_named=name is not None,
        resume=resume,
        keeps_pace=bool(n_shadows or tangent),
        layout=layout,
        setting=RunSetting(
            learning_rate=_learning_rate(config, optimizer),
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
    )
    companions = _companions(model, optimizer, loss_fn, n_shadows, tangent, size, selection, seed, notices)
    link = Link(ring, request, notices)
    opened: Opened | None = None
    try:
        opened = link.start()
    except BadCall:
        companions.remove()
        link.close()
        raise
    except (OSError, StreamscalarError) as error:
        companions.remove()
        notices.say("worker", f"nothing is recorded: {error}")
    for note in opened.notes if opened else ():
        notices.say(note, note)
    names = (*metrics, METRIC) if tangent else tuple(metrics)
    budget = Budget(max_overhead, WORKER_WEIGHT, every_n_steps)
    held = Metrics(names, layout.n_replicas, notices)
    return Tracker(selection, ring, link, opened, budget, held, companions, layout.n_replicas, notices)


def _check_numbers(
    n_shadows: int, every_n_steps: int | None, max_overhead: float, probe: int | None, seed: int, resume: str
) -> None:
    for field, count in (("every_n_steps", every_n_steps), ("probe", probe)):
        if count is not None and count < 1:
            raise BadCall(field, "must be at least 1, or None", str(count), kind=Kind.CONFIG)
    if n_shadows < 0:
        raise BadCall("shadow", "must be True, False or a count", str(n_shadows), kind=Kind.CONFIG)
    if seed < 0:
        raise BadCall("seed", "must be at least 0", str(seed), kind=Kind.CONFIG)
    if not 0 < max_overhead <= 1:
        raise BadCall("max_overhead", "must lie over 0 and up to 1, as 0.02", str(max_overhead), kind=Kind.CONFIG)
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


def _companions(
    model: nn.Module,
    optimizer: Optimizer | None,
    loss_fn: LossFunction | None,
    n_shadows: int,
    tangent: bool,
    epsilon: float | None,
    selection: Selection,
    seed: int,
    notices: Notices,
) -> Companions:
    if not (n_shadows or tangent):
        return Companions(None, None, notices)
    if optimizer is None or loss_fn is None:
        missing = "optimizer" if optimizer is None else "loss_fn"
        raise BadCall(missing, "must be given with shadow or tangent, which repeat every update", kind=Kind.CONFIG)
    if tangent and selection.indices is not None:
        raise BadCall("probe", "must be left out with tangent, which needs every weight", kind=Kind.CONFIG)
    carried = Tangent(model, optimizer, loss_fn, selection, seed) if tangent else None
    try:
        shadows = None
        if epsilon is not None:
            shadows = Shadows(model, optimizer, loss_fn, n_shadows, epsilon, selection, seed)
    except BadCall:
        if carried is not None:
            carried.remove()
        raise
    return Companions(shadows, carried, notices)


def _learning_rate(config: Mapping[str, Any] | None, optimizer: Optimizer | None) -> float | None:
    """Return the learning rate a run is analysed under, `None` where nobody says it."""
    candidates = [(config or {}).get("learning_rate"), (config or {}).get("lr")]
    if optimizer is not None:
        candidates.append(optimizer.param_groups[0].get("lr"))
    for candidate in candidates:
        if isinstance(candidate, int | float | torch.Tensor) and not isinstance(candidate, bool):
            rate = float(candidate)
            if math.isfinite(rate) and rate > 0:
                return rate
    return None
