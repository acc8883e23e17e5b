"""The search for the onset of sensitivity and the fastest learning rate, and the learning-rate range test.

References
----------
.. [1] L. N. Smith, N. Topin, arXiv 1708.07120; L. N. Smith, arXiv 1506.01186, section 3.3 (the range test).
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamscalar.config import Config, plan_runs
from streamscalar.errors import BadCall, Kind, WorkFailed
from streamscalar.protocol.onset_search import OnsetResult, OnsetSearch, ProbeRates, RateProbed, SearchInstruction
from streamscalar.protocol.progress import Snapshot
from streamscalar.runtime.launch import execute, prepare
from streamscalar.store import Place, medium_of
from streamscalar.store.media.files import storage_errors
from streamscalar.training.batches import build_batches
from streamscalar.training.ensemble import initial_reference, pinned_threads, resolve_device
from streamscalar.training.optimizers import build_optimizer
from streamscalar.training.problem import Evaluation, Product
from streamscalar.training.setup import load_problem
from streamscalar.types import Estimate, Status

RESULT_FILE = "onset.json"

LEAST_INITIAL_CONDITIONS = 3
"""With fewer there is no interval over initial conditions, and no estimate of the steps to accuracy."""

SMOOTHING = 0.9
"""Decay of the exponential average of the loss in the range test, which is corrected for bias."""

STOP_FACTOR = 4.0
"""The range test ends once the smoothed loss exceeds its minimum by this factor."""


def find_onset(
    config: Config,
    store_root: Place,
    *,
    low: float,
    high: float,
    budget_steps: int,
    tolerance: float = 0.1,
    on_snapshot: Callable[[Snapshot], None] = lambda _: None,
    on_probe: Callable[[RateProbed], None] = lambda _: None,
) -> OnsetResult:
    """Bracket the onset of sensitivity and find the fastest learning rate, within a budget.

    Every stage of the search is an ordinary experiment in `store_root/stage-<k>`. A call after an interruption resumes
    from the stored stages and gives the same result; a call with a larger budget continues a search that ran out.

    Parameters
    ----------
    config
        What to train; its learning rates and `store.url` are ignored.
    store_root
        Folder, or prefix in a bucket, of the stages and of `onset.json`, the result as a JSON document.
    low, high, budget_steps, tolerance
        See `OnsetSearch`. The budget counts the steps of a run once, whatever its number of replicas.
    on_snapshot
        Called with the progress of the current stage.
    on_probe
        Called with each rate when its stage is done.

    Raises
    ------
    BadCall
        The config or the arguments do not suit a search; nothing was written.
    WorkFailed
        A run failed, or the search was stopped; every acknowledged row is kept.
    """
    _check(config, store_root)
    steps_per_rate = config.experiment.n_initial_conditions * config.training.n_steps
    search = OnsetSearch(low, high, steps_per_rate=steps_per_rate, budget_steps=budget_steps, tolerance=tolerance)
    instructions: list[SearchInstruction] = [search.start()]
    with _one_cluster(config):
        while isinstance(newest := instructions[-1], ProbeRates):
            store = store_root / f"stage-{len(instructions) - 1}"
            for probed in _probe(_stage_config(config, newest.learning_rates, store), on_snapshot):
                instructions += search.handle(probed)
                on_probe(probed)
    _write(store_root / RESULT_FILE, newest.result.to_json())
    return newest.result


def _check(config: Config, store_root: Place) -> None:
    if config.task.name == "quadratic":
        raise BadCall(
            "task.name",
            "must be a task with an accuracy: the search compares the steps to the target accuracy",
            "quadratic",
            "Use digits, iris or idx",
            Kind.CONFIG,
        )
    if config.experiment.n_initial_conditions < LEAST_INITIAL_CONDITIONS:
        raise BadCall(
            "experiment.n_initial_conditions",
            f"must be at least {LEAST_INITIAL_CONDITIONS}, so that each rate has intervals over initial conditions",
            str(config.experiment.n_initial_conditions),
            kind=Kind.CONFIG,
        )
    if config.perturbation.n_perturbed == 0:
        raise BadCall(
            "perturbation.n_perturbed",
            "must be at least 1: regimes are classified from perturbed replicas",
            "0",
            kind=Kind.CONFIG,
        )
    if len(config.perturbation.epsilon) > 1:
        raise BadCall(
            "perturbation.epsilon",
            "must be one number: a search uses one size of perturbation",
            f"{len(config.perturbation.epsilon)} numbers",
            kind=Kind.CONFIG,
        )
    if (store_root / "zarr.json").exists():
        raise BadCall(
            str(store_root),
            "must be a folder for the stages of a search",
            "the store of an experiment",
            "Choose another with --store",
            Kind.STORE_OTHER_CONFIG,
        )


@contextmanager
def _one_cluster(config: Config) -> Iterator[None]:
    """Keep one connection to Ray for all stages, if Ray is the executor."""
    if config.cluster.executor == "inline":
        yield
        return
    from streamscalar.runtime.ray.executor import ray_executor

    with ray_executor(config):
        yield


def _stage_config(config: Config, rates: tuple[float, ...], store: Place) -> Config:
    sections: dict[str, Any] = config.model_dump()
    sections["training"] |= {"learning_rate": rates}
    sections["store"] |= {"url": str(store)}
    return Config.model_validate(sections)


def _probe(config: Config, on_snapshot: Callable[[Snapshot], None]) -> list[RateProbed]:
    """Run a stage, or the missing part of it, and return the result of each rate."""
    try:
        experiment = execute(prepare(config), on_snapshot)
    except WorkFailed as error:
        fix = "The rows are kept: repeat the same command to resume"
        raise WorkFailed(error.where, error.must, error.got, fix, error.kind, Path(config.store_path).name) from error
    n_steps = config.experiment.n_initial_conditions * config.training.n_steps
    return [
        RateProbed(
            setting.learning_rate,
            setting.regime,
            setting.estimates["ftle"],
            setting.estimates["steps_to_accuracy"],
            n_steps,
        )
        for setting in experiment.analyze().settings
    ]


def _write(path: Place, document: dict[str, Any]) -> None:
    data = (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
    with storage_errors(path):
        medium_of(path).write(path, data)


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Loss against a learning rate that grows at every step, and the rates that two usual rules choose from it.

    Attributes
    ----------
    learning_rates
        Rates, shape (n,), in a geometric sequence.
    losses, smoothed
        Training loss after the update at that rate, and its bias-corrected exponential average, shape (n,).
    steepest
        Rate at which the smoothed loss has its steepest slope over the logarithm of the rate.
    tenth_of_minimum
        A tenth of the rate at which the smoothed loss is smallest.
    n_steps_spent
        Number of updates, of one replica from one initial condition.
    """

    learning_rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    steepest: Estimate
    tenth_of_minimum: Estimate
    n_steps_spent: int


