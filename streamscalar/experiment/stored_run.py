"""Handle on one stored run.

Arrays are read from the store when a method is called; the handle keeps only what the reader caches.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.estimator_options import Options
from streamscalar.analysis.run import RunEstimates, analyze_run
from streamscalar.analysis.series import RunSeries
from streamscalar.config.models import EmbeddingSection
from streamscalar.errors import BadCall, Kind
from streamscalar.experiment.series import Series
from streamscalar.numerics.embedding.online import OnlineCMDS
from streamscalar.numerics.embedding.shared_axes import Basis
from streamscalar.numerics.exponents.local import LocalExponents, local_exponents
from streamscalar.numerics.series.dmd import Modes, dmd
from streamscalar.store import RankState, RunReader
from streamscalar.store.logged.reader import by_step, unknown_metric
from streamscalar.types import DISTANCES, REFERENCE, EmbeddingDistance, Layout
from streamscalar.workers.embedder import StoredSnapshots
from streamscalar.workers.exact_embedding import ExactEmbedding, embed_exactly

ANALYSED = ("loss", "accuracy")
"""Metrics that the analysis reads whether rows carry them or not."""


class Run:
    """A stored run: weights, embedding, divergence, metrics and estimates.

    The run may be in progress, interrupted or complete. Shapes use N for recorded steps (rows), R for replicas
    (reference, perturbed, control), P for parameters and K for components of the embedding.
    """

    def __init__(self, reader: RunReader, options: Options) -> None:
        self._reader = reader
        self._options = options

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self._reader.run_id

    @property
    def setting(self) -> Mapping[str, Any]:
        """Learning rate, epsilon, initial condition and how the run was computed."""
        return self._reader.setting.to_json()

    @property
    def layout(self) -> Layout:
        """Order of parameters and replicas."""
        return self._reader.layout

    @property
    def is_complete(self) -> bool:
        """Whether all planned rows are stored."""
        return self._reader.is_complete

    @property
    def held_bytes(self) -> int:
        """Bytes of the series that this handle caches."""
        return self._reader.held_bytes

    def steps(self) -> NDArray[np.int64]:
        """Return the recorded training steps, shape (N,), int64."""
        return self._reader.steps()

    def weights(self, step: int) -> NDArray[np.floating]:
        """Return the weights of all replicas at a recorded step, bit for bit as they were trained.

        Returns
        -------
        ndarray
            Shape (R, P), in the dtype of the training (float32 or float64).

        Raises
        ------
        BadCall
            `step` is not a recorded step, or its weights are no longer kept (`recording.retain`).
        """
        row = self._row(step)
        return np.asarray(self._reader.weights(row, row + 1)[0])

    def deltas(self, first_step: int, last_step: int) -> NDArray[np.floating]:
        """Return the weight changes from one recorded step to the next.

        Parameters
        ----------
        first_step, last_step
            Recorded steps. The first change returned leads from `first_step` to the next recorded step; the last
            one leads to `last_step`.

        Returns
        -------
        ndarray
            Shape (S, R, P), in the dtype of the training.

        Raises
        ------
        BadCall
            One of the steps is not recorded, or the weights are no longer kept.
        """
        return np.asarray(self._reader.deltas(self._row(first_step) + 1, self._row(last_step) + 1))

    def embedding(self) -> Series:
        """Return the scalar embedding, the first coordinate of every replica.

        It is the exact embedding if the run has one, else the live embedding in the newest basis. N may be less than
        `len(steps())`: rows are embedded in blocks.
        """
        scores = self._reader.embedding.scores() if self._reader.embedding.has_exact else None
        values = self._reader.embedding.live_scores() if scores is None else scores.values
        return Series("embedding", self.steps()[: len(values)], values[..., 0])

    def coordinates(self, basis: str = "best") -> tuple[NDArray[np.float64], str]:
        """Return the coordinates of all replicas and the name of their basis.

        Parameters
        ----------
        basis
            `best`: the exact embedding if there is one, else the live one. `exact`: the exact embedding. `live`: the
            live embedding in the newest basis. A number such as `"3"`: the live embedding in that basis version.

        Returns
        -------
        coordinates
            Shape (N, R, K), float64.
        basis
            `exact`, or the version of the live basis as text.

        Raises
        ------
        BadCall
            The basis does not exist, or not yet.
        """
        reader = self._reader
        if basis == "exact" and not reader.embedding.has_exact:
            must = "must be live until the run has ended and its exact embedding is stored"
            raise BadCall("basis", must, basis, "Use basis='live'", Kind.DATA)
        if basis in ("best", "exact") and reader.embedding.has_exact:
            return reader.embedding.scores().values, "exact"
        if basis in ("best", "live"):
            versions = reader.embedding.bases()["version"]
            return reader.embedding.live_scores("newest"), str(versions[-1]) if len(versions) else "0"
        if not basis.isdecimal():
            raise BadCall("basis", "must be best, exact, live or the number of a version", repr(basis), kind=Kind.DATA)
        return reader.embedding.live_scores(int(basis)), basis

    def divergence(self, distance: str = "l1") -> Series:
        """Return the distance of every replica from the reference.

        Parameters
        ----------
        distance
            `l1`: sum of absolute weight differences. `rms`: root mean square of the weight differences. `embedded`:
            absolute difference of the first coordinate. `random`: the same along a random direction, as a control.

        Returns
        -------
        Series
            Values of shape (N, R), zero for the reference.

        Raises
        ------
        BadCall
            `distance` is none of these.
        """
        if distance not in DISTANCES:
            raise BadCall("distance", f"must be one of {', '.join(DISTANCES)}", repr(distance), kind=Kind.CONFIG)
        values = np.abs(self._reader.embedding.divergence(distance))
        return Series(distance, self.steps()[: len(values)], values)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics, recorded with rows or logged apart from them."""
        return self._reader.metric_names

    def metrics(self, name: str = "loss") -> Series:
        """Return a metric of every replica at the recorded steps.

        A row of a tracked training has the newest value that was given for a step since the row before, and
        `missing.MISSING`, a NaN, where none was. `logged` returns all values.

        Parameters
        ----------
        name
            `loss` on the training set, `accuracy` on the test set, or another metric that was recorded.

        Raises
        ------
        BadCall
            The run has no metric of that name.
        """
        values = self._reader.metrics(self._known(name))
        return Series(name, self.steps()[: len(values)], values)

    def logged(self, name: str = "loss") -> Series:
        """Return all values of a metric, each with the step that a tracked training gave it for.

        Parameters
        ----------
        name
            Name as given to `Tracker.step` or `Tracker.log`. Metrics that were recorded with rows alone, such as those
            of an experiment, have the steps of the rows.

        Returns
        -------
        Series
            Each step once, ascending; of several values for a step the last one. `missing.MISSING`, a NaN, where a
            replica has none: shadows have a `loss` only.

        Raises
        ------
        BadCall
            The run has no metric of that name.
        """
        steps, values, n_moved = by_step(self._reader.logged.entries(), self._known(name), self.layout.n_replicas)
        logged = Series(name, steps, values, n_moved)
        if name not in self._reader.spec.metrics:
            return logged
        # Rows of an earlier version, before the first logged value.
        rows = self._reader.row_metrics(name)
        recorded = Series(name, self.steps()[: len(rows)], rows).reported()
        n_before = int(np.searchsorted(recorded.steps, steps[0])) if len(steps) else len(recorded.steps)
        return recorded[:n_before] + logged

    def estimates(self, n_rows: int | None = None) -> RunEstimates:
        """Return the estimates of this run alone.

        Parameters
        ----------
        n_rows
            Use the first `n_rows` embedded rows, in the live embedding of that time; by default all stored rows.

        Raises
        ------
        BadCall
            `n_rows` is negative or more than the embedded rows.
        """
        return analyze_run(self.series(n_rows), self._options)

    def local_exponents(self, width: int = 10, distance: str = "l1") -> LocalExponents:
        """Return the exponent within a sliding window, which shows when the run is sensitive.

        Parameters
        ----------
        width
            Rows of the window.
        distance
            As in `divergence`.
        """
        apart = self.divergence(distance)
        return local_exponents(apart.steps, apart.values[:, self.layout.perturbed].astype(np.float64), width)

    def growth_rates(self, n_components: int = 4) -> Modes:
        """Return the modes of the reference's leading coordinates that grow, decay or oscillate.

        They describe the curve of one trajectory; they are not exponents.

        Parameters
        ----------
        n_components
            Number of leading coordinates to use.
        """
        series = self.series()
        return dmd(series.steps, series.scores[:, REFERENCE, :n_components], self._options.confidence)

    def embed(
        self,
        method: Literal["cmds", "distance_pca", "smacof", "landmark"] = "cmds",
        distance: EmbeddingDistance = "rms",
        n_landmarks: int = 64,
    ) -> ExactEmbedding:
        """Embed the stored weights with another method; the store is not changed.

        Parameters
        ----------
        method, distance, n_landmarks
            As in the `embedding` section of a config.

        Raises
        ------
        BadCall
            The weights are no longer kept: set `recording.retain` to `all`, or set the method in the config.
        """
        section = EmbeddingSection(method=method, distance=distance, n_landmarks=n_landmarks)
        return embed_exactly(self.snapshots(), self.layout, section)

    def basis(self) -> Basis | None:
        """Return mean and directions of the embedding, exact or live.

        `None` if there are none: nothing is embedded yet, or the method has no directions in weight space.
        """
        reader = self._reader
        if reader.embedding.has_exact:
            arrays = reader.embedding.exact_arrays()
            if not len(arrays["mean"]):
                return None
            n_snapshots = len(arrays["scores"]) * (1 + self.layout.n_perturbed)
            total = float(reader.embedding.exact_info()["total_variance"])
            return Basis(arrays["mean"], arrays["components"], arrays["singular_values"], total, n_snapshots)
        state = reader.embedding.live_state()
        if state is None:
            return None
        online = OnlineCMDS.from_snapshot(state)
        total = online.total_variance
        return Basis(online.mean, online.components, online.singular_values, total, online.n_snapshots)

    def snapshots(self) -> StoredSnapshots:
        """Return the stored weights as a source that is read block by block."""
        return StoredSnapshots(self._reader)

    def ranks(self) -> list[RankState]:
        """Return what is known of each rank of the distributed trainings that recorded the run, newest job last.

        `drift` of a rank is its first difference from the others. Empty where ranks were not compared; a rank that is
        missing has written nothing.
        """
        watch = self._reader.rank_watch()
        watch.update(is_over=True)
        return watch.states()

    def exact_info(self) -> dict[str, Any]:
        """Return method, passes, residual and eigengap of the exact embedding; empty until there is one."""
        return self._reader.embedding.exact_info() if self._reader.embedding.has_exact else {}

    def series(self, n_rows: int | None = None) -> RunSeries:
        """Return all recorded series except the weights, cut to the rows that every series has.

        Parameters
        ----------
        n_rows
            Use the first `n_rows` embedded rows, in the live embedding of that time; by default all embedded rows.

        Raises
        ------
        BadCall
            `n_rows` is negative or more than the embedded rows.
        """
        reader = self._reader
        # Read once, before any series, so that a block published meanwhile is in none of them.
        n_embedded = reader.embedding.n_rows
        n = n_embedded if n_rows is None else n_rows
        if not 0 <= n <= n_embedded:
            raise BadCall("n_rows", f"must be from 0 to {n_embedded}, the embedded rows of {self.run_id}", str(n_rows))
        is_exact = n_rows is None and reader.embedding.has_exact
        scores = reader.embedding.scores().values if is_exact else reader.embedding.live_scores_at(n)
        divergence = {name: reader.embedding.divergence(name, live=not is_exact) for name in DISTANCES}
        known = {*reader.spec.metrics, *(name for name in ANALYSED if name in reader.metric_names)}
        metrics = {name: reader.metrics(name) for name in known}
        found = RunSeries(
            run_id=reader.run_id,
            # A tracked run may have no learning rate, and without a shadow it has no perturbation.
            learning_rate=math.nan if reader.setting.learning_rate is None else reader.setting.learning_rate,
            epsilon=0.0 if reader.setting.epsilon is None else reader.setting.epsilon,
            initial_condition=reader.setting.initial_condition,
            seed=reader.seed,
            n_parameters=reader.layout.n_parameters,
            n_perturbed=reader.layout.n_perturbed,
            has_control=reader.layout.has_control,
            is_complete=reader.is_complete and n == reader.n_published,
            n_planned=reader.n_planned,
            steps=reader.steps()[:n],
            divergence={name: values[:n] for name, values in divergence.items()},
            pairs=reader.embedding.pairs()[:n],
            increments=reader.embedding.increments()[:n],
            scores=scores[:n],
            metrics={name: values[:n] for name, values in metrics.items()},
            explained_variance=reader.embedding.explained_variance(None if is_exact else n),
            eigengap=_eigengap(reader.embedding.spectrum(None if is_exact else n)),
            embedding_is_exact=is_exact,
        )
        why = reader.status().get("not_reproduced", "")
        return found.alone(why) if why else found

    def _known(self, name: str) -> str:
        if name not in self._reader.metric_names:
            raise unknown_metric(name, self._reader.metric_names)
        return name

    def _row(self, step: int) -> int:
        rows = np.flatnonzero(self.steps() == step)
        if not len(rows):
            raise BadCall(
                "step", f"must be a recorded step of {self.run_id}", str(step), "`steps()` lists them", kind=Kind.DATA
            )
        return int(rows[0])


def _eigengap(spectrum: tuple[NDArray[np.float64], float] | None) -> float | None:
    """Return one minus the ratio of the second eigenvalue to the first; `None` if nothing varies."""
    if spectrum is None or not 0 < spectrum[0][0] < np.inf:
        return None
    return float(1.0 - (spectrum[0][1] / spectrum[0][0]) ** 2)
