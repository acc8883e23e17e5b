"""Sources of the terminal commands: a running service, or stores read directly with the code of the service."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from streamscalar.client import Client, connect, run_path
from streamscalar.errors import BadCall, Kind

if TYPE_CHECKING:
    from streamscalar.store import Place

ABOUT = ("details", "estimates", "nearest", "embedding", "divergence")
"""Documents about a run, besides its metrics."""
N_NEAREST = 10
ANALYSE_S = 0.5
"""Seconds of analysis between two polls of a live view."""


class Runs(Protocol):
    """A source of runs; every method returns a document of the API."""

    def page(self, filter_text: str, sort: str, limit: int) -> dict[str, Any]:
        """Return the first runs of a list."""
        ...

    def about(self, run: str, what: str, max_points: int) -> dict[str, Any]:
        """Return one of `ABOUT`, or a metric, of a run."""
        ...

    def alerts(self, run: str | None, level: str, limit: int) -> dict[str, Any]:
        """Return the newest alerts."""
        ...


@contextmanager
def opened(where: str, *, wait: bool) -> Iterator[Runs]:
    """Open a service by its URL, or stores by their folder or URL; with `wait`, analyse all runs first."""
    if where.startswith(("http://", "https://")):
        with connect(where) as client:
            yield _ServiceRuns(client)
    else:
        from streamscalar.store import place

        yield _StoreRuns(place(where), wait=wait)


class _ServiceRuns:
    def __init__(self, client: Client) -> None:
        self._client = client

    def page(self, filter_text: str, sort: str, limit: int) -> dict[str, Any]:
        return self._client.get("/v1/runs", filter=filter_text, sort=sort, limit=limit)

    def about(self, run: str, what: str, max_points: int) -> dict[str, Any]:
        match what:
            case "details":
                return self._client.run(run)
            case "estimates":
                return self._client.get(run_path(run, what))
            case "nearest":
                return self._client.get(run_path(run, what), k=N_NEAREST)
            case "embedding" | "divergence":
                return self._client.get(run_path(run, what), max_points=max_points)
        return self._client.get(run_path(run, "metrics", what), max_points=max_points)

    def alerts(self, run: str | None, level: str, limit: int) -> dict[str, Any]:
        return self._client.get("/v1/alerts", run=run, level=level, limit=limit)


class _StoreRuns:
    def __init__(self, root: "Place", *, wait: bool) -> None:
        from streamscalar_services.api.service_options import ServiceOptions
        from streamscalar_services.api.tokens import Tokens
        from streamscalar_services.api.watch.monitor import Monitor

        # It does not listen, so its tokens are never checked.
        self._monitor = Monitor(ServiceOptions(root, Tokens("", "")))
        self._monitor.poll()
        if wait:
            self._analyse(float("inf"), with_progress=sys.stderr.isatty())

    def page(self, filter_text: str, sort: str, limit: int) -> dict[str, Any]:
        self._monitor.poll()
        self._analyse(ANALYSE_S)
        answer, _ = self._monitor.queries.runs(filter_text, sort, None, limit)
        return answer.model_dump(mode="json")

    def about(self, run: str, what: str, max_points: int) -> dict[str, Any]:
        from streamscalar_services.api.query.nearest import nearest
        from streamscalar_services.api.query.sampling import Window

        queries, catalog = self._monitor.queries, self._monitor.catalog
        window = Window(None, None, max_points, None)
        entry = catalog.entry(run if ":" in run else self._named(run))
        match what:
            case "details":
                return queries.details(entry.id).model_dump(mode="json")
            case "estimates":
                return queries.estimates(entry.id, None).model_dump(mode="json")
            case "nearest":
                return nearest(queries.readers, entry, catalog.entries(), N_NEAREST, "auto").model_dump(mode="json")
            case "embedding":
                return queries.embedding(entry.id, 0, "best", window).model_dump(mode="json")
            case "divergence":
                return queries.divergence(entry.id, "l1", window).model_dump(mode="json")
        return queries.metric(entry.id, what, window).model_dump(mode="json")

    def alerts(self, run: str | None, level: Any, limit: int) -> dict[str, Any]:
        return self._monitor.alarms.page(run, level, None, limit).model_dump(mode="json")

    def _named(self, run_id: str) -> str:
        """Return the full name of a run from its name within the experiment, which must be unique."""
        found = [entry.id for entry in self._monitor.catalog.entries() if entry.run_id == run_id]
        if len(found) != 1:
            must = "must be the name of one run" + (f", such as {', '.join(found[:5])}" if found else "")
            raise BadCall("run", must, repr(run_id), "`watch` lists the names", Kind.STORE_MISSING)
        return found[0]

    def _analyse(self, within_s: float, *, with_progress: bool = False) -> None:
        analyst = self._monitor.analyst
        began = time.monotonic()
        while analyst.n_waiting and time.monotonic() - began < within_s:
            analyst.work_one()
            if with_progress:
                sys.stderr.write(f"\ranalysing: {analyst.n_waiting} runs left \033[K")
        if with_progress:
            sys.stderr.write("\r\033[K")
