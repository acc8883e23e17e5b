"""What of a model is recorded, and its bits in a row."""

import numpy as np
import pytest
import torch
from torch import nn

from streamscalar.errors import BadCall
from streamscalar.tracking.training.capture import Capture, select
from streamscalar.tracking.training.identity import Identity


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 5, bias=False)
        self.decode = nn.Linear(3, 5, bias=False)
        self.decode.weight = self.encode.weight
        self.frozen = nn.Linear(2, 2).requires_grad_(requires_grad=False)
        self.head = nn.Linear(5, 2)


def test_trainable_parameters_once_in_their_order() -> None:
    selection = select(_Tied(), None, 0)
    assert [(layer.name, layer.offset, layer.shape) for layer in selection.layers] == [
        ("encode.weight", 0, (5, 3)),
        ("head.weight", 15, (2, 5)),
        ("head.bias", 25, (2,)),
    ]
    setting = selection.setting()
    assert setting["frozen"] == ["frozen.weight", "frozen.bias"]
    assert setting["tied"] == {"decode.weight": "encode.weight"}
    assert setting["parameter_dtypes"] == dict.fromkeys(["encode.weight", "head.weight", "head.bias"], "float32")


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.float64, "float64"), (torch.float32, "float32"), (torch.bfloat16, "float32"), (torch.float16, "float32")],
)
def test_a_row_holds_the_bits_and_only_widens(dtype: torch.dtype, stored: str) -> None:
    torch.manual_seed(1)
    linear, conv = nn.Linear(7, 3), nn.Conv2d(2, 3, 2)
    conv.weight.data = conv.weight.data.to(memory_format=torch.channels_last)
    assert not conv.weight.is_contiguous()
    model = nn.Sequential(linear, conv).to(dtype)
    with torch.no_grad():
        linear.weight[0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-7])
    selection = select(model, None, 0)
    assert selection.dtype == stored
    row = torch.zeros((2, selection.layout(1).n_parameters), dtype=getattr(torch, stored))
    Capture(selection, 2).copy(row, [selection.parameters])
    for layer, p in zip(selection.layers, selection.parameters, strict=True):
        found = row[0, layer.offset : layer.offset + layer.size].view(layer.shape)
        assert torch.equal(found.to(dtype).view(torch.uint8), p.detach().contiguous().view(torch.uint8))
        np.testing.assert_array_equal(np.signbit(found.numpy()), np.signbit(p.detach().double().numpy()))
    # The replica that is not there says so.
    assert bool(row[1].isnan().all())


def test_one_float64_parameter_widens_all() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    assert select(model, None, 0).dtype == "float64"


def test_a_probe_is_a_fixed_sample_of_every_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1000, 50), nn.Linear(50, 4))
    selection = select(model, 5000, 3)
    assert select(model, 5000, 3).setting() == selection.setting()
    assert select(model, 5000, 4).setting() != selection.setting()
    probe = selection.setting()["probe"]
    assert probe["n_parameters"] == 50_254
    counts = {name: len(index) for name, index in probe["indices"].items()}
    # Ten for every hundred, but at least a few of each layer.
    assert counts["0.weight"] == pytest.approx(4975, abs=50)
    assert [counts["0.bias"], counts["1.weight"], counts["1.bias"]] == [8, 20, 4]
    weights = probe["indices"]["0.weight"]
    # Stratified: each tenth of the layer has its tenth of the sample.
    share = np.histogram(weights, bins=10, range=(0, 50_000))[0] / len(weights)
    np.testing.assert_allclose(share, 0.1, atol=0.002)
    row = torch.zeros((1, selection.layout(0).n_parameters))
    Capture(selection, 1).copy(row, [selection.parameters])
    flat = {name: p.detach().reshape(-1) for name, p in model.named_parameters()}
    expected = torch.cat([flat[name][index] for name, index in probe["indices"].items()])
    assert torch.equal(row[0], expected)


def test_a_probe_larger_than_the_model_takes_all() -> None:
    selection = select(nn.Linear(3, 2), 100, 0)
    assert selection.setting()["probe"]["indices"] == {"weight": [0, 1, 2, 3, 4, 5], "bias": [0, 1]}


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_models_without_numbers_to_record_are_bad_calls() -> None:
    for model, words in (
        (nn.Linear(2, 2).requires_grad_(requires_grad=False), "require a gradient"),
        (nn.ReLU(), "require a gradient"),
        (nn.LazyLinear(3), "lazy weight"),
        (nn.ParameterList([torch.zeros(2, dtype=torch.complex64)]), "real parameters"),
    ):
        with pytest.raises(BadCall, match=words):
            select(model, None, 0)


class _Normed(nn.Module):
    """A buffer that is changed, one that is replaced, and one that is no state."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("table", torch.ones(9), persistent=False)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.as_tensor(self.head(self.norm(x)))
        self.mean = self.mean + y.detach().mean(0)
        return y


def test_buffers_follow_the_parameters_with_their_names_and_values() -> None:
    model = torch.compile(_Normed(), backend="eager")
    assert isinstance(model, nn.Module)
    plain = select(model, None, 0)
    assert "buffers" not in plain.setting()
    selection = select(model, None, 0, buffers=True)
    identity = Identity(model, selection)
    names = [layer.name for layer in selection.layers]
    assert names == [*(layer.name for layer in plain.layers), "mean", "norm.running_mean", "norm.running_var"]
    assert (selection.setting()["buffers"], selection.dtype) == (names[-3:], "float64")
    model.get_submodule("_orig_mod")(torch.randn(8, 3))
    assert identity.changes() == []
    row = torch.zeros((1, selection.layout(0).n_parameters), dtype=torch.float64)
    Capture(selection, 1).copy(row, [identity.selection.parameters])
    for layer, tensor in zip(selection.layers, selection.of(model), strict=True):
        assert torch.equal(row[0, layer.offset : layer.offset + layer.size].view(layer.shape), tensor.double())
    assert bool(row[0, selection.layers[-3].offset :].all())
    model.get_submodule("_orig_mod.norm").running_mean = torch.zeros(5)
    assert identity.changes() == ["norm.running_mean was 3 float32 on cpu and is 5 float32 on cpu"]
    # A probe takes some of each.
    assert [layer.name for layer in select(model, 4, 0, buffers=True).layers] == names
