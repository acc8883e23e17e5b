"""Sections of task, model and training: what they take, and the sentence of each mistake."""

import pytest
from pydantic import ValidationError

from streamscalar.config import Config, load_config
from streamscalar.config.models import ModelSection, is_own
from streamscalar.errors import BadCall

NAMES = "digits, iris, idx, quadratic, tracked"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my:net", True),
        ("my.nets:Net", True),
        ("mlp", False),
        ("my.nets", False),
        ("my nets:net", False),
        (":net", False),
        ("my:", False),
        ("my..nets:net", False),
        ("my:net.inner", False),
    ],
)
def test_names_of_ones_own_have_a_module_and_a_function(name: str, expected: bool) -> None:
    assert is_own(name) is expected


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("task.name=foo", f"task.name: must be one of {NAMES}, or your own package.module:function; got 'foo'."),
        ("model.name=cn", "model.name: must be one of mlp, cnn, or your own package.module:function; got 'cn'."),
        ("training.batch_size=0", "training.batch_size: must be full, or a number of samples from 1; got 0."),
        ("training.batch_size=all", "training.batch_size: must be full, or a number of samples from 1; got 'all'."),
        ("training.batch_size=true", "training.batch_size: must be full, or a number of samples from 1; got True."),
        ("training.batch_size=2.5", "training.batch_size: must be full, or a number of samples from 1; got 2.5."),
        ("task.path=x", "task.path: only idx and your own function read a path; task.name is digits."),
        ("training.weight_decay=-1", "training.weight_decay: must be greater than or equal to 0; got -1."),
    ],
)
def test_each_mistake_gets_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(BadCall) as caught:
        load_config({}, settings=[setting], environment={})
    assert str(caught.value) == sentence


def test_the_initialisation_follows_the_model_where_it_is_not_given() -> None:
    assert ModelSection().init == "normal"
    assert ModelSection(name="cnn").init == "torch"
    assert ModelSection(name="my.nets:net").init == "torch"
    assert ModelSection(name="cnn", init="normal").init == "normal"


def test_a_config_comes_back_from_its_identity() -> None:
    sections = {
        "task": {"name": "my.tasks:load", "path": "/data/my.npz"},
        "model": {"name": "my.nets:net", "init": "normal"},
        "training": {"batch_size": 32, "weight_decay": 0.1},
    }
    config = load_config(sections, environment={})
    assert config.training.batch_size == 32
    assert Config.from_identity(config.identity(), "somewhere").identity() == config.identity()


def test_channels_are_two() -> None:
    with pytest.raises(ValidationError):
        ModelSection(channels=(4,))
