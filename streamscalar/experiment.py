"""Handles on a stored experiment, whether it runs, died, or ended last year."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.run import RunEstimates, analyze_run
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.table import Table, analyze
from streamscalar.config import Config
from streamscalar.config.models import EmbeddingSection
from streamscalar.config.plan import plan_more, plan_runs
from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.embedding.exact import exact_cmds
from streamscalar.numerics.embedding.joint import joint_source
from streamscalar.numerics.embedding.online import OnlineCMDS
from streamscalar.numerics.embedding.shared_axes import Basis
from streamscalar.numerics.exponents.local import LocalExponents, local_exponents
from streamscalar.numerics.series.dmd import Modes, dmd
from streamscalar.store import RunReader, Store, run_digest
from streamscalar.types import REFERENCE, Layout
from streamscalar.workers.embedder import StoredSnapshots
from streamscalar.workers.exact_embedding import ExactEmbedding, embed_exactly

if TYPE_CHECKING:
    import pandas as pd

DISTANCES = ("l1", "rms", "embedded", "random")


@dataclass(frozen=True, slots=True)
class Series:
    """Values by step and replica.

    Attributes
    ----------
    name
        What is measured.
    steps
        Training steps, shape (N,), int64.
    values
        Shape (N, R); replica 0 is the reference.
    """

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.floating]

    def to_pandas(self) -> "pd.DataFrame":
        """Return one column per replica, indexed by step."""
        import pandas as pd

        columns = [f"replica {index}" for index in range(self.values.shape[1])]
        return pd.DataFrame(self.values, index=pd.Index(self.steps, name="step"), columns=columns)


class Run:
    """One run: its weights, embedding, divergence, metrics and estimates; rows are read when asked for."""

    def __init__(self, reader: RunReader, options: Options) -> None:
        self._reader = reader
        self._options = options

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self._reader.run_id

    @property
    def setting(self) -> Mapping[str, Any]:
        """Learning rate, initial condition and how the run was computed."""
        return self._reader.setting

    @property
    def layout(self) -> Layout:
        """Order of the parameters and replicas."""
        return self._reader.layout

    @property
    def is_complete(self) -> bool:
        """Whether all rows are stored."""
        return self._reader.is_complete

    @property
    def held_bytes(self) -> int:
        """Bytes of the series that this handle remembers."""
        return self._reader.held_bytes

    def steps(self) -> NDArray[np.int64]:
        """Return the recorded steps, shape (N,)."""
        return self._reader.steps()

    def weights(self, step: int) -> NDArray[np.floating]:
        """Return the weights at a recorded step, shape (R, P), bit for bit as they were trained."""
        row = self._row(step)
        return np.asarray(self._reader.weights(row, row + 1)[0])

    def deltas(self, first_step: int, last_step: int) -> NDArray[np.floating]:
        """Return the changes between recorded steps after `first_step` up to `last_step`, shape (S, R, P)."""
        return np.asarray(self._reader.deltas(self._row(first_step) + 1, self._row(last_step) + 1))

    def embedding(self) -> Series:
        """Return the scalar embedding: the exact one once the run has ended, else live in the newest basis."""
        scores = self._reader.scores() if self._reader.has_exact else None
        values = self._reader.live_scores() if scores is None else scores.values
        return Series("embedding", self.steps()[: len(values)], values[..., 0])

    def coordinates(self, basis: str = "best") -> tuple[NDArray[np.float64], str]:
        """Return coordinates of all replicas, (n, R, K), and the name of their basis: `exact` or a live version.

        Parameters
        ----------
        basis
            `best`: exact where it is there, else live. `live`: the newest version. `exact`, or a version.

        Raises
        ------
        BadCall
            There is no such basis (yet).
        """
        reader = self._reader
        if basis == "exact" and not reader.has_exact:
            raise BadCall("basis", "must wait for the end of the run to be exact", basis, "Ask for live", Kind.DATA)
        if basis in ("best", "exact") and reader.has_exact:
            return reader.scores().values, "exact"
        if basis in ("best", "live"):
            versions = reader.bases()["version"]
            return reader.live_scores("newest"), str(versions[-1]) if len(versions) else "0"
        if not basis.isdecimal():
            raise BadCall("basis", "must be best, exact, live or a version", repr(basis), kind=Kind.DATA)
        return reader.live_scores(int(basis)), basis

    def divergence(self, distance: str = "l1") -> Series:
        """Return the distance of every replica from the reference: `l1`, `rms`, `embedded` or `random`."""
        if distance not in DISTANCES:
            raise BadCall("distance", f"must be one of {', '.join(DISTANCES)}", repr(distance), kind=Kind.CONFIG)
        values = np.abs(self._reader.divergence(distance))
        return Series(distance, self.steps()[: len(values)], values)

    def metrics(self, name: str = "loss") -> Series:
        """Return a metric: `loss`, or `accuracy` on the test split."""
        if name not in self._reader.metric_names:
            known = ", ".join(self._reader.metric_names)
            raise BadCall("metric", f"must be one of {known}", repr(name), kind=Kind.CONFIG)
        values = self._reader.metrics(name)
        return Series(name, self.steps()[: len(values)], values)

    def estimates(self, n_rows: int | None = None) -> RunEstimates:
        """Return the estimates of this run alone: now, or as they were when `n_rows` rows had been embedded."""
        return analyze_run(self.series(n_rows), self._options)

    def local_exponents(self, width: int = 10, distance: str = "l1") -> LocalExponents:
        """Return the exponent in a window of `width` rows that slides along the run: when it is sensitive."""
        apart = self.divergence(distance)
        return local_exponents(apart.steps, apart.values[:, self.layout.perturbed].astype(np.float64), width)

    def growth_rates(self, n_components: int = 4) -> Modes:
        """Return the modes of the reference's leading coordinates that grow, decay or turn: a view, not an exponent."""
        series = self.series()
        return dmd(series.steps, series.scores[:, REFERENCE, :n_components], self._options.confidence)

    def embed(
        self,
        method: Literal["cmds", "distance_pca", "smacof", "landmark"] = "cmds",
        distance: Literal["rms", "l1", "layer"] = "rms",
        n_landmarks: int = 64,
    ) -> ExactEmbedding:
        """Embed the stored weights another way; see the `embedding` section of a config for what each means.

        Raises
        ------
        BadCall
            The weights are no longer kept: set recording.retain to all, or choose the embedding in the config.
        """
        section = EmbeddingSection(method=method, distance=distance, n_landmarks=n_landmarks)
        return embed_exactly(self.snapshots(), self.layout, section)

    def basis(self) -> Basis | None:
        """Return mean and directions of its embedding, exact or live; `None` where it has no directions (yet)."""
        reader = self._reader
        if reader.has_exact:
            arrays = reader.exact_arrays()
            if not len(arrays["mean"]):
                return None
            n_snapshots = len(arrays["scores"]) * (1 + self.layout.n_perturbed)
            total = float(reader.exact_info()["total_variance"])
            return Basis(arrays["mean"], arrays["components"], arrays["singular_values"], total, n_snapshots)
        state = reader.live_state()
        if state is None:
            return None
        online = OnlineCMDS.from_snapshot(state)
        total = online.total_variance
        return Basis(online.mean, online.components, online.singular_values, total, online.n_snapshots)

    def snapshots(self) -> StoredSnapshots:
        """Return the stored weights as a source that is read in blocks."""
        return StoredSnapshots(self._reader)

    def exact_info(self) -> dict[str, Any]:
        """Return method, passes, residual and eigengap of the exact solution; empty before there is one."""
        return self._reader.exact_info() if self._reader.has_exact else {}

    def series(self, n_rows: int | None = None) -> RunSeries:
        """Return everything recorded apart from the weights, cut to the rows that all series have.

        With `n_rows`, as it was when that many rows had been embedded: with the live embedding of that time.
        """
        reader = self._reader
        # Once, before any series: a block published meanwhile is left out of all of them alike.
        n_embedded = reader.n_embedded
        n = n_embedded if n_rows is None else n_rows
        if not 0 <= n <= n_embedded:
            raise BadCall("n_rows", f"must be at most the {n_embedded} embedded rows of {self.run_id}", str(n_rows))
        is_exact = n_rows is None and reader.has_exact
        scores = reader.scores().values if is_exact else reader.live_scores_at(n)
        divergence = {name: reader.divergence(name, live=not is_exact) for name in DISTANCES}
        metrics = {name: reader.metrics(name) for name in reader.metric_names}
        return RunSeries(
            run_id=reader.run_id,
            # A user's own training may not tell its learning rate; without shadows, nothing is perturbed.
            learning_rate=math.nan if reader.setting["learning_rate"] is None else reader.setting["learning_rate"],
            epsilon=0.0 if reader.setting["epsilon"] is None else reader.setting["epsilon"],
            initial_condition=reader.setting["initial_condition"],
            seed=reader.seed,
            n_parameters=reader.layout.n_parameters,
            n_perturbed=reader.layout.n_perturbed,
            has_control=reader.layout.has_control,
            is_complete=reader.is_complete and n == reader.n_published,
            n_planned=reader.n_planned,
            steps=reader.steps()[:n],
            divergence={name: values[:n] for name, values in divergence.items()},
            pairs=reader.pairs()[:n],
            increments=reader.increments()[:n],
            scores=scores[:n],
            metrics={name: values[:n] for name, values in metrics.items()},
            explained_variance=reader.explained_variance(None if is_exact else n),
            eigengap=_eigengap(reader.spectrum(None if is_exact else n)),
            embedding_is_exact=is_exact,
        )

    def _row(self, step: int) -> int:
        rows = np.flatnonzero(self.steps() == step)
        if not len(rows):
            raise BadCall("step", f"must be a recorded step of {self.run_id}", str(step), kind=Kind.DATA)
        return int(rows[0])


