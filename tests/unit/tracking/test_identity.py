"""Changes of a model while it is recorded: followed, or named."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from streamscalar.tracking.training.capture import select
from streamscalar.tracking.training.identity import Identity


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def same_head(model: nn.Sequential) -> None:
    model[2] = nn.Linear(16, 3)


def assigned(model: nn.Sequential) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def frozen(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)


@pytest.mark.parametrize("change", [same_head, assigned, frozen])
def test_parameters_of_the_same_layout_are_followed(change: Callable[[nn.Sequential], None]) -> None:
    model = net()
    identity = Identity(model, select(model, None, 0))
    assert identity.changes() == []
    before = identity.selection
    change(model)
    assert identity.changes() == []
    assert all(ours is theirs for ours, theirs in zip(identity.selection.parameters, model.parameters(), strict=True))
    assert identity.selection.layers == before.layers


def added(model: nn.Sequential) -> None:
    model.append(nn.Linear(3, 2))


def removed(model: nn.Sequential) -> None:
    del model[2]


def resized(model: nn.Sequential) -> None:
    model[2] = nn.Linear(16, 5)


def widened(model: nn.Sequential) -> None:
    model.double()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (added, ["3.bias is new", "3.weight is new"]),
        (removed, ["2.bias is gone", "2.weight is gone"]),
        (resized, ["2.bias was 3 float32 on cpu and is 5 float32 on cpu",
                   "2.weight was 3x16 float32 on cpu and is 5x16 float32 on cpu"]),
    ],
)  # fmt: skip
def test_another_layout_is_named(change: Callable[[nn.Sequential], None], words: list[str]) -> None:
    model = net()
    identity = Identity(model, select(model, None, 0))
    change(model)
    assert identity.changes() == words
    assert identity.changes() == words, "at every row"


def test_another_type_is_named_for_every_parameter() -> None:
    model = net()
    identity = Identity(model, select(model, None, 0))
    widened(model)
    assert len(identity.changes()) == 4
    assert identity.changes()[0] == "0.bias was 16 float32 on cpu and is 16 float64 on cpu"


def test_a_parameter_that_is_trained_later_is_named() -> None:
    model = net()
    model[0].requires_grad_(False)
    identity = Identity(model, select(model, None, 0))
    model[0].requires_grad_(True)
    assert identity.changes() == ["0.bias is trained now", "0.weight is trained now"]
    model[0].requires_grad_(False)
    assert identity.changes() == []
