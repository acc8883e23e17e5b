"""Benchmark `api`: the query API with thousands of stored runs, long series, comparisons and many live runs."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import streamscalar as ss
from streamscalar.bench.figures import Figure
from streamscalar.config import Config, RunSetting, load_config
from streamscalar.store import Store
from streamscalar.types import Layer, Layout
from streamscalar.workers.embedder import Embedder

TOKEN = "token-of-the-benchmark"
N_STORED = 10_000
N_TEMPLATES = 50
N_LONG = 100_000
N_COMPARED, N_POINTS = 64, 1000
N_LIVE, N_CLIENTS, LIVE_S = 1000, 20, 100.0
SEGMENT_ROWS = 64
N_REQUESTS = 60


def bench_api() -> list[Figure]:
    """Measure a service in its own process; takes about ten minutes, most of them to write the stores."""
    with tempfile.TemporaryDirectory(prefix="streamscalar-bench-") as folder:
        root = Path(folder)
        _say(f"writing {N_STORED:,} runs")
        _stored(root / "many")
        _say(f"writing a run of {N_LONG:,} rows")
        _long(root / "long")
        with _service(root) as service:
            figures = _stored_figures(service)
        _say(f"{N_LIVE:,} live runs, {N_CLIENTS} clients, {LIVE_S:.0f} s")
        return figures + _live_figures(root / "live")


@dataclass
class _ServiceProcess:
    """A running `streamscalar serve` and the seconds until it was ready."""

    url: str
    process: "subprocess.Popen[str]"
    ready_s: float

    def get(self, path: str, **query: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = httpx.get(self.url + path, params=query, headers=headers, timeout=120, trust_env=False)
        return answer.raise_for_status()

    def cpu_s(self) -> float:
        """Return the processor seconds that the service has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Return the resident memory of the service in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _service(root: Path) -> Iterator[_ServiceProcess]:
    environment = {**os.environ, "STREAMSCALAR_TOKEN": TOKEN, "STREAMSCALAR_ADMIN_TOKEN": TOKEN + "-admin"}
    command = [sys.executable, "-m", "streamscalar", "serve", str(root), "--port", "0"]
    began = time.monotonic()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[^/]+", process.stdout.readline())
            assert found is not None
            service = _ServiceProcess(found[0], process, 0.0)
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    service.get("/ready")
                    break
                time.sleep(0.05)
            service.ready_s = time.monotonic() - began
            yield service
        finally:
            process.kill()


def _stored_figures(service: _ServiceProcess) -> list[Figure]:
    figures = [Figure("start with 10,000 runs", service.ready_s, "s")]
    began = time.monotonic()
    while (page := service.get("/v1/runs", limit=1).json())["n_analysed"] < page["of"]:
        time.sleep(1.0)
    figures.append(Figure("time until all runs are analysed", time.monotonic() - began, "s"))
    figures.append(_timed("list of runs, p95", _lists(service), 300.0))
    run = "long:long"
    for name, target in (("embedding", 250.0), ("metrics/loss", 250.0)):
        asked = [partial(service.get, f"/v1/runs/{run}/{name}", max_points=N_LONG)] * 12
        assert asked[0]().json()["n"] == N_LONG
        figures.append(_timed(f"series of 100,000 points, {name}, p95", asked, target))
    ids = [item["id"] for item in service.get("/v1/runs", filter="experiment=many", limit=N_COMPARED).json()["items"]]
    compare = [partial(service.get, "/v1/compare", runs=",".join(ids), max_points=N_POINTS)] * 12
    figures.append(Figure("64 runs x 1,000 points, first", _ms(compare[0]), "ms"))
    figures.append(_timed("64 runs x 1,000 points, p95", compare, 500.0))
    near = [partial(service.get, f"/v1/runs/{ids[0]}/nearest", k=10)] * 6
    figures.append(_timed("nearest of 10,000 runs, p95", near, None))
    figures.append(Figure("memory with 10,000 runs", service.rss_bytes() / 1e6, "MB"))
    return figures


