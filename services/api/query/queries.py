"""Answers from the stores: series, estimates, comparisons, neighbours."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting import SettingEstimates
from streamscalar.analysis.table import tabulate
from streamscalar.errors import BadCall, Kind
from streamscalar.experiment import Run
from streamscalar.numerics.embedding.shared_axes import Basis, SharedAxes, shared_axes
from streamscalar.types import DISTANCES, REFERENCE, Estimate, Layout, json_float
from streamscalar_services.api.query.analyst import Readers
from streamscalar_services.api.query.listing import Clock, item, matcher, ordered, page
from streamscalar_services.api.query.sampling import Cursor, sample
from streamscalar_services.api.schemas import (
    Compared,
    Comparison,
    EstimateDocument,
    Estimates,
    ExperimentDetails,
    ExperimentItem,
    ExperimentPage,
    RunDetails,
    RunPage,
    Series,
    SettingDocument,
    number,
)
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.watch.catalog import Catalog, Entry, Source

LEADING = 4
"""Directions of each run that a shared axis is made of."""

ANALYSE_S = 1.5
"""Seconds that one request for an experiment may spend on analysing its runs."""

Numbers = list[Any]


class Queries:
    """Answers from the stores.

    Parameters
    ----------
    catalog
        The runs.
    options
        Limits.
    """

    def __init__(self, catalog: Catalog, options: ServiceOptions) -> None:
        self._catalog = catalog
        self._options = options
        self.readers = Readers(options.cache_bytes)
        self._guard = threading.Lock()
        self._estimates: dict[str, tuple[tuple[int, bool], RunEstimates]] = {}
        self._settings: dict[str, tuple[tuple[Any, ...], list[SettingDocument]]] = {}

    def clock(self) -> Clock:
        """Return what states are judged by now."""
        return Clock(time.time(), self._options.silent_after_s)

    # Lists.

    def experiments(self) -> ExperimentPage:
        """Return all experiments."""
        clock = self.clock()
        items = [self._experiment(source, clock) for source in list(self._catalog.sources.values())]
        return ExperimentPage(items=items, n=len(items), of=len(items))

    def experiment(self, name: str) -> ExperimentDetails:
        """Return one experiment with its settings, from the runs that could be analysed by now.

        One call spends about `ANALYSE_S` on runs that moved; the next one goes on where it ended.
        """
        source = self._catalog.source(name)
        analysed = self._analysed(source)
        key = tuple((run.run_id, run.n_rows, run.is_complete) for run in analysed)
        with self._guard:
            known = self._settings.get(name)
        if known is None or known[0] != key:
            table = tabulate(analysed, source.experiment.options, {})
            known = key, [_setting(setting) for setting in table.settings]
            with self._guard:
                self._settings[name] = known
        return ExperimentDetails(
            item=self._experiment(source, self.clock()),
            config=source.store.config,
            provenance=source.store.provenance,
            settings=known[1],
            n_analysed=len(analysed),
        )

    def _analysed(self, source: Source) -> list[RunEstimates]:
        """Return estimates of the runs of an experiment, older ones where there was no time for new ones."""
        found = []
        began = time.monotonic()
        for entry in list(source.runs.values()):
            key = entry.n_embedded, entry.has_exact
            with self._guard:
                known = self._estimates.get(entry.id)
            if (known is None or known[0] != key) and entry.n_embedded and time.monotonic() - began < ANALYSE_S:
                run, lock = self.readers.take(entry)
                with lock:
                    known = key, run.estimates()
                with self._guard:
                    self._estimates[entry.id] = known
            if known is not None:
                found.append(known[1])
        return found

    def runs(self, filter_text: str, sort: str, cursor: str | None, limit: int) -> tuple[RunPage, list[Entry]]:
        """Return a page of runs, and the runs on it."""
        clock = self.clock()
        is_shown = matcher(filter_text)
        found = ordered([entry for entry in self._catalog.entries() if is_shown(entry, clock)], sort, clock)
        part = page([entry.id for entry in found], cursor, limit)
        shown = found[part.first : part.first + limit]
        answer = RunPage.model_construct(
            items=[item(entry, clock) for entry in shown],
            n=len(shown),
            of=len(found),
            n_analysed=sum(entry.glance is not None for entry in found),
            next_cursor=part.next_cursor,
        )
        return answer, shown

    # One run.

    def details(self, run_id: str) -> RunDetails:
        """Return everything small about a run."""
        entry = self._catalog.entry(run_id)
        reader = entry.source.store.reader(entry.run_id, hash_weights=False)
        layout = reader.layout
        return RunDetails(
            item=item(entry, self.clock()),
            setting=reader.setting.to_json(),
            seed=reader.seed,
            n_parameters=layout.n_parameters,
            dtype=layout.dtype,
            layers=layout.to_json()["layers"],
            replicas=replica_names(layout),
            metrics=list(reader.metric_names),
            n_embedded=reader.embedding.n_rows,
            n_components=reader.spec.n_components,
            bases=[int(version) for version in reader.embedding.bases()["version"]],
            has_exact=reader.embedding.has_exact,
            exact=reader.embedding.exact_info(),
        )

    def estimates(self, run_id: str, n_rows: int | None) -> Estimates:
        """Return the estimates of a run: now, or as they were when `n_rows` rows had been embedded."""
        entry = self._catalog.entry(run_id)
        run, lock = self.readers.take(entry)
        with lock:
            found = run.estimates(n_rows)
        return Estimates(
            run=entry.id,
            n_rows=found.n_rows,
            regime=found.regime,
            regime_reason=found.regime_reason,
            control_divergence=number(found.control_divergence),
            eigengap=number(found.eigengap),
            estimates=_documents(found.estimates),
        )

    def embedding(self, run_id: str, component: int, basis: str, window: "Window") -> Series:
        """Return coordinates of a run along one component.

        `basis` is `best` (exact where it is there), `exact`, `live` (the newest version), or a version.
        """

        def read(run: Run) -> tuple[NDArray[np.float64], str]:
            scores, name = run.coordinates(basis)
            if not 0 <= component < scores.shape[2]:
                must = f"must be 0 to {scores.shape[2] - 1}"
                raise BadCall("component", must, str(component), kind=Kind.CONFIG)
            return scores[..., component], name

        return self._series(run_id, f"embedding {component}", read, window)

    def divergence(self, run_id: str, distance: str, window: "Window") -> Series:
        """Return the distance of every replica from the reference."""
        return self._series(run_id, distance, lambda run: (run.divergence(distance).values, None), window)

    def metric(self, run_id: str, name: str, window: "Window") -> Series:
        """Return a metric."""
        return self._series(run_id, name, lambda run: (run.metrics(name).values, None), window)

    def _series(
        self, run_id: str, name: str, read: Callable[[Run], tuple[NDArray[np.floating], str | None]], window: "Window"
    ) -> Series:
        entry = self._catalog.entry(run_id)
        run, lock = self.readers.take(entry)
        with lock:
            values, basis = read(run)
            steps = run.steps()[: len(values)]
        first, stop = window.rows(steps)
        n_points = min(window.max_points, 10 * self._options.max_points // max(1, values.shape[1]))
        chosen = sample(first, stop, n_points, basis or "-", window.cursor)
        return Series.model_construct(
            run=entry.id,
            name=name,
            replicas=replica_names(run.layout),
            steps=steps[chosen.rows].tolist(),
            values=[numbers(values[chosen.rows, replica]) for replica in range(values.shape[1])],
            n=len(chosen.rows),
            of=stop - first,
            stride=chosen.cursor.stride,
            basis=basis,
            reset=chosen.is_reset,
            cursor=str(chosen.cursor),
        )

    # Several runs.

    def compare(self, run_ids: Sequence[str], name: str, max_points: int) -> Comparison:
        """Return the reference's series of several runs at the steps that any of them has, thinned."""
        entries = [self._catalog.entry(run_id) for run_id in run_ids]
        axis: Literal["shared", "own"] = "shared"
        message = "The same quantity of every run."
        if name == "embedding":
            curves, axis, message = self._coordinates(entries)
        else:
            curves = [self._curve(entry, name) for entry in entries]
        every = np.unique(np.concatenate([steps for steps, _ in curves]))
        chosen = every[sample(0, len(every), max_points).rows] if len(every) else every
        return Comparison.model_construct(
            name=name,
            axis=axis,
            message=message,
            steps=chosen.tolist(),
            runs=[
                Compared.model_construct(run=entry.id, values=_at(chosen, steps, values))
                for entry, (steps, values) in zip(entries, curves, strict=True)
            ],
            n=len(chosen),
            of=len(every),
        )

    def _curve(self, entry: Entry, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        run, lock = self.readers.take(entry)
        with lock:
            if name in DISTANCES:
                found = run.divergence(name)
                perturbed = found.values[:, run.layout.perturbed]
                with np.errstate(divide="ignore", invalid="ignore"):
                    means = np.exp(np.log(perturbed).mean(axis=1)) if perturbed.shape[1] else np.zeros(0)
                return found.steps[: len(means)], means
            found = run.metrics(name)
            return found.steps, found.values[:, REFERENCE].astype(np.float64)

    def _coordinates(
        self, entries: Sequence[Entry]
    ) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.float64]]], Literal["shared", "own"], str]:
        axes, curves = self.shared(entries, 1)
        if axes is None:
            own = []
            for entry in entries:
                run, lock = self.readers.take(entry)
                with lock:
                    found = run.embedding()
                own.append((found.steps, found.values[:, REFERENCE].astype(np.float64)))
            message = (
                "These runs have no axis in common (other layouts, or an embedding without directions): each stands on "
                "its own, standardised to mean 0 and deviation 1, so only shapes compare."
            )
            return [(steps, _standardised(values)) for steps, values in own], "own", message
        message = (
            f"One axis for all, made of {LEADING} directions of each run: {axes.kept_share:.1%} of their variance."
        )
        return [(steps, values[:, 0]) for steps, values in curves], "shared", message

    def shared(
        self, entries: Sequence[Entry], n_axes: int
    ) -> tuple[SharedAxes | None, list[tuple[NDArray[np.int64], NDArray[np.float64]]]]:
        """Return shared axes of runs and (steps, coordinates (N, L)) of each; `None` where they have none."""
        bases: list[Basis] = []
        own: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        layouts = set()
        for entry in entries:
            run, lock = self.readers.take(entry)
            with lock:
                basis = run.basis()
                if basis is None or not np.isfinite(basis.singular_values).all():
                    return None, []
                scores, _ = run.coordinates("best")
                layouts.add(run.layout.layers)
                bases.append(basis.leading(LEADING))
                own.append((run.steps()[: len(scores)], scores[:, REFERENCE, :LEADING]))
        if len(layouts) > 1:
            return None, []
        axes = shared_axes(bases, n_axes)
        return axes, [(steps, axes.transform(index, scores)) for index, (steps, scores) in enumerate(own)]

    def _experiment(self, source: Source, clock: Clock) -> ExperimentItem:
        entries = list(source.runs.values())
        states: dict[str, int] = {}
        for entry in entries:
            state = entry.state(clock.now, clock.silent_after_s)
            states[state] = states.get(state, 0) + 1
        return ExperimentItem(
            name=source.name,
            task=source.config.task.name,
            is_tracked=source.is_tracked,
            n_runs=len(entries),
            states=states,
            n_rows=sum(entry.n_rows for entry in entries),
            created_at=source.created_at,
            updated_at=max((entry.updated_at for entry in entries), default=source.created_at),
        )


