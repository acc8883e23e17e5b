"""Queries of the stores: lists, details, estimates and series."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.analysis.table import tabulate
from streamscalar.errors import BadCall, Kind
from streamscalar.experiment import Run, Series
from streamscalar.types import Estimate, Layout
from streamscalar_services.api.estimate_schemas import EstimateDocument, RunEstimatesDocument, SettingDocument, number
from streamscalar_services.api.query.listing import Clock, item, matcher, ordered, page
from streamscalar_services.api.query.readers import Readers
from streamscalar_services.api.query.sampling import Window, numbers, sample
from streamscalar_services.api.schemas import (
    ExperimentDetails,
    ExperimentItem,
    ExperimentPageDocument,
    RunDetails,
    RunPageDocument,
    SeriesDocument,
)
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.watch.catalog import Catalog
from streamscalar_services.api.watch.entries import Entry, Source

ANALYSE_S = 1.5
"""Seconds that one request for an experiment spends at most on analysing its runs."""


class Queries:
    """Queries of the stores.

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
        """Return the time, and the limit, that the states of runs depend on."""
        return Clock(time.time(), self._options.silent_after_s)

    def experiments(self) -> ExperimentPageDocument:
        """Return all experiments."""
        clock = self.clock()
        items = [self._experiment(source, clock) for source in list(self._catalog.sources.values())]
        return ExperimentPageDocument(items=items, n=len(items), of=len(items))

    def experiment(self, name: str) -> ExperimentDetails:
        """Return one experiment with its settings, from the runs analysed so far.

        One call spends about `ANALYSE_S` on runs with new rows; the next call continues.
        """
        source = self._catalog.source(name)
        analysed = self._analysed(source)
        key = tuple((run.run_id, run.n_rows, run.is_complete) for run in analysed)
        with self._guard:
            known = self._settings.get(name)
        if known is None or known[0] != key:
            variants = source.experiment.variants()
            of_variants = [replace(run, variant=variants.get(run.run_id, "")) for run in analysed]
            table = tabulate(of_variants, source.experiment.options, {})
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
        """Return estimates of the runs of an experiment; older ones where the time does not suffice for new ones."""
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

    def runs(self, filter_text: str, sort: str, cursor: str | None, limit: int) -> tuple[RunPageDocument, list[Entry]]:
        """Return a page of runs, and the runs on it."""
        clock = self.clock()
        is_shown = matcher(filter_text)
        found = ordered([entry for entry in self._catalog.entries() if is_shown(entry, clock)], sort, clock)
        part = page([entry.id for entry in found], cursor, limit)
        shown = found[part.first : part.first + limit]
        answer = RunPageDocument.model_construct(
            items=[item(entry, clock) for entry in shown],
            n=len(shown),
            of=len(found),
            n_analysed=sum(entry.glance is not None for entry in found),
            next_cursor=part.next_cursor,
        )
        return answer, shown

    def details(self, run_id: str) -> RunDetails:
        """Return setting, layout and state of a run."""
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
            # JSON has no lone surrogates, which names in Python may have.
            metrics=[name.encode("utf-8", "backslashreplace").decode() for name in reader.metric_names],
            n_embedded=reader.embedding.n_rows,
            n_components=reader.spec.n_components,
            bases=[int(version) for version in reader.embedding.bases()["version"]],
            has_exact=reader.embedding.has_exact,
            exact=reader.embedding.exact_info(),
        )

    def estimates(self, run_id: str, n_rows: int | None) -> RunEstimatesDocument:
        """Return the estimates of a run: now, or as they were when `n_rows` rows had been embedded."""
        entry = self._catalog.entry(run_id)
        run, lock = self.readers.take(entry)
        with lock:
            found = run.estimates(n_rows)
        return RunEstimatesDocument(
            run=entry.id,
            n_rows=found.n_rows,
            regime=found.regime,
            regime_reason=found.regime_reason,
            control_divergence=number(found.control_divergence),
            eigengap=number(found.eigengap),
            estimates=_documents(found.estimates),
        )

    def embedding(self, run_id: str, component: int, basis: str, window: Window) -> SeriesDocument:
        """Return coordinates of a run along one component.

        `basis` is `best` (exact if it exists), `exact`, `live` (the newest version), or a version.
        """

        def read(run: Run) -> _Read:
            scores, name = run.coordinates(basis)
            if not 0 <= component < scores.shape[2]:
                must = f"must be 0 to {scores.shape[2] - 1}"
                raise BadCall("component", must, str(component), kind=Kind.CONFIG)
            values = scores[..., component]
            return _Read(Series(f"embedding {component}", run.steps()[: len(values)], values), name, name)

        return self._series(run_id, read, window)

    def divergence(self, run_id: str, distance: str, window: Window) -> SeriesDocument:
        """Return the distance of every replica from the reference."""
        return self._series(run_id, lambda run: _Read(run.divergence(distance)), window)

    def metric(self, run_id: str, name: str, window: Window) -> SeriesDocument:
        """Return all values of a metric, by their own steps."""

        def read(run: Run) -> _Read:
            found = run.logged(name)
            return _Read(found, version=str(found.n_moved))

        return self._series(run_id, read, window)

    def _series(self, run_id: str, read: Callable[[Run], "_Read"], window: Window) -> SeriesDocument:
        entry = self._catalog.entry(run_id)
        run, lock = self.readers.take(entry)
        with lock:
            found = read(run)
        steps, values = found.series.steps, found.series.values
        first, stop = window.rows(steps)
        n_points = min(window.max_points, 10 * self._options.max_points // max(1, values.shape[1]))
        chosen = sample(first, stop, n_points, found.version, window.cursor)
        return SeriesDocument.model_construct(
            run=entry.id,
            name=found.series.name,
            replicas=replica_names(run.layout),
            steps=steps[chosen.rows].tolist(),
            values=[numbers(values[chosen.rows, replica]) for replica in range(values.shape[1])],
            n=len(chosen.rows),
            of=stop - first,
            stride=chosen.cursor.stride,
            basis=found.basis,
            reset=chosen.is_reset,
            cursor=str(chosen.cursor),
        )

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


@dataclass(frozen=True)
class _Read:
    """A series, its basis if it is made of coordinates, and what shows that earlier points have changed."""

    series: Series
    basis: str | None = None
    version: str = "-"


def _setting(setting: SettingEstimates) -> SettingDocument:
    return SettingDocument(
        learning_rate=number(setting.learning_rate),
        epsilon=number(setting.epsilon),
        variant=setting.variant,
        regime=setting.regime,
        regime_reason=setting.regime_reason,
        n_runs=setting.n_runs,
        estimates=_documents(setting.estimates),
    )


def _documents(estimates: Mapping[str, Estimate]) -> dict[str, EstimateDocument]:
    return {name: EstimateDocument.model_validate(estimate.to_json()) for name, estimate in estimates.items()}


def replica_names(layout: Layout) -> list[str]:
    """Return the names of the replicas, in the order of their axis."""
    names = ["reference", *(f"perturbed {k + 1}" for k in range(layout.n_perturbed))]
    return [*names, "control"] if layout.has_control else names
