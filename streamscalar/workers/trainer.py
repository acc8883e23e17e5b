"""Trains one pack of runs after the other and streams every recorded row into the store."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from streamscalar.config import Config, RunPlan
from streamscalar.store import KeyFrame, Store, WeightsWriter
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

    def train(self, pack: Sequence[RunPlan], sink: BlockSink, should_stop: Callable[[], bool]) -> Outcome:
        """Train the runs of `pack` side by side to their end, from their last common key frame where there is one.

        Rows that a former attempt made durable are computed again and compared, not written again.

        Raises
        ------
        WorkFailed
            The disk is full, or a recomputed row differs from the stored one.
        Fenced
            A newer attempt owns a run.
        """
        config = self._config
        with pinned_threads(config.training.n_threads), ExitStack() as writers:
            if self._problem is None:
                dtype = getattr(torch, config.training.dtype)
                self._problem = build_problem(config.task, config.model, dtype, self._device)
            problem = self._problem
            layout = run_layout(problem, config)
            weights_only = config.perturbation.weights_only
            starts = [initial_replicas(problem, layout, plan.epsilon, weights_only, plan.seed) for plan in pack]
            twins = check_twins(problem, starts[0][0], len(pack) * layout.n_replicas, self._device)
            store = Store.open(self._store_path, writable=True)
            runs: list[_Run] = []
            for plan in pack:
                store.add_run(
                    plan.run_id,
                    setting={
                        "learning_rate": plan.learning_rate,
                        "epsilon": plan.epsilon,
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
                writer = writers.enter_context(store.weights_writer(plan.run_id, fsync=config.store.fsync))
                runs.append(_Run(plan.run_id, writer))
            first, rows = _resume(runs, starts)
            rates = np.repeat([plan.learning_rate for plan in pack], layout.n_replicas)
            ensemble = Ensemble(problem, rows, rates, twins.product, self._device)
            return self._stream(runs, ensemble, first, sink, should_stop)

    def _stream(
        self,
        runs: Sequence["_Run"],
        ensemble: Ensemble,
        first: int,
        sink: BlockSink,
        should_stop: Callable[[], bool],
    ) -> Outcome:
        every = self._config.recording.every_n_steps
        n_replicas = self._config.n_replicas
        for row in range(first, self._config.n_rows):
            if should_stop():
                return Outcome.STOPPED
            if row > first:
                for _ in range(every):
                    ensemble.step()
            metrics, weights = ensemble.metrics(), ensemble.weights
            for index, run in enumerate(runs):
                own = slice(index * n_replicas, (index + 1) * n_replicas)
                state: dict[str, NDArray[np.generic]] | None = {} if run.writer.needs_state(row) else None
                run.recent[row] = weights[own]
                run.writer.append(row, row * every, weights[own], {k: v[own] for k, v in metrics.items()}, state)
                run.push(sink)
        for run in runs:
            run.writer.finish()
            run.push(sink)
        return Outcome.FINISHED


@dataclass(slots=True)
class _Run:
    """One run of the pack in training: its writer, and the rows that were not handed on yet."""

    run_id: str
    writer: WeightsWriter
    recent: dict[int, NDArray[np.floating]] = field(default_factory=dict)

    def push(self, sink: BlockSink) -> None:
        """Hand on the blocks that were published since, where this attempt has all of their rows."""
        for first, n_rows in self.writer.take_published():
            rows = [self.recent.pop(row) for row in range(first, first + n_rows) if row in self.recent]
            if len(rows) == n_rows:
                sink(self.run_id, first, np.stack(rows))


def _resume(runs: Sequence[_Run], starts: Sequence[NDArray[np.floating]]) -> tuple[int, NDArray[np.floating]]:
    """Return the newest row of which every run has a key frame, and the weights there (R, P); row 0 otherwise."""
    newest = [run.writer.last_keyframe() for run in runs]
    first = min(0 if keyframe is None else keyframe.row for keyframe in newest)
    if first == 0:
        return 0, np.concatenate(starts)
    keyframes: list[KeyFrame] = []
    for run in runs:
        keyframe = run.writer.last_keyframe(first)
        if keyframe is None or keyframe.row != first:
            return 0, np.concatenate(starts)
        keyframes.append(keyframe)
    return first, np.concatenate([keyframe.weights for keyframe in keyframes])
