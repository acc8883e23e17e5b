"""Benchmark `onset`: choosing a learning rate by find-onset, by a full grid and by the range test."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from streamscalar.bench.figures import Figure
from streamscalar.config import Config, load_config
from streamscalar.protocol.onset_search import SENSITIVE
from streamscalar.runtime import execute, prepare
from streamscalar.runtime.onset_trials import find_onset, range_test
from streamscalar.types import Regime

LOW, HIGH = 0.1, 20.0
TOLERANCE = 0.1
N_GRID = 16
RANGE_TEST_LOW, N_RANGE_TEST_STEPS = 1e-4, 100
"""The range test must start where nothing is learned: from 0.1 on, the loss falls fastest in the first steps."""
N_FRESH = 20
"""Initial conditions on which the chosen rates are compared; no method has used them."""
FRESH_SEED = 7919


def bench_onset(path: Path | None = None) -> list[Figure]:
    """Compare the cost of three methods of choosing a learning rate, and the speed of training at the chosen rates.

    Grid and search share the range [0.1, 20], the initial conditions and the budget. The cost of a grid as fine as the
    tolerance of the search (57 rates) is computed, not measured. The range test sweeps once from 1e-4 to 20. Steps to
    accuracy are measured on new initial conditions, the same for all methods; a run that does not reach the target
    counts with all its steps, and the share of runs that reached it is reported too.

    Parameters
    ----------
    path
        Folder of the IDX files of MNIST; by default the digits of scikit-learn are used.
    """
    sections = {"recording": {"retain": "none"}, "store": {"fsync": "none"}, "cluster": {"executor": "inline"}}
    if path is None:
        config = load_config(preset="digits-sweep", overrides=sections, environment={})
    else:
        settings = (f"task.path={path}",)
        config = load_config(preset="mnist", settings=settings, overrides=sections, environment={})
    with tempfile.TemporaryDirectory() as folder:
        figures, picks = _costs_and_picks(config, Path(folder))
        return figures + _speeds(config, picks, Path(folder) / "fresh")


def _costs_and_picks(config: Config, folder: Path) -> tuple[list[Figure], dict[str, float]]:
    """Return the cost of each method and the rate that it chooses."""
    grid_steps = N_GRID * config.experiment.n_initial_conditions * config.training.n_steps
    found = find_onset(config, folder / "search", low=LOW, high=HIGH, budget_steps=grid_steps, tolerance=TOLERANCE)
    width, grid_pick = _grid(config, folder / "grid")
    swept = range_test(config, low=RANGE_TEST_LOW, high=HIGH, n_steps=N_RANGE_TEST_STEPS)
    fine_steps = grid_steps // N_GRID * (1 + math.ceil(math.log(HIGH / LOW) / math.log1p(TOLERANCE)))
    figures = [
        Figure("find-onset: steps spent, against the grid", found.n_steps_spent, "steps", grid_steps),
        Figure("find-onset: steps spent, against a grid as fine", found.n_steps_spent, "steps", fine_steps),
        Figure("range test: steps spent", swept.n_steps_spent, "steps", grid_steps),
    ]
    if found.low is not None and found.high is not None:
        figures.append(Figure("find-onset: width of the bracket", found.high / found.low, "x", width))
    estimates = {
        "find-onset": found.fastest,
        "full grid": grid_pick,
        "range test, steepest": swept.steepest.value,
        "range test, minimum / 10": swept.tenth_of_minimum.value,
    }
    return figures, {name: float(f"{rate:.4g}") for name, rate in estimates.items() if rate is not None}


def _grid(config: Config, store: Path) -> tuple[float | None, float | None]:
    """Train the full grid; return the width of its bracket (a ratio) and its fastest rate."""
    rates = [float(f"{rate:.4g}") for rate in np.geomspace(LOW, HIGH, N_GRID)]
    settings = execute(prepare(_with(config, store, training={"learning_rate": rates}))).analyze().settings
    high = min((s.learning_rate for s in settings if s.regime in SENSITIVE), default=None)
    below = [
        s.learning_rate for s in settings if s.regime is Regime.REGULAR and (high is None or s.learning_rate < high)
    ]
    reached = {
        s.learning_rate: s.estimates["steps_to_accuracy"].value
        for s in settings
        if s.estimates["steps_to_accuracy"].is_ok and s.regime is not Regime.DIVERGED
    }
    width = high / below[-1] if high is not None and below else None
    return width, min(reached, key=lambda rate: reached[rate] or 0.0) if reached else None


def _speeds(config: Config, picks: Mapping[str, float], store: Path) -> list[Figure]:
    """Measure the speed of training at every chosen rate on new initial conditions."""
    rates = sorted(set(picks.values()))
    fresh = _with(
        config,
        store,
        experiment={"seed": config.experiment.seed + FRESH_SEED, "n_initial_conditions": N_FRESH},
        training={"learning_rate": rates},
        perturbation={"n_perturbed": 1, "control": False},
    )
    runs = execute(prepare(fresh)).analyze().runs
    steps: dict[float, list[float | None]] = {rate: [] for rate in rates}
    for run in runs:
        steps[run.learning_rate].append(run.estimates["steps_to_accuracy"].value)
    n_steps = config.training.n_steps
    mean = {rate: float(np.mean([n_steps if n is None else n for n in found])) for rate, found in steps.items()}
    baseline = mean[picks["full grid"]] if "full grid" in picks else None
    figures = []
    for name, rate in picks.items():
        reached = float(np.mean([n is not None for n in steps[rate]]))
        figures += [
            Figure(f"{name}: learning rate", rate, "per step", picks.get("full grid")),
            Figure(f"{name}: steps to accuracy, at most {n_steps}", mean[rate], "steps", baseline),
            Figure(f"{name}: share that reached it", reached, "of 1"),
        ]
    return figures


def _with(config: Config, store: Path, **sections: Mapping[str, object]) -> Config:
    """Return a config with some keys changed and another store."""
    dumped = config.model_dump()
    for name, keys in {**sections, "store": {"url": str(store)}}.items():
        dumped[name] |= keys
    return Config.model_validate(dumped)
