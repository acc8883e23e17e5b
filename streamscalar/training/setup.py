"""What a pack of runs needs before its first update: problem, layout, starts, batches and the check of twins.

The trainer, the estimate of the cost and the range test prepare a run through this module alone, so that they train
the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from streamscalar.config import Config, RunPlan
from streamscalar.config.models import ModelSection, TaskSection, is_own
from streamscalar.training.batches import Batches, build_batches
from streamscalar.training.ensemble import Ensemble, TwinCheck, check_twins, initial_replicas, initial_tangents
from streamscalar.training.modules import ModuleProblem
from streamscalar.training.networks import network
from streamscalar.training.optimizers import build_optimizer
from streamscalar.training.perceptron import Perceptron
from streamscalar.training.problem import Problem
from streamscalar.training.quadratic import Quadratic
from streamscalar.training.tasks import load_task
from streamscalar.types import Layout


@dataclass(frozen=True, slots=True, eq=False)
class PackSetup:
    """A pack of runs that is ready to be trained.

    Attributes
    ----------
    config
        The experiment.
    pack
        The runs.
    problem
        Loss and gradient.
    layout
        Layout of each run.
    starts
        First row of each run, shape (R, P).
    batches
        Samples of each update; `None` for the full batch.
    twins
        The matrix product to use, and whether identical twins stay identical under it.
    device
        Where weights are computed.
    """

    config: Config
    pack: Sequence[RunPlan]
    problem: Problem
    layout: Layout
    starts: Sequence[NDArray[np.floating]]
    batches: Batches | None
    twins: TwinCheck
    device: torch.device

    def ensemble(self, rows: Sequence[NDArray[np.floating]] | None = None) -> Ensemble:
        """Return the replicas of all runs at the weights `rows`, shape (R, P) per run; at their starts by default."""
        training, n_replicas = self.config.training, self.layout.n_replicas
        rates = np.repeat([plan.learning_rate for plan in self.pack], n_replicas)
        tangents = None
        if training.n_tangents:
            own = [initial_tangents(self.layout.n_parameters, training.n_tangents, plan.seed) for plan in self.pack]
            tangents = np.repeat(own, n_replicas, axis=0)
        return Ensemble(
            self.problem,
            np.concatenate(rows or self.starts),
            rates,
            build_optimizer(training),
            self.twins.product,
            self.device,
            tangents,
            self.batches,
        )


def set_up_pack(config: Config, pack: Sequence[RunPlan], problem: Problem, device: torch.device) -> PackSetup:
    """Prepare the runs of `pack`, which are trained together; call it with torch's threads pinned.

    Raises
    ------
    BadCall
        Epsilon is too small for the dtype, or there are fewer samples than a batch needs.
    """
    perturbation = config.perturbation
    layout = Layout(problem.layers, config.training.dtype, perturbation.n_perturbed, perturbation.control)
    starts = [initial_replicas(problem, layout, plan.epsilon, perturbation.weights_only, plan.seed) for plan in pack]
    batches = pack_batches(config, pack, problem, device)
    twins = check_twins(problem, starts[0][0], len(pack) * layout.n_replicas, device, batches)
    return PackSetup(config, pack, problem, layout, starts, batches, twins, device)


def pack_batches(config: Config, pack: Sequence[RunPlan], problem: Problem, device: torch.device) -> Batches | None:
    """Return the mini-batches of a pack, `None` for the full batch; raises `BadCall` where they do not fit."""
    seeds = [plan.seed for plan in pack]
    return build_batches(config.training, problem.n_train, seeds, config.n_replicas, device)


def load_problem(config: Config, device: torch.device) -> Problem:
    """Return the problem of a config in its precision; see `build_problem`."""
    return build_problem(config.task, config.model, getattr(torch, config.training.dtype), device)


def build_problem(task: TaskSection, model: ModelSection, dtype: torch.dtype, device: torch.device) -> Problem:
    """Return the problem of a config, its data on `device`.

    The perceptron on a plain classification has its own, faster problem; everything else is a `ModuleProblem`.

    Raises
    ------
    BadCall
        Data are missing, or what a user function returned cannot be trained.
    """
    if task.name == "quadratic":
        return Quadratic(torch.tensor(task.curvatures, dtype=dtype, device=device))
    loaded = load_task(task)
    if not is_own(model.name):
        loaded = loaded.with_float_inputs()
    classes = loaded.as_classes() if model.name == "mlp" else None
    if classes is not None:
        return Perceptron(classes, model, dtype, device)
    return ModuleProblem(network(model, loaded), model.name, loaded, model.init, dtype, device)
