"""Tasks and networks of a user's own, found by name."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from streamscalar.config.models import ModelSection, TaskSection
from streamscalar.errors import BadCall
from streamscalar.training.networks import as_images, network
from streamscalar.training.perceptron import Perceptron
from streamscalar.training.problem import Product
from streamscalar.training.setup import build_problem
from streamscalar.training.tasks import LoadedTask, cross_entropy, load_task, share_right, squared_error
from streamscalar.training.user_functions import find_own
from tests.unit.training import own_networks

CPU = torch.device("cpu")
HERE = "tests.unit.training.own_networks"


def own(name: str, **settings: object) -> LoadedTask:
    return load_task(TaskSection.model_validate({"name": f"{HERE}:{name}", **settings}))


def test_classes_of_ones_own_are_a_classification() -> None:
    task, blobs = own("blobs"), own_networks.blobs()
    np.testing.assert_array_equal(task.train.x.numpy(), blobs.x_train)
    assert task.test is not None
    np.testing.assert_array_equal(task.test.y.numpy(), blobs.y_test)
    assert (task.n_outputs, task.loss, task.accuracy) == (3, cross_entropy, share_right)
    assert task.output_shape == (3,)


def test_fewer_samples_leave_the_classes_as_they_were() -> None:
    task = own("blobs", n_train=2, n_test=1)
    assert task.test is not None
    assert (len(task.train), len(task.test), task.n_outputs) == (2, 1, 3)
    with pytest.raises(BadCall, match=r"task.n_train: must be at most 60.*got 61"):
        own("blobs", n_train=61)


def test_values_are_a_regression_without_accuracy(tmp_path: Path) -> None:
    (tmp_path / "frequency").write_text("5")
    task = own("waves", path=str(tmp_path / "frequency"))
    np.testing.assert_allclose(task.train.y[:, None], torch.sin(5 * task.train.x))
    assert (task.n_outputs, task.loss, task.accuracy, task.test) == (1, squared_error, None, None)


def test_squared_error_does_not_broadcast() -> None:
    targets = torch.tensor([1.0, 2.0, 4.0])
    assert squared_error(targets[:, None] + 2, targets).item() == pytest.approx(4)
    with pytest.raises(RuntimeError):
        squared_error(torch.zeros(3, 2), targets)


def test_tokens_stay_integers_and_count_every_place() -> None:
    task = own("sentences")
    assert task.train.x.dtype == torch.int64
    assert task.output_shape == (5, 7)
    outputs = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    y = task.train.y[:4]
    assert cross_entropy(outputs, y) == torch.nn.functional.cross_entropy(outputs.movedim(2, 1), y)
    assert share_right(outputs, y) == (outputs.argmax(2) == y).float().mean()


@pytest.mark.parametrize("model", [ModelSection(widths=(4,)), ModelSection(name="cnn", channels=(2, 2))])
def test_built_in_networks_take_integer_inputs_as_numbers(model: ModelSection) -> None:
    problem = build_problem(TaskSection(name=f"{HERE}:counts"), model, torch.float32, CPU)
    row = problem.initial(np.random.default_rng(0)).astype("f4")
    found = problem.evaluate(torch.tensor(row)[None], Product.SEPARATE, with_accuracy=False)
    assert float(found.gradient.abs().max()) > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nowhere.at_all:load",
            r"must name a module that can be imported; got .*ModuleNotFoundError: No module named 'nowhere'\)",
        ),
        (f"{HERE}:missing", "must name a function of .*no such name there"),
        (f"{HERE}:NOT_A_FUNCTION", "must name a function of .*a value of type int"),
        (f"{HERE}:no_task", "must return a streamscalar.training.tasks.Task; got int"),
        (f"{HERE}:broken_task", r"must run without an exception; .*ValueError: no such table, own_networks.py line"),
        (f"{HERE}:lopsided", "must return as many x_train as y_train, at least one; got 3 and 4"),
    ],
)
def test_each_mistaken_task_has_its_sentence(name: str, words: str) -> None:
    with pytest.raises(BadCall, match=f"^task.name.*{words}") as caught:
        load_task(TaskSection(name=name))
    assert name in str(caught.value)


def test_a_path_is_refused_by_a_function_without_an_argument() -> None:
    with pytest.raises(BadCall, match=r"task.name: must accept '/x' as arguments; got .*blobs \(too many"):
        own("blobs", path="/x")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:net", "must name a module that can be imported"),
        (f"{HERE}:blobs", "must return a torch.nn.Module; got Task"),
        (f"{HERE}:lone", "must name a function of"),
        ("builtins:len", "must accept .* as arguments|must run without an exception"),
    ],
)
def test_each_mistaken_model_has_its_sentence(name: str, words: str) -> None:
    with pytest.raises(BadCall, match=f"^model.name.*({words})"):
        build_problem(TaskSection(n_train=20), ModelSection(name=name), torch.float64, CPU)


def test_a_module_beside_the_command_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_the_command.py").write_text(
        "from torch import nn\n\ndef net(input_shape, **rest):\n"
        "    return nn.Linear(input_shape[0], rest['n_outputs'] + 0 * rest['n_inputs'])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    build = network(ModelSection(name="beside_the_command:net"), own("blobs"))
    assert [tuple(p.shape) for p in build().parameters()] == [(3, 2), (3,)]
    assert find_own("beside_the_command:net", "model.name").__name__ == "net"


def test_a_module_that_does_not_parse_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "does_not_parse.py").write_text("def net(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(BadCall, match=r"model.name: must name a module that can be imported; got .*SyntaxError"):
        find_own("does_not_parse:net", "model.name")


@pytest.mark.parametrize("shape", [(60,), (9,), (4, 5), (3, 4, 5), (), (2, 3, 4, 4)])
def test_what_is_no_image_is_refused_by_the_cnn(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadCall, match=r"model.name: must be mlp.*got cnn for samples of shape"):
        as_images(shape)


def test_images_have_channels() -> None:
    assert [as_images(shape) for shape in ((16,), (28, 28), (3, 32, 32))] == [(1, 4, 4), (1, 28, 28), (3, 32, 32)]


def test_a_cnn_has_the_layers_of_the_config() -> None:
    problem = build_problem(TaskSection(n_train=20), ModelSection(name="cnn", channels=(3, 5)), torch.float64, CPU)
    assert [layer.shape for layer in problem.layers] == [(3, 1, 3, 3), (3,), (5, 3, 3, 3), (5,), (10, 20), (10,)]
    assert not isinstance(problem, Perceptron)