def _lists(service: _ServiceProcess) -> list[Callable[[], httpx.Response]]:
    """Return list requests like those of the dashboard: sorted, filtered, further pages, and repeated first pages."""
    queries: list[dict[str, Any]] = [
        {},
        {"sort": "-exponent"},
        {"sort": "learning_rate", "filter": "regime=chaotic"},
        {"filter": "learning_rate>1 state=done", "sort": "-loss"},
        {"filter": "r7", "limit": 500},
        {"cursor": service.get("/v1/runs").json()["next_cursor"]},
    ]
    return [partial(service.get, "/v1/runs", **queries[index % len(queries)]) for index in range(N_REQUESTS)]


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def _timed(name: str, calls: Sequence[Callable[[], object]], target: float | None) -> Figure:
    calls[0]()
    value = float(np.percentile([_ms(call) for call in calls], 95))
    return Figure(name, value, "ms", target=target, is_ceiling=True)


def _config(store: Path, **sections: Any) -> Config:
    base: dict[str, Any] = {
        "experiment": {"name": store.name, "n_initial_conditions": 5},
        "task": {"n_train": 128, "n_test": 64},
        "model": {"widths": [16]},
        "training": {"learning_rate": [0.2, 0.5, 1, 1.7, 2.5, 3, 4, 5, 7, 10], "n_steps": 999, "device": "cpu"},
        "perturbation": {"n_perturbed": 3},
        "recording": {"retain": "none"},
        "store": {"url": str(store), "fsync": "none", "segment_rows": 64},
        "cluster": {"executor": "inline"},
    }
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}
    return load_config(merged, environment={})


def _stored(store: Path) -> None:
    """Train `N_TEMPLATES` runs of 1,000 rows, and copy them under new names until there are `N_STORED` runs."""
    ss.run(_config(store))
    runs = store / "runs"
    templates = (runs / "order").read_text().split()
    assert len(templates) == N_TEMPLATES
    names = list(templates)
    for index in range(N_STORED - N_TEMPLATES):
        template = templates[index % N_TEMPLATES]
        name = f"r{index}"
        # Chunks are never modified, so hard links do as copies; only the file with the name of the run is rewritten.
        shutil.copytree(runs / template, runs / name, copy_function=os.link, ignore=shutil.ignore_patterns("wal"))
        for part in ("weights", "embedding"):
            (runs / name / "wal" / part).mkdir(parents=True)
        document = json.loads((runs / name / "zarr.json").read_text())
        document["attributes"]["run_id"] = name
        (runs / name / "zarr.json").unlink()
        (runs / name / "zarr.json").write_text(json.dumps(document))
        names.append(name)
    (runs / "order").write_text("".join(f"{name}\n" for name in names))


def _writer_store(path: Path) -> Store:
    config = _config(path, task={"name": "tracked"}, perturbation={"n_perturbed": 1, "control": False})
    return Store.create(path, config.identity(), {})


def _add(store: Store, run_id: str, n_parameters: int, segment_rows: int) -> None:
    store.add_run(
        run_id,
        setting=RunSetting(learning_rate=0.1, epsilon=1e-6, initial_condition=0, is_tracked=True, group="bench"),
        seed=0,
        layout=Layout((Layer("weight", 0, (n_parameters,)),), "float64", 1, False),
        n_rows=None,
        metrics=("loss",),
        n_components=16,
        segment_rows=segment_rows,
        codec="lz4",
    )


def _long(path: Path) -> None:
    store = _writer_store(path)
    _add(store, "long", 32, 1024)
    embedder = Embedder(str(path), _config(path).embedding, "none")
    rng = np.random.default_rng(0)
    weights = np.zeros((2, 32))
    with store.weights_writer("long", "none") as writer:
        for row in range(N_LONG):
            weights = weights + rng.standard_normal((2, 32))
            writer.append(row, row, weights, {"loss": np.full(2, 1.0 / (row + 1))})
        writer.finish()
    embedder.finalise("long", "none")


