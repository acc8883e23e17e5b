"""Prometheus metrics of the service; no label per run, step or replica, so that their number is bounded."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamscalar_services.api.monitor import Monitor
from streamscalar_services.api.schemas import State

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Telemetry:
    """What the service tells about itself."""

    def __init__(self, monitor: Monitor) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_State(monitor))
        self.latency = Histogram(
            "streamscalar_request_seconds",
            "Time from a request to the first byte of its answer",
            ("method", "route", "status"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges as they are now."""
        monitor = self._monitor
        clock = monitor.queries.clock()
        counts: dict[State, int] = {}
        n_rows = 0
        lag = 0
        for entry in monitor.catalog.entries():
            state = entry.state(clock.now, clock.silent_after_s)
            counts[state] = counts.get(state, 0) + 1
            n_rows += entry.n_rows
            lag += max(0, entry.n_rows - entry.n_embedded)
        runs = GaugeMetricFamily("streamscalar_runs", "Runs by state", labels=("state",))
        for state, count in sorted(counts.items()):
            runs.add_metric([state], count)
        yield runs
        alerts = GaugeMetricFamily("streamscalar_alerts", "Alerts kept, by level", labels=("level",))
        for level, count in monitor.alarms.counts().items():
            alerts.add_metric([level], count)
        yield alerts
        yield GaugeMetricFamily("streamscalar_rows", "Rows that can be read, over all runs", n_rows)
        yield GaugeMetricFamily("streamscalar_rows_to_embed", "Rows that embedders are behind", lag)
        yield GaugeMetricFamily(
            "streamscalar_runs_to_analyse", "Runs that wait for analysis", monitor.analyst.n_waiting
        )
        yield GaugeMetricFamily("streamscalar_event_clients", "Clients of the event stream", monitor.hub.n_clients)


class Timed:
    """Measures every request by the pattern of its route."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                labels = (method, route, str(message["status"]))
                self._telemetry.latency.labels(*labels).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, timed)


METHODS = frozenset({"GET", "HEAD", "POST", "DELETE"})
