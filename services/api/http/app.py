"""The application: its routes and middleware."""

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.middleware.gzip import GZipMiddleware

import streamscalar
from streamscalar.errors import BadCall, Kind
from streamscalar.types import DISTANCES, RUN_ID_PATTERN, AlertLevel
from streamscalar_services.api.estimate_schemas import RunEstimatesDocument
from streamscalar_services.api.glossary import Glossary, glossary
from streamscalar_services.api.http.guards import EntityTags, Guard
from streamscalar_services.api.http.problem_json import add_handlers, problem
from streamscalar_services.api.http.telemetry import Telemetry, Timed
from streamscalar_services.api.query.comparison import compare as compared
from streamscalar_services.api.query.nearest import Method, nearest
from streamscalar_services.api.query.sampling import Window
from streamscalar_services.api.schemas import (
    Accepted,
    AlertPage,
    Comparison,
    ExperimentDetails,
    ExperimentPageDocument,
    Health,
    Neighbours,
    NewRuns,
    ProblemDocument,
    RunDetails,
    RunPageDocument,
    SeriesDocument,
)
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.watch.monitor import Monitor
from streamscalar_services.dashboard import STATIC

PAGE = 100
"""Default number of items of a page."""
POINTS = 1000
"""Default number of points of a series."""
NAME = f"^{RUN_ID_PATTERN}$"
RUN = f"^{RUN_ID_PATTERN}:{RUN_ID_PATTERN}$"

RunId = Annotated[str, InPath(pattern=RUN, max_length=401, description="`experiment:run`, as in the list of runs")]
ExperimentName = Annotated[str, InPath(pattern=NAME, description="Name of the experiment")]
CursorText = Annotated[
    str | None, Query(max_length=500, description="Cursor of the previous answer; by default from the start")
]

_CONTENT = {"content": {"application/problem+json": {"schema": ProblemDocument.model_json_schema()}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, **_CONTENT}
    for status, text in {
        400: "The body is not JSON",
        401: "No valid token",
        404: "Not found",
        408: "The request arrived too slowly",
        413: "The request is too large",
        414: "The query is too long",
        422: "The request is invalid; `detail` gives the reason and a fix",
    }.items()
}


_FORBIDDEN: dict[int | str, dict[str, Any]] = {403: {"description": "This token does not allow it", **_CONTENT}}


class Json(Response):
    """A document that is sent without validation and without a copy."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of a document."""
        return to_json(content)


def create_app(options: ServiceOptions) -> FastAPI:
    """Return the application.

    Raises
    ------
    BadCall
        The root does not exist.
    """
    monitor = Monitor(options)
    telemetry = Telemetry(monitor)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with monitor.running():
            yield

    app = FastAPI(
        title="streamscalar",
        summary="Live training dynamics: runs, their scalar embedding, exponents and alerts.",
        version=streamscalar.__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.monitor = monitor
    app.state.options = options
    app.state.telemetry = telemetry
    add_handlers(app)
    app.include_router(_open_routes())
    app.include_router(_data_routes(options))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    # The last one added handles a request first.
    app.add_middleware(EntityTags)
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=4)
    app.add_middleware(Guard, options=options)
    app.add_middleware(Timed, telemetry=telemetry)
    return app


def _monitor(request: Request) -> Monitor:
    found: Monitor = request.app.state.monitor
    return found


Living = Annotated[Monitor, Depends(_monitor)]


def _open_routes() -> APIRouter:
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @router.get("/static/plotly.js", include_in_schema=False)
    def plotly() -> FileResponse:
        path = Path(str(distribution("plotly").locate_file("plotly/package_data/plotly.min.js")))
        return FileResponse(path, media_type="text/javascript", headers={"cache-control": "max-age=86400"})

    @router.get("/health")
    def health() -> Health:
        """Return `ok` while the service runs."""
        return Health(status="ok")

    @router.get("/ready", responses={503: {"model": ProblemDocument, "description": "The stores are still being read"}})
    def ready(monitor: Living) -> Health:
        """Return `ok` once all stores were read."""
        if not monitor.catalog.is_ready:
            return problem(503, "The stores are still being read.")  # type: ignore[return-value]
        return Health(status="ok")

    return router