def _live_figures(store: Path) -> list[Figure]:
    written: dict[str, list[float]] = {f"live{index}": [] for index in range(N_LIVE)}
    opened = _writer_store(store)
    for run_id in written:
        _add(opened, run_id, 100, SEGMENT_ROWS)
    over = threading.Event()
    with _service(store) as service, contextlib.ExitStack() as stack:
        writers = {run_id: stack.enter_context(opened.weights_writer(run_id, "none")) for run_id in written}
        embedder = Embedder(str(store), _config(store).embedding, "none")
        delays: list[float] = []
        counts = [0] * N_CLIENTS
        clients = [
            threading.Thread(target=_follow, args=(service.url, over, written, delays if k == 0 else None, counts, k))
            for k in range(N_CLIENTS)
        ]
        for client in clients:
            client.start()
        rng = np.random.default_rng(0)

        def put(run_id: str) -> None:
            writer = writers[run_id]
            row = writer.n_durable
            writer.append(row, row, rng.standard_normal((2, 100)), {"loss": np.ones(2)})
            written[run_id].append(time.monotonic())
            for first, block in writer.take_published():
                embedder.embed(run_id, first, block)

        # Independent runs do not reach the ends of their segments at the same time.
        for index, run_id in enumerate(written):
            for _ in range(index % SEGMENT_ROWS):
                put(run_id)
        n_before = sum(len(times) for times in written.values())
        time.sleep(5.0)
        began = time.monotonic()
        cpu_before, rss = service.cpu_s(), []
        row = 0
        while time.monotonic() - began < LIVE_S:
            for index, run_id in enumerate(written):
                # Spread over the second, like independent runs.
                ahead = began + row + index / N_LIVE - time.monotonic()
                if ahead > 0.005:
                    time.sleep(ahead)
                put(run_id)
            row += 1
            rss.append(service.rss_bytes())
        seconds = time.monotonic() - began
        cores = (service.cpu_s() - cpu_before) / seconds
        time.sleep(2.0)
        over.set()
        for client in clients:
            client.join(30)
    n_rows = sum(len(times) for times in written.values()) - n_before
    settled = rss[len(rss) // 3 :]
    growth = (settled[-1] - settled[0]) / max(1, n_rows * 2 // 3)
    return [
        Figure("rows written per second", n_rows / seconds, "rows/s", target=0.99 * N_LIVE),
        Figure("delay of a new row, p50", float(np.percentile(delays, 50)), "s"),
        Figure("delay of a new row, p99", float(np.percentile(delays, 99)), "s", target=2.0, is_ceiling=True),
        Figure("processor use of the service", cores, "cores", target=0.5, is_ceiling=True),
        Figure("rows sent to each client", float(min(counts)), "rows"),
        Figure("memory at the end", rss[-1] / 1e6, "MB"),
        Figure("growth of memory per row, last two thirds", growth, "bytes"),
    ]


def _follow(
    url: str,
    over: threading.Event,
    written: dict[str, list[float]],
    delays: list[float] | None,
    counts: list[int],
    place: int,
) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    timeout = httpx.Timeout(30.0)
    seen = dict.fromkeys(written, 0)
    kind = ""
    with httpx.stream("GET", f"{url}/v1/events", headers=headers, timeout=timeout, trust_env=False) as answer:
        for line in answer.iter_lines():
            if over.is_set():
                return
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: ") and kind in ("rows", "runs"):
                if delays is None:
                    counts[place] += line.count('"id"')
                    continue
                now = time.monotonic()
                for item in json.loads(line[6:])["items"]:
                    counts[place] += 1
                    run_id = item["id"].partition(":")[2]
                    delays += [now - at for at in written[run_id][seen[run_id] : item["n_rows"]]]
                    seen[run_id] = item["n_rows"]


def _say(text: str) -> None:
    sys.stderr.write(f"bench api: {text}\n")
