"""The module of an optimizer, found in a process that holds others."""

import gc
from typing import NoReturn

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from streamscalar.integrations.owners import largest, optimizers, owner


class Wrapper(nn.Module):
    """Has the parameters of another module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Delegate(Optimizer):
    """Calls the step of another optimizer, as Lookahead does."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups[0]["params"], {})
        self.inner = inner

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # no loss
        del closure
        self.inner.step()


class Facade(Optimizer):
    """Holds another optimizer and is none of its own, as that of Accelerate."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner

    @property
    def param_groups(self) -> list[dict[str, object]]:  # type: ignore[override]  # those of the other
        return self.inner.param_groups

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # no loss
        del closure
        self.inner.step()


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), head())


def head() -> nn.Sequential:
    return nn.Sequential(nn.Tanh(), nn.Linear(3, 2))


def test_it_is_the_smallest_module_with_all_parameters_and_its_outermost_wrapper() -> None:
    part, copy = head(), network()
    model = nn.Sequential(nn.Linear(4, 3), part)
    whole = Wrapper(Wrapper(model))
    task = nn.ModuleDict({"model": whole, "other": copy})
    assert owner(SGD(model.parameters(), lr=0.1)) is whole
    assert owner(SGD(task.parameters(), lr=0.1)) is task
    assert owner(SGD(part.parameters(), lr=0.1)) is part
    groups = [{"params": [p]} for p in reversed(list(model.parameters()))]
    assert owner(SGD(groups, lr=0.1)) is whole


def test_parameters_without_a_module_in_common_get_one() -> None:
    encoder, decoder, scale = network(), network(), torch.zeros(2, requires_grad=True)
    optimizer = SGD([scale, *encoder.parameters(), *decoder.parameters()], lr=0.1)
    found = owner(optimizer)
    assert [name for name, _ in found.named_parameters()][:3] == ["parameter0", "0.0.weight", "0.0.bias"]
    torch.autograd.backward(scale.sum())
    optimizer.step()
    torch.testing.assert_close(found.parameter0, torch.full((2,), -0.1), check_dtype=False)
    assert (found.get_submodule("0"), found.get_submodule("1")) == (encoder, decoder)


def test_an_unfinished_module_is_no_obstacle() -> None:
    class Unfinished(nn.Module):
        def __init__(self) -> None:
            """Leave all fields out."""

        def __getattr__(self, name: str) -> NoReturn:
            raise RuntimeError(f"{name} is asked for")

    unfinished = Unfinished()
    model = network()
    assert owner(SGD(model.parameters(), lr=0.1)) is model
    del unfinished


@pytest.mark.parametrize("is_first", [True, False])
def test_the_largest_optimizer_counts_and_of_two_with_the_same_parameters_the_outer(is_first: bool) -> None:
    gc.collect()
    large, small = nn.Linear(9, 9), nn.Linear(2, 2)
    several = [SGD(large.parameters(), lr=0.1), Adam(small.parameters())]
    assert largest(several if is_first else several[::-1]) is several[0]
    outer = Delegate(several[0])
    assert largest([*several, outer]) is outer
    facade = Facade(several[0])
    here = [one for one in optimizers() if one in (*several, outer, facade)]
    assert set(here) == {*several, outer}, "the step of the facade has no hooks"
