"""Unit costs: a row, a block, an exact embedding, a call of the coordinator, a run in memory and on disk.

Seconds are processor seconds, so that other work on the machine changes them little, unless a name says otherwise.
"""

import contextlib
import itertools
import json
import math
import os
import pickle
import shutil
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.config import Config, RunPlan, RunSetting, load_config, plan_packs
from streamscalar.protocol.progress import RunProgress
from streamscalar.protocol.schedule import PackFinalised, TrainingFinished
from streamscalar.store import RunReader, Store
from streamscalar.store.media.files import PARTIAL
from streamscalar.store.wal import LOG_SUFFIX
from streamscalar.types import Layer, Layout
from streamscalar.workers.coordinator import Coordinator
from streamscalar.workers.embedder import Embedder
from streamscalar.workers.trainer import Trainer

SEGMENT_ROWS = 16
N_SEGMENTS = 5
N_EVENTS = 200
N_CONCURRENT = 200


@dataclass(frozen=True)
class RunCosts:
    """Costs of a run with rows of `n_values` values, in seconds of one core.

    `step_s` is for one step, `store_s` and `embed_s` for one segment, `exact_s` for the run of `n_rows` rows.
    """

    n_values: int
    n_parameters: int
    n_rows: int
    step_s: float
    store_s: float
    embed_s: float
    exact_s: float
    open_bytes: float
    stored_share: float
    n_files: int
    n_bytes: int
    weights_files: float
    embedding_files: float
    run_files: int


@dataclass(frozen=True)
class CoordinatorCosts:
    """Costs of the coordinator of `n_runs` runs.

    `begin_..._s` are elapsed seconds for all runs; `handle_wall_s` is elapsed time, including the wait for the disk.
    """

    n_runs: int
    plan_s: float
    begin_fresh_s: float
    begin_interrupted_s: float
    begin_finished_s: float
    report_s: float
    handle_s: float
    handle_wall_s: float
    snapshot_s: float
    snapshot_bytes: int
    obey_s: float
    obey_after_s: float
    run_bytes: float


def run_costs(folder: Path, width: int) -> RunCosts:
    """Measure the parts of one run: train, store, embed and solve the digits with one hidden layer of `width`."""
    config = _config(folder, width)
    store = Store.create(config.store_path, config.identity(), {})
    embedder = Embedder(config.store_path, config.embedding, config.store.fsync)
    pack = plan_packs(config)[0]
    run_id = pack[0].run_id
    embedded: list[_Embedded] = []

    def sink(run_id: str, first_row: int, weights: NDArray[np.floating]) -> None:
        began, before = time.process_time(), _Files(Path(config.store_path))
        embed_s = _cpu_s(lambda: embedder.embed(run_id, first_row, weights))
        n_files = before.n_changed()
        embedded.append(_Embedded(first_row, began, time.process_time(), embed_s, n_files))

    Trainer(config.store_path, config).train(pack, sink, lambda: False)
    files = _Files(Path(config.store_path))
    exact_s = _cpu_s(lambda: embedder.finalise(run_id, "all"))
    solved_files = files.n_changed()
    reader = store.reader(run_id)
    store_s, weights_files, made_files = _stored(store, reader)
    first, last = embedded[0], embedded[-1]
    between_s = last.began_s - first.ended_s - sum(part.ended_s - part.began_s for part in embedded[1:-1])
    n_segments = (last.first_row - first.first_row) / SEGMENT_ROWS
    paths = [path for path in (Path(config.store_path) / "runs" / run_id).rglob("*") if path.is_file()]
    deltas = sum(path.stat().st_size for path in paths if "deltas" in path.parts)
    layout = reader.layout
    n_values = layout.n_replicas * layout.n_parameters
    return RunCosts(
        n_values,
        layout.n_parameters,
        reader.n_rows,
        max(0.0, between_s / n_segments - store_s) / SEGMENT_ROWS,
        store_s,
        float(np.median([part.embed_s for part in embedded])),
        exact_s,
        _open_bytes(config, reader),
        deltas / (reader.n_rows * n_values * np.dtype(layout.dtype).itemsize),
        len(paths),
        sum(path.stat().st_size for path in paths),
        weights_files,
        float(np.median([part.n_files for part in embedded])),
        made_files + solved_files,
    )