def range_test(config: Config, *, low: float, high: float, n_steps: int = 100) -> RangeTest:
    """Run the learning-rate range test [1]_: one training run whose rate grows from `low` to `high`.

    It ends early once the smoothed loss is not finite or exceeds four times its minimum. It does not measure
    sensitivity; it is the baseline for `find_onset`.

    Parameters
    ----------
    config
        Task, model, optimiser and seed; the first initial condition is trained.
    low, high
        Range of rates.
    n_steps
        Number of updates over the whole range.
    """
    if not 0.0 < low < high < math.inf:
        raise BadCall("low, high", "must be an ascending range of rates", f"{low:g} and {high:g}", kind=Kind.CONFIG)
    if n_steps < 10:
        raise BadCall("n_steps", "must be at least 10", str(n_steps), kind=Kind.CONFIG)
    rates = np.geomspace(low, high, n_steps)
    with pinned_threads(config.training.n_threads):
        losses, smoothed = _sweep(config, rates)
    n = len(losses)
    return RangeTest(rates[:n], losses, smoothed, *_picks(rates[:n], smoothed), n_steps_spent=n)


def _sweep(config: Config, rates: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train with one rate per step; return the loss after each update, and the smoothed loss.

    With mini-batches, each loss is that of the next batch.
    """
    training = config.training
    device = resolve_device(training.device)
    problem = load_problem(config, device)
    optimizer = build_optimizer(training)
    first = plan_runs(config)[0]
    start = initial_reference(problem, training.dtype, first.seed)
    weights = torch.tensor(start, device=device)[None]
    state = tuple(torch.zeros_like(weights) for _ in optimizer.state_names)
    batches = build_batches(training, problem.n_train, [first.seed], 1, device)

    def evaluate(n_steps: int) -> Evaluation:
        batch = None if batches is None else batches.at(n_steps)
        return problem.evaluate(weights, Product.FUSED, with_accuracy=False, batch=batch)

    gradient = evaluate(0).gradient
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    for index, rate in enumerate(rates):
        step_size = torch.full_like(weights[:, :1], float(rate))
        weights, state = optimizer.update(weights, gradient, state, step_size, index + 1)
        evaluation = evaluate(index + 1)
        gradient = evaluation.gradient
        losses.append(float(evaluation.loss[0]))
        average = SMOOTHING * average + (1.0 - SMOOTHING) * losses[-1]
        smoothed.append(average / (1.0 - SMOOTHING ** (index + 1)))
        if not math.isfinite(smoothed[-1]) or smoothed[-1] > STOP_FACTOR * min(smoothed):
            break
    return np.array(losses), np.array(smoothed)


def _picks(rates: NDArray[np.float64], smoothed: NDArray[np.float64]) -> tuple[Estimate, Estimate]:
    """Return the rate of the steepest descent and a tenth of the rate of the minimum."""
    steep, tenth = "range test, steepest descent of the smoothed loss", "range test, a tenth of the minimum's rate"
    finite = np.isfinite(smoothed)
    rates, smoothed = rates[finite], smoothed[finite]
    if len(rates) < 3:
        what = f"The loss was not finite after {len(rates)} rates."
        return (
            Estimate.failed(Status.NON_FINITE, n=len(rates), method=steep, what=what),
            Estimate.failed(Status.NON_FINITE, n=len(rates), method=tenth, what=what),
        )
    # The rates are evenly spaced on a log scale, so the slope per step is that over the logarithm of the rate.
    fastest = float(rates[np.argmin(np.gradient(smoothed))])
    least = float(rates[np.argmin(smoothed)]) / 10.0
    return (
        Estimate(fastest, Status.OK, n=len(rates), method=steep),
        Estimate(least, Status.OK, n=len(rates), method=tenth),
    )
