"""Sources of the config, and the sentence that each mistake gets."""

from pathlib import Path

import pytest
import yaml

from streamscalar.config import Config, cost, load_config, plan_runs, preset_names
from streamscalar.config.loading import commented_yaml
from streamscalar.errors import BadCall


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("training: {n_steps: 10, n_threads: 1, learning_rate: 3}\nexperiment: {seed: 1}")
    config = load_config(
        file,
        environment={
            "STREAMSCALAR_TRAINING__N_STEPS": "20",
            "STREAMSCALAR_EXPERIMENT__SEED": "2",
            "STREAMSCALAR_X": "y",
        },
        settings=["training.n_steps=30"],
        overrides={"training": {"n_threads": 2}},
    )
    assert config.training.n_steps == 30
    assert config.experiment.seed == 2
    assert config.training.n_threads == 2
    assert config.training.learning_rate == (3.0,)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.learning_rat=1", ["training.learning_rat", "is not a known key", "Did you mean learning_rate?"]),
        ("trainin.n_steps=1", ["trainin", "is not a known key", "Did you mean training?"]),
        ("training.learning_rate=-1", ["training.learning_rate", "greater than 0", "-1"]),
        ("training.learning_rate=[1, -2]", ["training.learning_rate", "greater than 0", "-2"]),
        ("training.learning_rate=[1, 1]", ["training.learning_rate", "differ", "[1, 1]"]),
        ("training.n_steps=abc", ["training.n_steps", "integer", "'abc'"]),
        ("perturbation.n_perturbed=0", ["perturbation.n_perturbed", "must be at least 1", "control"]),
        ("task.name=idx", ["task.path", "IDX files"]),
        ("recording.every_n_steps=1000", ["recording.every_n_steps", "at most training.n_steps"]),
        ("experiment.name=../x", ["experiment.name", "'../x'"]),
        ("training=3", ["--set training", "a section and a key"]),
        ("training.n_steps", ["--set", "section.key=value"]),
    ],
)
def test_each_mistake_gets_one_sentence(setting: str, words: list[str]) -> None:
    with pytest.raises(BadCall) as caught:
        load_config(preset="digits-sweep", settings=[setting], environment={})
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_missing_or_broken_file_is_a_bad_call(tmp_path: Path) -> None:
    with pytest.raises(BadCall, match="readable YAML or JSON"):
        load_config(tmp_path / "nothing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(BadCall, match="valid YAML"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(BadCall, match=r"Did you mean mnist\?"):
        load_config(preset="mnis")


@pytest.mark.parametrize("name", preset_names())
def test_a_commented_preset_reads_back_as_itself(name: str) -> None:
    config = load_config(preset=name, environment={})
    assert Config.model_validate(yaml.safe_load(commented_yaml(config))) == config


def test_runs_start_fairly_and_share_initial_conditions() -> None:
    config = load_config({"training": {"learning_rate": [1, 2.5]}, "experiment": {"n_initial_conditions": 2}})
    plans = plan_runs(config)
    assert [plan.run_id for plan in plans] == ["lr1_ic0", "lr2.5_ic0", "lr1_ic1", "lr2.5_ic1"]
    assert plans[0].seed == plans[1].seed != plans[2].seed
    assert all(plan.seed < 2**53 for plan in plans)


def test_cost_counts_rows_and_bytes() -> None:
    config = load_config(
        {
            "training": {"n_steps": 100, "learning_rate": [1, 2]},
            "recording": {"every_n_steps": 10, "retain": "none"},
            "perturbation": {"n_perturbed": 2},
            "experiment": {"n_initial_conditions": 3},
        }
    )
    price = cost(config, n_parameters=1000, segment_rows=8, n_concurrent=1)
    assert (price.n_runs, price.n_rows, price.row_bytes) == (6, 66, 4 * 1000 * 8)
    assert (price.kept_bytes, price.peak_bytes) == (0, 2 * 11 * 32000)