@dataclass(frozen=True)
class _Embedded:
    first_row: int
    began_s: float
    ended_s: float
    embed_s: float
    n_files: int


class _Files:
    """The files of a folder, to count those that are created or replaced; the write-ahead log is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = self._scan()

    def _scan(self) -> set[tuple[str, int, int]]:
        found = set()
        # Segments are sealed in the background: os.walk tolerates folders that disappear meanwhile.
        for folder, _, names in os.walk(self._folder):
            for name in names if PARTIAL not in folder else ():
                path = Path(folder) / name
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    if not (PARTIAL in name or name == "lock" or path.suffix == LOG_SUFFIX):
                        found.add((str(path), stat.st_ino, stat.st_mtime_ns))
        return found

    @property
    def n_seen(self) -> int:
        """Number of files at the last scan."""
        return len(self._seen)

    def n_changed(self) -> int:
        """Return the number of files that changed since the last scan."""
        now = self._scan()
        n = len(now - self._seen)
        self._seen = now
        return n


def _cpu_s(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _config(folder: Path, width: int) -> Config:
    return load_config(
        {
            "experiment": {"name": f"cost{width}", "n_initial_conditions": 1},
            "task": {"name": "digits"},
            "model": {"widths": [width]},
            "training": {"learning_rate": [2.5], "n_steps": N_SEGMENTS * SEGMENT_ROWS - 1, "device": "cpu"},
            "store": {"url": str(folder / f"cost{width}"), "segment_rows": SEGMENT_ROWS},
            "cluster": {"executor": "inline"},
        },
        environment={},
    )


def _stored(store: Store, reader: RunReader) -> tuple[float, float, int]:
    """Write a run again; return seconds per segment, changed files per segment, and files of an empty run."""
    spec, weights, steps = reader.spec, reader.weights(), reader.steps()
    metrics = {name: reader.metrics(name) for name in reader.metric_names}
    for run_id in ("timed", "counted"):
        store.add_run(
            run_id,
            setting=spec.setting,
            seed=spec.seed,
            layout=spec.layout,
            n_rows=spec.n_planned,
            metrics=spec.metrics,
            n_components=spec.n_components,
            segment_rows=spec.segment_rows,
            codec=spec.codec,
        )

    def write(run_id: str, look: Callable[[], object]) -> None:
        with store.weights_writer(run_id) as writer:
            for row, step in enumerate(steps):
                writer.append(row, int(step), weights[row], {name: values[row] for name, values in metrics.items()})
                look()
            writer.finish()
        look()

    n_segments = len(steps) / SEGMENT_ROWS
    seconds = _cpu_s(lambda: write("timed", lambda: None))
    files, changed = _Files(Path(store.path) / "runs" / "counted"), []
    n_made = files.n_seen
    write("counted", lambda: changed.append(files.n_changed()))
    return seconds / n_segments, sum(changed) / n_segments, n_made


def _open_bytes(config: Config, reader: RunReader) -> float:
    """Return the bytes that an embedder holds for a run between two blocks."""
    block = reader.weights(0, SEGMENT_ROWS)
    tracemalloc.start()
    try:
        embedder = Embedder(config.store_path, config.embedding, "none")
        before = tracemalloc.get_traced_memory()[0]
        embedder.embed("timed", 0, block)
        return float(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()


def coordinator_costs(folder: Path, n_runs: int) -> CoordinatorCosts:
    """Measure the coordinator of `n_runs` runs over an empty, an interrupted and a finished store."""
    config = load_config(
        {
            "experiment": {"name": "many", "n_initial_conditions": n_runs // 4},
            "task": {"name": "quadratic", "curvatures": [1.0, 0.5]},
            "training": {"learning_rate": [0.1, 0.2, 0.3, 0.4], "n_steps": 100, "device": "cpu"},
            "store": {"url": str(folder / "many")},
            "cluster": {"executor": "inline"},
        },
        environment={},
    )
    store = Store.create(config.store_path, config.identity(), {})
    began = time.perf_counter()
    packs = plan_packs(config)
    plan_s = time.perf_counter() - began

    def begun(packs: list[tuple[RunPlan, ...]]) -> tuple[Coordinator, float]:
        coordinator = Coordinator(store, packs, N_CONCURRENT, config.n_rows)
        began = time.perf_counter()
        coordinator.begin()
        return coordinator, time.perf_counter() - began

    run_bytes = _traced_bytes(lambda: _reported(begun(plan_packs(config))[0])) / n_runs
    _, fresh_s = begun(packs)
    _make_runs(store, [pack[0].run_id for pack in packs], {})
    coordinator, interrupted_s = begun(packs)
    report_s = _cpu_s(lambda: _reported(coordinator)) / n_runs
    events = [kind(pack[0].run_id) for pack in packs[:N_EVENTS] for kind in (TrainingFinished, PackFinalised)]
    wall = time.perf_counter()
    handle_s = _cpu_s(lambda: [coordinator.handle(event) for event in events]) / len(events)
    wall = (time.perf_counter() - wall) / len(events)
    repeats = range(500)
    snapshot_s = _cpu_s(lambda: [pickle.dumps(coordinator.snapshot()) for _ in repeats]) / len(repeats)
    obey_s = _cpu_s(lambda: [coordinator.handle_requests() for _ in repeats]) / len(repeats)
    for pack in packs[-1000:]:
        store.request({"kind": "cancel", "run_id": pack[0].run_id})
    coordinator.handle_requests()
    obey_after_s = _cpu_s(lambda: [coordinator.handle_requests() for _ in repeats]) / len(repeats)
    shutil.rmtree(Path(config.store_path) / "requests")
    _make_runs(store, [pack[0].run_id for pack in packs], {"phase": "done", "attempts": 1, "reason": ""})
    finished, finished_s = begun(packs)
    if not finished.snapshot().is_over:
        raise AssertionError("a coordinator over a finished store must start with all runs done")
    return CoordinatorCosts(
        n_runs,
        plan_s,
        fresh_s,
        interrupted_s,
        finished_s,
        report_s,
        handle_s,
        wall,
        snapshot_s,
        len(pickle.dumps(coordinator.snapshot())),
        obey_s,
        obey_after_s,
        run_bytes,
    )


def _reported(coordinator: Coordinator) -> Coordinator:
    """Report one block of every run; return the coordinator."""
    for index, plan in enumerate(itertools.chain(*coordinator.packs.values())):
        coordinator.report(RunProgress(plan.run_id, 16, 0.1 + index, 3, -7.0 - index))
    return coordinator


def _traced_bytes(build: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = build()
        after = tracemalloc.get_traced_memory()[0]
        return float(after - before) if held is not None else math.nan
    finally:
        tracemalloc.stop()


def _make_runs(store: Store, run_ids: Sequence[str], status: Mapping[str, Any]) -> None:
    """Create runs without rows, or set the status of existing ones; all but the first are copies of it."""
    runs = Path(store.path) / "runs"
    layout = Layout((Layer("weights", 0, (2,)),), "float64", 5, True)
    if not (runs / run_ids[0]).exists():
        facts: dict[str, Any] = {
            "setting": RunSetting(),
            "seed": 0,
            "layout": layout,
            "n_rows": 101,
            "metrics": ("loss",),
        }
        store.add_run(run_ids[0], **facts, n_components=2, segment_rows=None, codec="zstd")
    for run_id in run_ids:
        if not (runs / run_id).exists():
            for name in ("zarr.json", "weights/zarr.json", "embedding/zarr.json"):
                text = (runs / run_ids[0] / name).read_text().replace(f'"{run_ids[0]}"', f'"{run_id}"')
                (runs / run_id / name).parent.mkdir(parents=True, exist_ok=True)
                (runs / run_id / name).write_text(text)
        if status:
            for name, mark in (("weights", "complete"), ("embedding", "exact")):
                document = json.loads((runs / run_id / name / "zarr.json").read_text())
                document["attributes"][mark] = True
                (runs / run_id / name / "zarr.json").write_text(json.dumps(document))
            (runs / run_id / "status.json").write_text(json.dumps(status))
    (runs / "order").write_text("".join(f"{run_id}\n" for run_id in run_ids))