class Window:
    """Which part of a series is asked for.

    Parameters
    ----------
    first_step, last_step
        Both inclusive; `None` for all.
    max_points
        Points at most.
    cursor
        Where the answer before ended.

    Raises
    ------
    BadCall
        The cursor is none.
    """

    def __init__(self, first_step: int | None, last_step: int | None, max_points: int, cursor: str | None) -> None:
        self._first_step = first_step
        self._last_step = last_step
        self.max_points = max_points
        try:
            self.cursor = None if cursor is None else Cursor.parse(cursor)
        except ValueError:
            raise BadCall("cursor", "must be one that an answer gave", str(cursor)[:80], kind=Kind.CONFIG) from None

    def rows(self, steps: NDArray[np.int64]) -> tuple[int, int]:
        """Return the range of rows."""
        first = 0 if self._first_step is None else int(np.searchsorted(steps, self._first_step, "left"))
        stop = len(steps) if self._last_step is None else int(np.searchsorted(steps, self._last_step, "right"))
        return first, max(first, stop)


def _setting(setting: SettingEstimates) -> SettingDocument:
    return SettingDocument(
        learning_rate=number(setting.learning_rate),
        epsilon=number(setting.epsilon),
        regime=setting.regime,
        regime_reason=setting.regime_reason,
        n_runs=setting.n_runs,
        estimates=_documents(setting.estimates),
    )


