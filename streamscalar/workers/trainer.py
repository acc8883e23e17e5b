"""The trainer trains one pack of runs after the other and writes every recorded row to the store."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import Config, RunPlan, RunSetting
from streamscalar.errors import Fenced
from streamscalar.protocol.schedule import Outcome
from streamscalar.store import KeyFrame, Store, WeightsWriter
from streamscalar.training.ensemble import Ensemble, pinned_threads, resolve_device
from streamscalar.training.problem import Problem
from streamscalar.training.setup import load_problem, set_up_pack

_log = logging.getLogger(__name__)

BlockSink = Callable[[str, int, NDArray[np.floating]], None]
"""Takes (run, first row, weights (S, R, P)) of a durable block."""


class Trainer:
    """Trains runs of one config.

    Parameters
    ----------
    store_path
        Folder of the store.
    config
        The experiment; data are loaded once, for the first run.
    """

    def __init__(self, store_path: str, config: Config) -> None:
        self._store_path = store_path
        self._config = config
        self._device = resolve_device(config.training.device)
        self._problem: Problem | None = None

    def train(self, pack: Sequence[RunPlan], sink: BlockSink, should_stop: Callable[[], bool]) -> Outcome:
        """Train the runs of `pack` together to their end, from their last common key frame if there is one.

        Rows that an earlier attempt stored are computed again and compared, but not written again.

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
                self._problem = load_problem(config, self._device)
            setup = set_up_pack(config, pack, self._problem, self._device)
            store = Store.open(self._store_path, writable=True)
            runs: list[_Run] = []
            for plan in pack:
                store.add_run(
                    plan.run_id,
                    setting=RunSetting(
                        learning_rate=plan.learning_rate,
                        epsilon=plan.epsilon,
                        initial_condition=plan.initial_condition,
                        product=str(setup.twins.product),
                        twins_exact=setup.twins.is_exact,
                        device=str(self._device),
                    ),
                    seed=plan.seed,
                    layout=setup.layout,
                    n_rows=config.n_rows,
                    metrics=(*setup.problem.metrics, *(f"tangent_{k + 1}" for k in range(config.training.n_tangents))),
                    n_components=config.embedding.n_components,
                    segment_rows=config.store.segment_rows,
                    codec=config.store.codec,
                )
                writer = writers.enter_context(
                    store.weights_writer(plan.run_id, config.store.fsync, config.store.spool)
                )
                runs.append(_Run(plan.run_id, writer))
            keyframes = _common_keyframes(runs)
            first = keyframes[0].row if keyframes else 0
            ensemble = setup.ensemble([keyframe.weights for keyframe in keyframes])
            if keyframes:
                names = keyframes[0].state
                state = {name: np.concatenate([keyframe.state[name] for keyframe in keyframes]) for name in names}
                ensemble.restore(state, keyframes[0].step)
            is_first = all(run.writer.attempt == 1 for run in runs)
            self._log("started" if is_first else "resumed", [(run, first) for run in runs])
            try:
                outcome = self._stream(runs, ensemble, first, sink, should_stop)
            except Fenced as error:
                self._log("fenced", [(run, run.writer.n_durable) for run in runs], error)
                raise
            self._log(outcome, [(run, run.writer.n_durable) for run in runs])
            return outcome

    def _log(self, what: str, at: Sequence[tuple["_Run", int]], error: Fenced | None = None) -> None:
        """Log an event of the training, one line per run with its row."""
        for run, row in at:
            about: dict[str, Any] = {"experiment": self._config.experiment.name, "run": run.run_id, "row": row}
            about["attempt"] = run.writer.attempt
            if error is None:
                _log.info("training %s", what, extra=about)
            else:
                _log.warning("training %s", what, extra={**about, "reason": str(error)})

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
            state = ensemble.state() if runs[0].writer.needs_state(row) else {}
            for index, run in enumerate(runs):
                own = slice(index * n_replicas, (index + 1) * n_replicas)
                own_metrics, own_state = ({k: v[own] for k, v in found.items()} for found in (metrics, state))
                run.writer.append(row, row * every, weights[own], own_metrics, own_state)
                run.push(sink)
        for run in runs:
            run.writer.finish()
            run.push(sink)
        return Outcome.FINISHED


@dataclass(slots=True)
class _Run:
    """One run of the pack in training, and its writer."""

    run_id: str
    writer: WeightsWriter

    def push(self, sink: BlockSink) -> None:
        """Pass on the blocks published since the last call."""
        for first, block in self.writer.take_published():
            sink(self.run_id, first, block)


def _common_keyframes(runs: Sequence[_Run]) -> list[KeyFrame]:
    """Return the key frames of all runs at their newest common row after row 0; empty if there is none."""
    newest = [run.writer.last_keyframe() for run in runs]
    row = min(0 if keyframe is None else keyframe.row for keyframe in newest)
    found = [run.writer.last_keyframe(row) for run in runs]
    common = [keyframe for keyframe in found if keyframe is not None and keyframe.row == row]
    return common if row > 0 and len(common) == len(runs) else []
