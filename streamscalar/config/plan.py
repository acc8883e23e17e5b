"""The runs of a config, and the rows and bytes that they will write."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamscalar.config.models import Config
from streamscalar.seeds import run_seed


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One planned run: one initial condition at one learning rate and one epsilon.

    Attributes
    ----------
    run_id
        Name in the store, such as `lr7.5_ic0`, or `lr7.5_eps1e-08_ic0` if there are several epsilons.
    learning_rate
        Learning rate, per step.
    epsilon
        Size of the perturbation.
    initial_condition
        Index of the initial condition, from 0.
    seed
        Seed of initial weights, perturbations and the random control direction; the same at every learning rate and
        epsilon.
    """

    run_id: str
    learning_rate: float
    epsilon: float
    initial_condition: int
    seed: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Size of an experiment.

    Attributes
    ----------
    n_runs, n_rows
        Number of runs, and of recorded rows of all runs.
    row_bytes
        Uncompressed bytes of the weights of one row, all replicas.
    kept_bytes
        Uncompressed bytes of the weights that are kept at the end.
    peak_bytes
        Maximum uncompressed bytes of weights on disk at one time: kept weights and runs in progress.
    """

    n_runs: int
    n_rows: int
    row_bytes: int
    kept_bytes: int
    peak_bytes: int


def plan_runs(config: Config) -> list[RunPlan]:
    """Return the runs in order: the first initial condition of every learning rate, then the second, and so on."""
    epsilons = config.perturbation.epsilon
    rung = {epsilon: f"_eps{epsilon:g}" if len(epsilons) > 1 else "" for epsilon in epsilons}
    return [
        RunPlan(f"lr{rate:g}{rung[epsilon]}_ic{index}", rate, epsilon, index, run_seed(config.experiment.seed, index))
        for index in range(config.experiment.n_initial_conditions)
        for rate in config.training.learning_rate
        for epsilon in epsilons
    ]


def plan_more(config: Config, learning_rates: Sequence[float], n_initial_conditions: int) -> list[RunPlan]:
    """Return runs at further learning rates or initial conditions, named and seeded as by a config."""
    training = config.training.model_copy(update={"learning_rate": tuple(learning_rates)})
    experiment = config.experiment.model_copy(update={"n_initial_conditions": n_initial_conditions})
    return plan_runs(config.model_copy(update={"training": training, "experiment": experiment}))


def plan_packs(config: Config) -> list[tuple[RunPlan, ...]]:
    """Return the runs of `plan_runs` in packs; the runs of a pack are trained together."""
    runs = plan_runs(config)
    size = config.training.pack_size
    return [tuple(runs[first : first + size]) for first in range(0, len(runs), size)]


def cost(config: Config, n_parameters: int, segment_rows: int, n_concurrent: int) -> Cost:
    """Return the size of an experiment with networks of `n_parameters` and `n_concurrent` packs in progress."""
    itemsize = 4 if config.training.dtype == "float32" else 8
    row_bytes = config.n_replicas * n_parameters * itemsize
    n_runs = len(plan_runs(config))
    retain = config.recording.retain
    kept_rows = {"all": config.n_rows, "none": 0}.get(retain)
    if kept_rows is None:
        kept_rows = min(config.n_rows, int(retain.removeprefix("segments:")) * segment_rows)
    kept = n_runs * kept_rows * row_bytes
    # A finished run still waits for its exact solution while the next one trains.
    in_flight = min(n_runs, 2 * n_concurrent * config.training.pack_size) * (config.n_rows - kept_rows) * row_bytes
    return Cost(n_runs, n_runs * config.n_rows, row_bytes, kept, kept + in_flight)