def _eigengap(spectrum: tuple[NDArray[np.float64], float] | None) -> float | None:
    """Return one minus the ratio of the two leading eigenvalues; `None` while nothing varies."""
    if spectrum is None or not 0 < spectrum[0][0] < np.inf:
        return None
    return float(1.0 - (spectrum[0][1] / spectrum[0][0]) ** 2)


class Experiment:
    """A stored experiment."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._analyzed: dict[tuple[str, int, bool, bool], RunEstimates] = {}

    @cached_property
    def config(self) -> Config:
        """The config under which it was recorded."""
        return Config.from_identity(self.store.config, str(self.store.place))

    def add_runs(self, learning_rates: Sequence[float], n_initial_conditions: int | None = None) -> list[str]:
        """Ask for runs at further learning rates or with further initial conditions; return the names of the new ones.

        Whoever runs the experiment takes them up within a second; otherwise `resume` does.

        Raises
        ------
        BadCall
            The store is a user's own training, or cannot be written.
        """
        if self.config.task.name == "tracked":
            raise BadCall("run", "cannot be added to trainings of your own", fix="Start one with ss.track")
        count = self.config.experiment.n_initial_conditions if n_initial_conditions is None else n_initial_conditions
        there = {plan.run_id for plan in plan_runs(self.config)}
        new = [plan for plan in plan_more(self.config, learning_rates, count) if plan.run_id not in there]
        self.store.request({"kind": "add", "runs": [asdict(plan) for plan in new]})
        return [plan.run_id for plan in new]

    def cancel(self, run_id: str) -> None:
        """Ask for the end of a run, with those of its pack; what it recorded is kept.

        A run that is trained is not cancelled any more.
        """
        self.store.request({"kind": "cancel", "run_id": run_id})

    @property
    def runs(self) -> dict[str, Run]:
        """The runs that have begun, by name."""
        return {run_id: self.run(run_id) for run_id in self.store.run_ids()}

    def run(self, run_id: str) -> Run:
        """Return one run.

        Raises
        ------
        BadCall
            There is no such run.
        """
        return Run(self.store.reader(run_id), self.options)

    def analyze(self, on_run: Callable[[int, int], None] = lambda done, total: None) -> Table:
        """Return the estimates per setting, from what is stored now; runs that did not move on are remembered.

        Parameters
        ----------
        on_run
            Hears how many runs are analysed, of how many.
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

        def remembered(series: RunSeries, options: Options) -> RunEstimates:
            nonlocal n_done
            key = (series.run_id, len(series.steps), series.is_complete, series.embedding_is_exact)
            if key not in self._analyzed:
                self._analyzed[key] = analyze_run(series, options)
            n_done += 1
            on_run(n_done, len(runs))
            return self._analyzed[key]

        return analyze([run.series() for run in runs.values()], self.options, experiment, remembered)

    def joint_embedding(self, run_ids: Sequence[str]) -> dict[str, Series]:
        """Return the scalar of several runs on one axis, classical scaling of all their snapshots together.

        Coordinates of runs that were embedded apart must never be compared; these can. Runs are cut to their common
        rows.

        Raises
        ------
        BadCall
            Fewer than one run, a run with another parameter layout, or weights that are no longer kept.
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
        """Return one line per learning rate."""
        return self.analyze().to_pandas()

    def digest(self) -> str:
        """Return one hash over weights, metrics, coordinates and estimates; hosts, times, attempts do not count."""
        total = hashlib.sha256()
        for run_id in sorted(self.store.run_ids()):
            total.update(run_digest(self.store.reader(run_id)))
        estimates = self.analyze().to_json()
        del estimates["experiment"]
        total.update(json.dumps(estimates, sort_keys=True).encode())
        return total.hexdigest()

    @cached_property
    def options(self) -> Options:
        """How it is analysed."""
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
    """Return the experiment stored in a folder.

    Raises
    ------
    BadCall
        The folder is no store, or a newer version wrote it.
    """
    return Experiment(Store.open(store))
