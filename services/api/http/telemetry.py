"""Prometheus metrics of the service; no label per run, step or replica, so that their number is bounded."""

import time
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamscalar_services.api.schemas import State
from streamscalar_services.api.watch.monitor import Monitor

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Telemetry:
    """What the service tells about itself; `deploy/observability.md` describes every metric."""

    def __init__(self, monitor: Monitor) -> None:
        # The time of creation of every single series: nothing that a rate needs.
        disable_created_metrics()  # type: ignore[no-untyped-call]
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
        """Return all metrics in Prometheus' text format: 3 ms where there are 10,000 runs, and no look at the disk."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        yield from self._runs()
        monitor, tally = self._monitor, self._monitor.catalog.tally
        for name, about, count in (
            ("rows", "Rows that became readable since the service started", tally.n_rows),
            ("raw_bytes", "Bytes of their weights before compression", tally.n_bytes),
            ("refits", "Basis versions that embedders made since the service started", tally.n_refits),
            ("restarts", "Attempts at a run after its first, since the service started", tally.n_restarts),
        ):
            yield CounterMetricFamily(f"streamscalar_{name}", about, count)
        alerts = GaugeMetricFamily("streamscalar_alerts", "Alerts kept, by level", labels=("level",))
        for level, count in monitor.alarms.counts().items():
            alerts.add_metric([level], count)
        yield alerts
        for name, about, count in (
            ("runs_waiting", "Runs planned or asked for that nobody has begun", monitor.catalog.n_to_begin),
            ("runs_to_analyse", "Runs that wait for analysis", monitor.analyst.n_waiting),
            ("event_clients", "Clients of the event stream", monitor.hub.n_clients),
        ):
            yield GaugeMetricFamily(f"streamscalar_{name}", about, count)

    def _runs(self) -> Iterator[Metric]:
        clock = self._monitor.queries.clock()
        # Every state is told, also where no run has it: what is absent cannot raise an alarm.
        counts: dict[State, int] = dict.fromkeys(get_args(State), 0)
        behind = most = 0
        for entry in self._monitor.catalog.entries():
            counts[entry.state(clock.now, clock.silent_after_s)] += 1
            own = entry.n_to_embed
            behind += own
            most = max(most, own)
        runs = GaugeMetricFamily("streamscalar_runs", "Runs by state", labels=("state",))
        for state, count in counts.items():
            runs.add_metric([state], count)
        yield runs
        yield GaugeMetricFamily("streamscalar_rows_to_embed", "Rows that embedders are behind, over all runs", behind)
        yield GaugeMetricFamily("streamscalar_rows_to_embed_max", "Rows that the run furthest behind is behind", most)


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
