"""Handle on a stored experiment: its runs, its analysis, and requests to whatever process executes it."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from streamscalar.analysis.alerts import RunWatch, watch_group
from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.rank_alerts import ranks_drifted
from streamscalar.analysis.rules import Alert
from streamscalar.analysis.run import RunEstimates, analyze_run
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.table import Table, analyze
from streamscalar.analysis.variants import variants_of
from streamscalar.config import Config
from streamscalar.config.plan import plan_more, plan_runs
from streamscalar.errors import BadCall
from streamscalar.experiment.series import Series
from streamscalar.experiment.stored_run import Run
from streamscalar.numerics.embedding.exact import exact_cmds
from streamscalar.numerics.embedding.joint import joint_source
from streamscalar.store import Store, run_digest

if TYPE_CHECKING:
    import pandas as pd

SENTENCES = ("message", "regime_reason")
"""Keys of estimates that hold sentences."""


class Experiment:
    """A stored experiment, in progress, interrupted or complete.

    Parameters
    ----------
    store
        The open store; `streamscalar.open` opens one from its folder or URL.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._analyzed: dict[tuple[object, ...], RunEstimates] = {}

    @cached_property
    def config(self) -> Config:
        """The config that it was recorded with."""
        return Config.from_identity(self.store.config, str(self.store.place))

    def add_runs(self, learning_rates: Sequence[float], n_initial_conditions: int | None = None) -> list[str]:
        """Request runs at further learning rates or with further initial conditions.

        A process that executes the experiment starts them within a second; if there is none, the next `resume` does.

        Parameters
        ----------
        learning_rates
            Learning rates, per step.
        n_initial_conditions
            Initial conditions per learning rate; by default as many as the experiment has.

        Returns
        -------
        list of str
            Names of the runs that are new; runs of the experiment are left out.

        Raises
        ------
        BadCall
            The store holds runs recorded by `ss.track`, or is not writable.
        """
        if self.config.task.name == "tracked":
            raise BadCall("run", "cannot be added to runs recorded by ss.track", fix="Start another one with ss.track")
        count = self.config.experiment.n_initial_conditions if n_initial_conditions is None else n_initial_conditions
        known = {plan.run_id for plan in plan_runs(self.config)}
        new = [plan for plan in plan_more(self.config, learning_rates, count) if plan.run_id not in known]
        self.store.request({"kind": "add", "runs": [asdict(plan) for plan in new]})
        return [plan.run_id for plan in new]

    def cancel(self, run_id: str) -> None:
        """Request the end of a run and of the other runs of its pack; recorded rows are kept.

        A run whose training has finished is not cancelled any more.

        Raises
        ------
        BadCall
            The store is not writable.
        """
        self.store.request({"kind": "cancel", "run_id": run_id})

    @property
    def runs(self) -> dict[str, Run]:
        """The runs that have started, by name."""
        return {run_id: self.run(run_id) for run_id in self.store.run_ids()}

    def run(self, run_id: str) -> Run:
        """Return one run by its name.

        Raises
        ------
        BadCall
            No run of that name has started.
        """
        return Run(self.store.reader(run_id), self.options)

    def variants(self) -> dict[str, str]:
        """Return for each run what distinguishes its setting apart from learning rate and epsilon; see `Table`."""
        if self.config.task.name != "tracked":
            return dict.fromkeys(self.store.run_ids(), "")
        readers = {run_id: self.store.reader(run_id, hash_weights=False) for run_id in self.store.run_ids()}
        return variants_of({run_id: (reader.setting, reader.layout) for run_id, reader in readers.items()})

    def analyze(self, on_run: Callable[[int, int], None] = lambda done, total: None) -> Table:
        """Return the estimates per setting from the rows stored now.

        Estimates of a run are cached, and computed again only when it has more rows or its exact embedding.

        Parameters
        ----------
        on_run
            Called with the number of analysed runs and the number of all runs after each run.
        """
        experiment = {
            "name": self.config.experiment.name,
            "epsilon": list(self.config.perturbation.epsilon),
            "task": self.config.task.name,
            "dtype": self.config.training.dtype,
            "store": str(self.store.place),
        }
        runs = self.runs
        n_done = 0

        def cached(series: RunSeries, options: Options) -> RunEstimates:
            nonlocal n_done
            state = series.is_complete, series.embedding_is_exact, series.variant, series.not_reproduced
            key = (series.run_id, len(series.steps), *state)
            if key not in self._analyzed:
                self._analyzed[key] = analyze_run(series, options)
            n_done += 1
            on_run(n_done, len(runs))
            return self._analyzed[key]

        variants = self.variants()
        series = [replace(run.series(), variant=variants[run_id]) for run_id, run in runs.items()]
        return analyze(series, self.options, experiment, cached)

    def alerts(self) -> list[Alert]:
        """Return the alerts of all runs, by run and step, from the rows stored now; the clock raises none.

        Levels and thresholds are those of `analysis.alerts` of the config.
        """
        rules, found = self.config.analysis.alerts, []
        groups: dict[tuple[object, ...], list[RunSeries]] = {}
        for run_id, run in self.runs.items():
            series = run.series()
            if len(series.steps):
                found += RunWatch(rules, self.options).update(series)
                setting = (run.setting.get("group"), series.learning_rate, series.epsilon)
                groups.setdefault((*setting, run.layout.layers, run.layout.dtype), []).append(series)
            found += ranks_drifted(run_id, [state.drift for state in run.ranks() if state.drift is not None], rules)
        for members in groups.values():
            found += watch_group(members, rules, self.options)
        return sorted(found, key=lambda alert: (alert.run_id, alert.step or 0, alert.rule))

    def joint_embedding(self, run_ids: Sequence[str]) -> dict[str, Series]:
        """Return the scalar embedding of several runs on one axis: classical scaling of all their snapshots together.

        Coordinates of runs that were embedded separately are not comparable; these are. Runs are cut to the rows that
        all of them have.

        Parameters
        ----------
        run_ids
            Names of at least one run, all with the same parameter layout.

        Returns
        -------
        dict
            For each name a `Series` with values of shape (N, R).

        Raises
        ------
        BadCall
            No run is named, the parameter layouts differ, or weights are no longer kept.
        """
        runs = {run_id: self.run(run_id) for run_id in run_ids}
        joint = joint_source(
            {run_id: run.snapshots() for run_id, run in runs.items()},
            {run_id: run.layout.layers for run_id, run in runs.items()},
        )
        fit = [place for run_id, run in runs.items() for place in joint.replicas[run_id][: 1 + run.layout.n_perturbed]]
        scores = exact_cmds(joint, fit, self.config.embedding.n_components).scores[..., 0]
        return {
            run_id: Series("joint embedding", run.steps()[: joint.n_rows], scores[:, joint.replicas[run_id]])
            for run_id, run in runs.items()
        }

    def table(self) -> "pd.DataFrame":
        """Return the estimates as a data frame with one row per setting (learning rate and epsilon)."""
        return self.analyze().to_pandas()

    def digest(self) -> str:
        """Return a SHA-256 over weights, metrics, coordinates and estimates, as hexadecimal text.

        Host names, times, numbers of attempts and the wording of messages do not enter it.
        """
        total = hashlib.sha256()
        for run_id in sorted(self.store.run_ids()):
            total.update(run_digest(self.store.reader(run_id)))
        estimates = self.analyze().to_json()
        del estimates["experiment"]
        total.update(json.dumps(_without_sentences(estimates), sort_keys=True).encode())
        return total.hexdigest()

    @cached_property
    def options(self) -> Options:
        """Options of the estimators, from the config."""
        analysis = self.config.analysis
        return Options(
            confidence=analysis.confidence,
            interval=analysis.interval,
            n_bootstrap=analysis.n_bootstrap,
            average=analysis.average,
            regular_below=analysis.regular_below,
            n_surrogates=analysis.n_surrogates,
            asymptotic_rows=analysis.asymptotic_rows,
            accuracy_target=self.config.task.accuracy_target if self.config.task.has_accuracy else None,
            seed=self.config.experiment.seed,
            is_tracked=self.config.task.name == "tracked",
        )


def open(store: str | os.PathLike[str]) -> Experiment:  # noqa: A001  (`ss.open` is the public name)
    """Open the experiment in a store.

    Parameters
    ----------
    store
        Folder of the store, or its URL such as `s3://bucket/prefix`.

    Raises
    ------
    BadCall
        There is no store at this place, or a newer version of streamscalar wrote it.
    """
    return Experiment(Store.open(store))


def _without_sentences(document: Any) -> Any:
    """Return a JSON document without the sentences for people, which may be reworded."""
    if isinstance(document, dict):
        return {key: _without_sentences(value) for key, value in document.items() if key not in SENTENCES}
    return [_without_sentences(value) for value in document] if isinstance(document, list) else document
