"""Shadows: where they start, and what they repeat."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from streamscalar.errors import BadCall
from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.capture import select
from streamscalar.tracking.training.repeating.companions import Companions
from streamscalar.tracking.training.repeating.shadow import Shadows, checked_epsilon, default_epsilon, moved_share
from streamscalar.tracking.training.repeating.twin import Procedure

Batch = tuple[Tensor, Tensor]


def _model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 3)).to(dtype)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def _half(model: nn.Module, batch: Batch) -> Tensor:
    return _loss(model, batch) / 2


def _batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 30, generator=generator), torch.randint(0, 3, (16,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-8, 3e-6, 1e-3])
def test_the_share_of_moved_weights_is_what_a_draw_moves(dtype: torch.dtype, epsilon: float) -> None:
    torch.manual_seed(2)
    model = nn.Linear(300, 200).to(dtype)
    expected = moved_share(select(model, None, 0), epsilon)
    weight = model.weight.detach().double()
    noise = torch.from_numpy(np.random.default_rng(0).uniform(-epsilon, epsilon, tuple(weight.shape)))
    drawn = float(((weight + noise).to(dtype) != model.weight.detach()).double().mean())
    assert drawn == pytest.approx(expected, abs=0.02)


def test_the_default_epsilon_is_the_smallest_that_moves_nine_in_ten() -> None:
    model = _model()
    selection = select(model, None, 0)
    epsilon = default_epsilon(selection)
    assert moved_share(selection, epsilon) >= 0.9 > moved_share(selection, epsilon * 0.4)
    assert default_epsilon(select(_model(torch.float64), None, 0)) == 1e-8
    assert default_epsilon(select(_model(torch.bfloat16), None, 0)) > 1e-4
    with pytest.raises(BadCall, match=r"must be large enough for float32 weights: only \d+% .* Leave it out for"):
        checked_epsilon(selection, 1e-9)
    with pytest.raises(BadCall, match="must be a positive number"):
        checked_epsilon(selection, float("nan"))


def test_an_unperturbed_shadow_stays_the_twin_of_its_model() -> None:
    model = _model()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    # Momentum before the shadow is there must be taken over.
    _loss(model, _batch(9)).backward()  # type: ignore[no-untyped-call]  # torch has no types here
    optimizer.step()
    selection = select(model, None, 0)
    shadows = Shadows(model, optimizer, 1, 1e-3, selection, 0)
    companions = Companions(model, optimizer, Procedure(_half, None), shadows, None, selection.device, Notices())
    companions.start()
    (shadow,) = companions.shadows
    with torch.no_grad():
        for p, q in zip(shadow.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    for step in range(6):
        model[1].train(step != 3)
        optimizer.zero_grad()
        # Two passes add up to one gradient; and an evaluation in between is none.
        for part in range(2):
            loss = _half(model, _batch(2 * step + part))
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            if part:
                optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
                optimizer.step()
                optimizer.param_groups[0]["lr"] = 7.0
            model.eval()
            _loss(model, _batch(100))
            model.train()
            model[1].train(step != 3)
            before = torch.get_rng_state()
            (own,) = companions.step(_batch(2 * step + part), step)
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.equal(own, loss.detach())
        for (name, p), q in zip(model.state_dict().items(), shadow.state_dict().values(), strict=True):
            assert torch.equal(p, q), (step, name)
    assert companions.refused == ""
    companions.remove()


def test_shadows_differ_from_each_other_and_from_seed_to_seed() -> None:
    model = _model()
    optimizer = SGD(model.parameters(), lr=0.1)
    starts = []
    for seed in (0, 0, 1):
        shadows = Shadows(model, optimizer, 2, 1e-3, select(model, None, 0), seed)
        shadows.start()
        models = [twin.model for twin in shadows.twins]
        starts.append([shadow.get_parameter("0.weight").detach().clone() for shadow in models])
        assert torch.equal(models[0].get_parameter("0.bias"), model.get_parameter("0.bias"))
    assert torch.equal(starts[0][0], starts[1][0])
    assert not torch.equal(starts[0][0], starts[0][1])
    assert not torch.equal(starts[0][0], starts[2][0])


def test_a_model_that_cannot_be_copied_is_a_bad_call() -> None:
    model = _model()
    model.left_over = torch.ones(2, requires_grad=True) * 2
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadCall, match="must be a model that can be copied"):
        Shadows(model, optimizer, 1, 1e-3, select(model, None, 0), 0)
