"""From a config to a finished store: check the config, estimate the cost, create the store, execute."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamscalar.config import Config, Cost, cost, load_config, plan_packs, plan_runs
from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.experiment import Experiment
from streamscalar.protocol.progress import Snapshot
from streamscalar.protocol.schedule import Phase
from streamscalar.provenance import gather_provenance
from streamscalar.store import Store, medium_of, place, segment_rows
from streamscalar.training.ensemble import pinned_threads, resolve_device
from streamscalar.training.setup import load_problem, set_up_pack

COMPRESSED_SHARE = 0.9
"""Bytes on disk per raw byte that the check of the disk assumes; float64 deltas of chaotic runs compress little."""

CLUSTER_VARIABLES = ("STREAMSCALAR_CLUSTER__", "STREAMSCALAR_STORE__FSYNC", "STREAMSCALAR_STORE__SPOOL")
"""Environment variables that apply when a stored experiment is resumed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A config that was checked, with its estimated cost.

    Attributes
    ----------
    config
        The config.
    cost
        Rows and bytes that it will write.
    seconds
        Estimated training time in seconds, from two measured steps.
    n_concurrent
        Number of packs in training at the same time.
    provenance
        Versions, device, threads and git revision.
    """

    config: Config
    cost: Cost
    seconds: float
    n_concurrent: int
    provenance: dict[str, Any]


def prepare(config: Config) -> Prepared:
    """Check data, device, epsilon and disk space before anything is written, and estimate the cost.

    Raises
    ------
    BadCall
        A field of the config cannot work on this machine.
    """
    if config.task.name == "tracked":
        raise BadCall(
            "task.name",
            "must be a task that this package trains",
            "tracked, which names your own training loop",
            "Resume it in your own loop: ss.track(model, name=..., resume='must')",
            Kind.CONFIG,
        )
    # On a cluster the trainers may have another device; the driver measures on its own.
    device = resolve_device(config.training.device if config.cluster.executor == "inline" else "auto")
    packs = plan_packs(config)
    with pinned_threads(config.training.n_threads):
        setup = set_up_pack(config, packs[0], load_problem(config, device), device)
        ensemble = setup.ensemble()
        started = time.monotonic()
        for _ in range(2):
            ensemble.metrics()
            ensemble.step()
        seconds_per_step = (time.monotonic() - started) / 2
    n_concurrent = _n_concurrent(config, len(packs))
    layout = setup.layout
    row_bytes = layout.n_replicas * layout.n_parameters * np.dtype(layout.dtype).itemsize
    price = cost(
        config,
        layout.n_parameters,
        config.store.segment_rows or segment_rows(config.n_rows, row_bytes),
        n_concurrent,
    )
    _check_room(config, price)
    # Versions of the driver; `streamscalar doctor` compares them with those of the nodes.
    provenance = gather_provenance(device.type, config.training.n_threads, further_packages=("ray",), with_git=True)
    seconds = seconds_per_step * config.training.n_steps * len(packs) / n_concurrent
    return Prepared(config, price, seconds, n_concurrent, provenance)


def _n_concurrent(config: Config, n_packs: int) -> int:
    if config.cluster.executor == "inline":
        return 1
    fit = int((os.cpu_count() or 1) / config.cluster.cpus_per_trainer) if config.cluster.cpus_per_trainer else n_packs
    return max(1, min(config.cluster.max_concurrent_runs or fit, n_packs))


def _check_room(config: Config, price: Cost) -> None:
    limit = config.recording.max_bytes
    if limit is not None and price.peak_bytes > limit:
        raise BadCall(
            "recording.max_bytes",
            f"must allow {price.peak_bytes:,} raw bytes for these runs",
            f"{limit:,}",
            "Raise it, or set recording.retain to none",
            Kind.CONFIG,
        )
    root = place(config.store_path)
    free = medium_of(root).free_bytes(root)
    needed = int(price.peak_bytes * COMPRESSED_SHARE)
    if free is not None and needed > free:
        raise BadCall(
            f"store.url {config.store_path}",
            f"must lie on a disk with about {needed:,} free bytes",
            f"{free:,}",
            "Set recording.retain to none, record less often (recording.every_n_steps), or use another disk",
            Kind.STORE_FULL,
        )


def execute(prepared: Prepared, on_snapshot: Callable[[Snapshot], None] = lambda _: None) -> Experiment:
    """Create or open the store and carry out the missing work.

    Raises
    ------
    BadCall
        The store holds another experiment, or the cluster does not answer.
    WorkFailed
        Runs failed, or the experiment was cancelled; every acknowledged row is kept.
    """
    config = prepared.config
    if config.cluster.executor == "inline":
        from streamscalar.runtime.inline import run_inline

        last = run_inline(config, _store(prepared), on_snapshot)
    else:
        from streamscalar.runtime.ray.executor import ray_executor

        # The store is created once the cluster answers, so that a wrong address leaves no files behind.
        with ray_executor(config) as run_on_ray:
            last = run_on_ray(_store(prepared), on_snapshot)
    on_snapshot(last)
    _raise_failures(last, config.store_path)
    return Experiment(Store.open(config.store_path))


def _store(prepared: Prepared) -> Store:
    return Store.create(prepared.config.store_path, prepared.config.identity(), prepared.provenance)


def _raise_failures(last: Snapshot, path: str) -> None:
    resume = f"Resume with: streamscalar resume {path}"
    if last.error:
        raise WorkFailed("experiment", last.error, fix=resume, kind=Kind.STORE_FULL)
    if last.count(Phase.FAILED):
        first = next(run for run in last.runs if run.phase == Phase.FAILED)
        raise WorkFailed(
            f"{last.count(Phase.FAILED)} of {last.n_runs} runs",
            f"failed, first {first.run_id}: {first.reason}",
            fix=resume,
            kind=Kind.RUN_FAILED,
        )
    done = last.count(Phase.DONE)
    if done + last.n_unwanted < last.n_runs:
        raise WorkFailed(
            "experiment",
            f"was stopped with {done} of {last.n_runs} runs done",
            fix=resume,
            kind=Kind.CANCELLED,
        )


def run(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    *,
    preset: str | None = None,
    settings: tuple[str, ...] = (),
    on_snapshot: Callable[[Snapshot], None] = lambda _: None,
) -> Experiment:
    """Run an experiment to its end and return it; see `load_config` for the sources of the config."""
    return execute(prepare(load_config(config, preset=preset, settings=settings)), on_snapshot)


def continue_store(store: str | os.PathLike[str], cluster: Mapping[str, Any], settings: tuple[str, ...] = ()) -> Config:
    """Return the config of a stored experiment with another section `cluster`, to resume it.

    Parameters
    ----------
    store
        The store.
    cluster
        Keys of the section `cluster`; they take precedence over the environment.
    settings
        `section.key=value` strings for `cluster.*`, `store.fsync` and `store.spool`.

    Raises
    ------
    BadCall
        There is no store, or a setting would change the experiment.
    """
    stored = Experiment(Store.open(store)).config
    environment = {name: value for name, value in os.environ.items() if name.startswith(CLUSTER_VARIABLES)}
    config = load_config(
        stored.model_dump(), settings=settings, overrides={"cluster": cluster}, environment=environment
    )
    if config.identity() != stored.identity():
        raise BadCall(
            "--set",
            "may change only cluster.*, store.fsync and store.spool of a stored experiment",
            ", ".join(settings),
            "Leave the other keys unchanged, or run the new config in another store",
            Kind.CONFIG,
        )
    return config


def attach(
    store: str | os.PathLike[str], address: str, on_snapshot: Callable[[Snapshot], None] = lambda _: None
) -> Experiment | None:
    """Follow an experiment on a cluster to its end; returns `None` if an interrupt left it running.

    Raises
    ------
    BadCall
        The cluster does not answer, or the store is not finished and no experiment of it runs there.
    WorkFailed
        Runs failed, or the cluster was lost; every acknowledged row is kept.
    """
    from streamscalar.runtime.ray.executor import attach as attach_to

    opened = Store.open(store)
    last = attach_to(opened, address, on_snapshot)
    if last is None:
        experiment = Experiment(opened)
        stored = set(opened.run_ids())
        planned = [plan.run_id for plan in plan_runs(experiment.config)]
        if not all(run_id in stored and opened.reader(run_id).embedding.has_exact for run_id in planned):
            raise BadCall(
                opened.url,
                f"must be the store of an experiment that runs on {address}",
                "an unfinished one that does not run there",
                f"Resume with: streamscalar resume {opened.url} --address {address}",
                Kind.CLUSTER,
            )
        return experiment
    if not last.is_over:
        return None
    on_snapshot(last)
    _raise_failures(last, opened.url)
    return Experiment(opened)
