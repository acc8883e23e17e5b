"""Workers of Ray Train and trials of Ray Tune record themselves, without a name or a place being given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.train
import ray.tune
from ray.train.torch import TorchTrainer, prepare_model

import streamscalar as ss
from streamscalar.errors import BadCall
from streamscalar.integrations.ray import track

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def train(config: dict[str, Any]) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    wrapped = prepare_model(model) if "n_workers" in config else model
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=config["learning_rate"])
    run = track(wrapped, optimizer=optimizer, config=config, every_n_steps=1)
    for _ in range(5):
        optimizer.zero_grad()
        wrapped(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
        run.step()
    summary = run.finish()
    final = nn.utils.parameters_to_vector(model.parameters()).tolist()
    found = {"n_recorded": summary.n_recorded, "final": final}
    (ray.train if "n_workers" in config else ray.tune).report(found)


def test_the_first_worker_of_a_training_records(local_ray: None, tmp_path: Path) -> None:
    trainer = TorchTrainer(
        train,
        train_loop_config={"learning_rate": 0.1, "n_workers": 2},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(name="digits", storage_path=str(tmp_path)),
    )
    trainer.fit()
    experiment = ss.open(tmp_path / "digits/streamscalar-runs/tracked")
    assert list(experiment.runs) == ["digits"]
    run = experiment.run("digits")
    assert run.steps().tolist() == [1, 2, 3, 4, 5]
    assert [layer.name for layer in run.layout.layers] == ["weight", "bias"]
    assert run.setting["learning_rate"] == 0.1


def test_trials_share_a_store_under_their_names(local_ray: None, tmp_path: Path) -> None:
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(train, {"CPU": 0.5}),
        param_space={"learning_rate": ray.tune.grid_search([0.1, 0.2])},
        run_config=ray.tune.RunConfig(name="sweep", storage_path=str(tmp_path)),
    )
    results = tuner.fit()
    assert not results.errors
    experiment = ss.open(tmp_path / "sweep/streamscalar-runs/tracked")
    finals = {}
    for name in experiment.runs:
        run = experiment.run(name)
        finals[run.setting["learning_rate"]] = run.weights(5)[0]
    for result in (results[0], results[1]):
        assert result.metrics is not None
        assert result.config is not None
        final = np.array(result.metrics["final"], np.float32)
        np.testing.assert_array_equal(finals[result.config["learning_rate"]], final)


def test_elsewhere_it_is_refused() -> None:
    with pytest.raises(BadCall, match="track: must be called in a worker of Ray Train or a trial of Ray Tune"):
        track(None)  # type: ignore[arg-type]  # not reached