def _documents(estimates: Mapping[str, Estimate]) -> dict[str, EstimateDocument]:
    return {name: EstimateDocument.model_validate(estimate.to_json()) for name, estimate in estimates.items()}


def replica_names(layout: Layout) -> list[str]:
    """Return what stands on the replica axis."""
    names = ["reference", *(f"perturbed {k + 1}" for k in range(layout.n_perturbed))]
    return [*names, "control"] if layout.has_control else names


def numbers(values: NDArray[np.floating]) -> Numbers:
    """Return floats as JSON holds them, quickly where all are finite."""
    found: Numbers = values.tolist()
    return found if np.isfinite(values).all() else [json_float(value) for value in found]


def _at(chosen: NDArray[np.int64], steps: NDArray[np.int64], values: NDArray[np.float64]) -> Numbers:
    """Return the newest value at or before each chosen step, `None` before the first row and after the last."""
    if not len(steps):
        return [None] * len(chosen)
    places = np.searchsorted(steps, chosen, "right") - 1
    there = (places >= 0) & (chosen <= steps[-1])
    found = numbers(values[np.maximum(places, 0)])
    return found if there.all() else [value if known else None for value, known in zip(found, there, strict=True)]


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = values[np.isfinite(values)]
    spread = float(finite.std()) if len(finite) else 0.0
    return values - (finite.mean() if len(finite) else 0.0) if spread == 0 else (values - finite.mean()) / spread