def _data_routes(options: ServiceOptions) -> APIRouter:
    router = APIRouter(responses=_PROBLEMS)
    limit = Annotated[int, Query(ge=1, le=options.max_page, description="Items on a page at most")]
    points = Annotated[int, Query(ge=1, le=options.max_points, description="Points of the series at most")]

    def window(
        first: Annotated[int | None, Query(alias="from", ge=0, le=2**53, description="First step of the range")] = None,
        last: Annotated[int | None, Query(alias="to", ge=0, le=2**53, description="Last step of the range")] = None,
        max_points: points = POINTS,
        cursor: CursorText = None,
    ) -> Window:
        return Window(first, last, max_points, cursor)

    part = Annotated[Window, Depends(window)]

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics(request: Request) -> Response:
        """Return Prometheus metrics of the service."""
        return Response(request.app.state.telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/v1/glossary", response_model=Glossary)
    def names() -> Response:
        """Return the names that documents use and their meaning: quantities, regimes, states, statuses, rules."""
        return _json(glossary())

    @router.get("/v1/experiments", response_model=ExperimentPageDocument)
    def experiments(monitor: Living) -> Response:
        """List the experiments."""
        return _json(monitor.queries.experiments())

    @router.get("/v1/experiments/{name}", response_model=ExperimentDetails)
    def experiment(name: ExperimentName, monitor: Living) -> Response:
        """Return config, provenance and estimates per setting of one experiment."""
        return _json(monitor.queries.experiment(name))

    @router.get("/v1/runs", response_model=RunPageDocument)
    def runs(
        monitor: Living,
        filter_text: Annotated[
            str, Query(alias="filter", max_length=500, description="Terms that a run must meet, or part of its id")
        ] = "",
        sort: Annotated[
            str, Query(max_length=50, description="Key to sort by; descending with a minus")
        ] = "-updated_at",
        cursor: CursorText = None,
        limit: limit = PAGE,
    ) -> Response:
        """List runs: filtered by terms such as `regime=chaotic learning_rate>2 tag=baseline`, sorted, in pages."""
        answer, shown = monitor.queries.runs(filter_text, sort, cursor, limit)
        for entry in reversed(shown):
            monitor.analyst.want(entry)
        return _json(answer)

    @router.get("/v1/runs/{run}", response_model=RunDetails)
    def run_details(run: RunId, monitor: Living) -> Response:
        """Return setting, layout and state of one run."""
        return _json(monitor.queries.details(run))

    @router.get("/v1/runs/{run}/embedding", response_model=SeriesDocument)
    def embedding(
        run: RunId,
        monitor: Living,
        part: part,
        component: Annotated[int, Query(ge=0, le=127, description="Coordinate; 0 is the scalar")] = 0,
        basis: Annotated[
            str,
            Query(
                pattern=r"^(best|exact|live|[0-9]{1,9})$",
                description="`exact`, `live` (the newest version), a version, or `best`: exact if stored, else live",
            ),
        ] = "best",
    ) -> Response:
        """Return the scalar embedding (component 0) of all replicas, thinned so that points never move."""
        return _json(monitor.queries.embedding(run, component, basis, part))

    @router.get("/v1/runs/{run}/divergence", response_model=SeriesDocument)
    def divergence(
        run: RunId,
        monitor: Living,
        part: part,
        distance: Annotated[str, Query(pattern=f"^({'|'.join(DISTANCES)})$", description="Distance to return")] = "l1",
    ) -> Response:
        """Return the distance of every replica from the reference."""
        return _json(monitor.queries.divergence(run, distance, part))

    @router.get("/v1/runs/{run}/metrics/{metric:path}", response_model=SeriesDocument)
    def metric(
        run: RunId,
        metric: Annotated[str, InPath(max_length=1000, description="Name of the metric, such as `loss`")],
        monitor: Living,
        part: part,
    ) -> Response:
        """Return all values of a metric of all replicas, by the steps for which they were reported."""
        return _json(monitor.queries.metric(run, metric, part))

    @router.get("/v1/runs/{run}/estimates", response_model=RunEstimatesDocument)
    def estimates(
        run: RunId,
        monitor: Living,
        rows: Annotated[int | None, Query(ge=0, le=2**53, description="Rows to analyse; all by default")] = None,
    ) -> Response:
        """Return the estimates of one run: now, or as they were when `rows` rows were embedded."""
        return _json(monitor.queries.estimates(run, rows))

    @router.get("/v1/runs/{run}/nearest", response_model=Neighbours)
    def neighbours(
        run: RunId,
        monitor: Living,
        k: Annotated[int, Query(ge=1, le=63, description="Number of runs to return")] = 5,
        method: Annotated[
            Method, Query(description="`weights`, `shape`, or `auto`: weights if another run has the same layout")
        ] = "auto",
    ) -> Response:
        """Return the runs with the nearest trajectories."""
        catalog = monitor.catalog
        return _json(nearest(monitor.queries.readers, catalog.entry(run), catalog.entries(), k, method))

    @router.get("/v1/compare", response_model=Comparison)
    def compare(
        monitor: Living,
        runs: Annotated[str, Query(max_length=8000, description="Ids, separated by commas")],
        name: Annotated[str, Query(max_length=200, description="Series to compare")] = "embedding",
        max_points: points = POINTS,
    ) -> Response:
        """Return one series of several runs at the same steps: `embedding`, a distance, or a metric."""
        chosen = list(dict.fromkeys(run for run in runs.split(",") if run))
        if not 1 <= len(chosen) <= options.max_compared:
            must = f"must name 1 to {options.max_compared} runs"
            raise BadCall("runs", must, str(len(chosen)), kind=Kind.CONFIG)
        entries = [monitor.catalog.entry(run) for run in chosen]
        return _json(compared(monitor.queries.readers, entries, name, max_points))

    @router.get("/v1/alerts", response_model=AlertPage)
    def alerts(
        monitor: Living,
        run: Annotated[str | None, Query(pattern=RUN, max_length=401, description="Alerts of this run only")] = None,
        level: Annotated[AlertLevel, Query(description="Minimum level")] = "info",
        cursor: CursorText = None,
        limit: limit = PAGE,
    ) -> Response:
        """List alerts, newest first, each with its evidence."""
        return _json(monitor.alarms.page(run, level, cursor, limit))

    @router.post("/v1/runs/{run}/cancel", status_code=202, response_model=Accepted, responses=_FORBIDDEN)
    def cancel(run: RunId, monitor: Living) -> Accepted:
        """Request the end of a run and of its pack; the recorded rows are kept. Needs the admin token."""
        entry = monitor.catalog.entry(run)
        if entry.is_tracked:
            raise BadCall("run", "must be one that streamscalar trains", run, "Stop your training loop", Kind.CONFIG)
        entry.source.experiment.cancel(entry.run_id)
        return Accepted(runs=[entry.id])

    @router.post("/v1/experiments/{name}/runs", status_code=202, response_model=Accepted, responses=_FORBIDDEN)
    def add_runs(name: ExperimentName, new: NewRuns, monitor: Living) -> Accepted:
        """Request further runs of an experiment. Needs the admin token."""
        source = monitor.catalog.source(name)
        names = source.experiment.add_runs(new.learning_rate, new.n_initial_conditions)
        return Accepted(runs=[f"{name}:{run_id}" for run_id in names])

    @router.get(
        "/v1/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, 503: {"description": "Too many streams", **_CONTENT}},
    )
    async def events(
        monitor: Living,
        last_event_id: Annotated[
            str | None,
            Header(max_length=100, description="Id of the last event received, to continue after it"),
        ] = None,
    ) -> Response:
        """Stream events (server-sent): `rows`, `runs`, `basis`, `alert`, `reset`."""
        if monitor.hub.n_clients >= options.max_streams:
            return problem(
                503, f"events: must be at most {options.max_streams} streams at a time", headers={"retry-after": "5"}
            )
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(monitor.hub.follow(last_event_id), headers=headers, media_type="text/event-stream")

    @router.post("/v1/session", status_code=204)
    def session(request: Request) -> Response:
        """Set the session cookie for the bearer token of the request."""
        tokens = options.tokens
        answer = Response(status_code=204)
        answer.set_cookie(
            tokens.cookie_name,
            tokens.cookie(request.state.right),
            max_age=30 * 86400,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.delete("/v1/session", status_code=204)
    def end_session() -> Response:
        """Delete the session cookie."""
        answer = Response(status_code=204)
        answer.delete_cookie(options.tokens.cookie_name, httponly=True, samesite="strict")
        return answer

    return router


def _json(document: BaseModel) -> Json:
    return Json(document)
