"""Trains one run after the other and streams every recorded row into the store."""

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from streamscalar.config import Config, RunPlan
from streamscalar.store import Store, WeightsWriter
from streamscalar.training.ensemble import (
    Ensemble,
    check_twins,
    initial_replicas,
    pinned_threads,
    resolve_device,
)
from streamscalar.training.problems import Problem, build_problem
from streamscalar.types import Layout

BlockSink = Callable[[str, int, NDArray[np.floating]], None]
"""Takes (run, first row, weights (S, R, P)) of a block that is durable."""


class Outcome(StrEnum):
    """How a training ended where nothing went wrong."""

    FINISHED = "finished"
    STOPPED = "stopped"


def run_layout(problem: Problem, config: Config) -> Layout:
    """Return the layout of every run of `config`."""
    return Layout(problem.layers, config.training.dtype, config.perturbation.n_perturbed, config.perturbation.control)


class Trainer:
    """Trains runs of one config.

    Parameters
    ----------
    store_path
        Folder of the store.
    config
        The experiment; data are loaded once, at the first run.
    """

    def __init__(self, store_path: str, config: Config) -> None:
        self._store_path = store_path
        self._config = config
        self._device = resolve_device(config.training.device)
        self._problem: Problem | None = None

    def train(self, plan: RunPlan, sink: BlockSink, should_stop: Callable[[], bool]) -> Outcome:
        """Train `plan` to its end, from its last key frame where there is one.

        Rows that a former attempt made durable are computed again and compared, not written again.

        Raises
        ------
        WorkFailed
            The disk is full, or a recomputed row differs from the stored one.
        Fenced
            A newer attempt owns the run.
        """
        config = self._config
        with pinned_threads(config.training.n_threads):
            if self._problem is None:
                dtype = getattr(torch, config.training.dtype)
                self._problem = build_problem(config.task, config.model, dtype, self._device)
            problem = self._problem
            layout = run_layout(problem, config)
            start = initial_replicas(problem, layout, config.perturbation, plan.seed)
            twins = check_twins(problem, start[0], layout.n_replicas, self._device)
            store = Store.open(self._store_path, writable=True)
            store.add_run(
                plan.run_id,
                setting={
                    "learning_rate": plan.learning_rate,
                    "initial_condition": plan.initial_condition,
                    "product": str(twins.product),
                    "twins_exact": twins.is_exact,
                    "device": str(self._device),
                },
                seed=plan.seed,
                layout=layout,
                n_rows=config.n_rows,
                metrics=problem.metrics,
                n_components=config.embedding.n_components,
                segment_rows=config.store.segment_rows,
                codec=config.store.codec,
            )
            with store.weights_writer(plan.run_id, fsync=config.store.fsync) as writer:
                keyframe = writer.last_keyframe()
                first = 0 if keyframe is None else keyframe.row
                rows = start if keyframe is None else keyframe.weights
                ensemble = Ensemble(problem, rows, plan.learning_rate, twins.product, self._device)
                return self._stream(plan.run_id, ensemble, first, writer, sink, should_stop)

    def _stream(
        self,
        run_id: str,
        ensemble: Ensemble,
        first: int,
        writer: WeightsWriter,
        sink: BlockSink,
        should_stop: Callable[[], bool],
    ) -> Outcome:
        every = self._config.recording.every_n_steps
        recent: dict[int, NDArray[np.floating]] = {}
        for row in range(first, self._config.n_rows):
            if should_stop():
                return Outcome.STOPPED
            if row > first:
                for _ in range(every):
                    ensemble.step()
            metrics = ensemble.metrics()
            recent[row] = ensemble.weights
            writer.append(row, row * every, recent[row], metrics, {} if writer.needs_state(row) else None)
            _push(run_id, writer, recent, sink)
        writer.finish()
        _push(run_id, writer, recent, sink)
        return Outcome.FINISHED


def _push(run_id: str, writer: WeightsWriter, recent: dict[int, NDArray[np.floating]], sink: BlockSink) -> None:
    """Hand on the blocks that were published since, where this attempt has all of their rows."""
    for first, n_rows in writer.take_published():
        rows = [recent.pop(row) for row in range(first, first + n_rows) if row in recent]
        if len(rows) == n_rows:
            sink(run_id, first, np.stack(rows))
