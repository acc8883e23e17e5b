"""Trains with copies, and compares each with a second, independent training from the same perturbed start."""

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamscalar.errors import BadCall
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.capture import select
from streamscalar.tracking.training.repeating.companions import Companions
from streamscalar.tracking.training.repeating.shadow import Shadows, default_epsilon
from streamscalar.tracking.training.repeating.tangent_vector import METRIC, Tangent
from streamscalar.tracking.training.repeating.twin import Procedure
from tests.trainings.loops import N_STEPS, SEED, Training

EXACT, REFUSED, WRONG = "exact", "refused", "wrong"
TANGENT_STEP = 1e-6
TANGENT_TOLERANCE = 1e-5


def shadowed(kind: type[Training], optimizer: str, *, from_step: bool) -> tuple[str, str]:
    """Train with a shadow; return `EXACT`, `REFUSED` or `WRONG`, and why."""
    training = kind(optimizer)
    procedure = Procedure(None, training.step) if from_step else Procedure(training.loss, None)
    try:
        selection = select(training.model, None, 0)
        shadows = Shadows(training.model, training.optimizer, 1, default_epsilon(selection), selection, 0)
        companions = Companions(
            training.model, training.optimizer, procedure, shadows, None, selection.device, Notices()
        )
    except BadCall as error:
        return REFUSED, str(error)
    try:
        torch.manual_seed(SEED)
        companions._recorder.rest()
        companions.start()
        start = state_of(companions.shadows[0])
        rows = _train(training, companions, shadow=True)
    finally:
        companions.remove()
    alone = kind(optimizer)
    expected = _train(alone, None)
    if not _equal(_ends(training), _ends(alone)):
        return WRONG, "the training is not as without copies"
    if companions.refused:
        return REFUSED, companions.refused
    twin = kind(optimizer)
    twin.model.load_state_dict(start)
    by_hand = _train(twin, None)
    unequal = [
        n for n, (ours, theirs) in enumerate(zip(rows, by_hand, strict=True), 1) if not torch.equal(ours, theirs)
    ]
    if unequal:
        return WRONG, f"the shadow is not the perturbed training at step {unequal[0]}"
    assert not torch.equal(expected[-1], by_hand[-1]), "the perturbation has no effect, so nothing was shown"
    return EXACT, ""


def tangent(kind: type[Training], optimizer: str) -> tuple[str, str]:
    """Train with a tangent vector in float64; return `EXACT` where its growth is that of two trainings side by side."""
    training = kind(optimizer, torch.float64)
    try:
        selection = select(training.model, None, 0)
        vector = Tangent(training.optimizer, training.loss, selection, 0)
        companions = Companions(
            training.model,
            training.optimizer,
            Procedure(training.loss, None),
            None,
            vector,
            selection.device,
            Notices(),
        )
    except BadCall as error:
        return REFUSED, str(error)
    direction = vector._moves[0].clone()
    try:
        torch.manual_seed(SEED)
        companions._recorder.rest()
        companions.start()
        companions.growth()
        _train(training, companions)
        growth = torch.as_tensor(companions.growth().get(METRIC, torch.nan)).item()
    finally:
        companions.remove()
    alone = kind(optimizer, torch.float64)
    _train(alone, None)
    if not _equal(_ends(training), _ends(alone)):
        return WRONG, "the training is not as without copies"
    if companions.refused:
        return REFUSED, companions.refused
    ends = []
    for sign in (1, -1):
        moved = kind(optimizer, torch.float64)
        parameters = [p for p in moved.model.parameters() if p.requires_grad]
        flat = nn.utils.parameters_to_vector(parameters).detach()
        nn.utils.vector_to_parameters(flat + sign * TANGENT_STEP * direction, parameters)
        _train(moved, None)
        ends.append(_weights_and_state(moved))
    expected = float(((ends[0] - ends[1]) / (2 * TANGENT_STEP)).norm().log())
    if abs(growth - expected) > TANGENT_TOLERANCE * max(1, abs(expected)):
        return WRONG, f"the tangent vector grew by {growth}, not {expected}"
    return EXACT, ""


def _weights_and_state(training: Training) -> Tensor:
    names = ("momentum_buffer", "exp_avg", "exp_avg_sq")
    parameters = list(training.model.parameters())
    states = [training.optimizer.state.get(p, {}) for p in parameters]
    kept = [name for name in names if any(state.get(name) is not None for state in states)]
    parts = [p.detach().reshape(-1) for p in parameters]
    for name in kept:
        for p, state in zip(parameters, states, strict=True):
            value = state.get(name)
            parts.append(torch.zeros_like(p).reshape(-1) if value is None else value.reshape(-1))
    return torch.cat(parts)


def _train(training: Training, companions: Companions | None, *, shadow: bool = False) -> list[Tensor]:
    """Train, and return weights and buffers of the model, or of the shadow, after each step."""
    rows = []
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for training.number in range(1, N_STEPS + 1):
            training.between()
            data = training.data(training.number)
            training.step(training.model, training.optimizer, data)
            if companions is not None:
                companions.step(data, training.number)
            model = next(iter(companions.shadows), None) if shadow and companions is not None else training.model
            rows.append(torch.empty(0) if model is None else _flat(model))
    return rows


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of weights and buffers."""
    return copy.deepcopy(model.state_dict())


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([value.double().reshape(-1) for value in model.state_dict().values()])


def _ends(training: Training) -> list[Any]:
    """Return all that a training has changed."""
    optimizer = training.optimizer.state_dict()
    return [training.model.state_dict(), optimizer, torch.get_rng_state(), *training.beside()]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(one == other)
