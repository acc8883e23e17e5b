"""Other ways to embed: chosen in the config, taken afterwards from the weights, joint over runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import streamscalar
from streamscalar import runtime
from streamscalar.errors import BadCall
from tests.conftest import Truth, small_config
from tests.oracles.classical import batch_cmds


@pytest.fixture
def experiment(truth: Truth) -> streamscalar.Experiment:
    return truth(small_config(Path("unused")))


def snapshots(run: streamscalar.Run) -> NDArray[Any]:
    """Return (N, 1 + M, P), without the control."""
    return np.stack([run.weights(int(step))[:-1] for step in run.steps()])


def same_up_to_sign(a: NDArray[Any], b: NDArray[Any]) -> None:
    sign = np.sign((a * b).sum())
    np.testing.assert_allclose(a * sign, b, atol=1e-9 * np.abs(b).max())


def test_principal_components_of_distances_to_all_snapshots(experiment: streamscalar.Experiment) -> None:
    run = experiment.run("lr5_ic0")
    rows = snapshots(run).reshape(-1, run.layout.n_parameters)
    apart = cdist(rows, rows, "cityblock")
    left, sigma, _ = np.linalg.svd(apart - apart.mean(axis=0), full_matrices=False)
    found = run.embed("distance_pca", "l1", n_landmarks=len(rows))
    same_up_to_sign(found.scores[:, :-1, 0].ravel(), left[:, 0] * sigma[0] / np.sqrt(len(rows)))
    assert (found.scores[:, -1] == found.scores[:, 0]).all()
    few = run.embed("distance_pca", "l1", n_landmarks=32).scores[:, :-1, 0].ravel()
    assert abs(np.corrcoef(few, left[:, 0])[0, 1]) > 0.999


def test_landmark_scaling_with_every_snapshot_is_classical_scaling(experiment: streamscalar.Experiment) -> None:
    run = experiment.run("lr5_ic1")
    found = run.embed("landmark", n_landmarks=10**6)
    same_up_to_sign(found.scores[:, :-1, 0], run.embedding().values[:, :-1])
    assert run.embed("smacof", "l1").info["stress"] < run.embed("cmds", "l1").info["stress"]


def test_layer_distances_let_every_layer_count_alike(experiment: streamscalar.Experiment) -> None:
    run = experiment.run("lr5_ic1")
    rows = snapshots(run).reshape(-1, run.layout.n_parameters)
    scaled = np.concatenate(
        [
            rows[:, layer.offset : layer.offset + layer.size] * np.sqrt(rows.shape[1] / layer.size / 4)
            for layer in run.layout.layers
        ],
        axis=1,
    )
    same_up_to_sign(run.embed("cmds", "layer").scores[:, :-1, 0].ravel(), batch_cmds(scaled, 1).scores[:, 0])


def test_the_config_chooses_and_resumes(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store", embedding={"method": "distance_pca", "distance": "l1", "n_landmarks": 24})
    experiment = runtime.run(config)
    for run in experiment.runs.values():
        np.testing.assert_array_equal(
            run.embedding().values, run.embed("distance_pca", "l1", n_landmarks=24).scores[..., 0]
        )
        assert run.exact_info()["method"] == "distance_pca"
        assert (run.divergence("embedded").values[:, -1] == 0).all()
        assert run.estimates().estimates["explained_variance"].is_ok
    assert runtime.run(config).digest() == experiment.digest()


def test_a_joint_embedding_is_classical_scaling_of_all_snapshots(experiment: streamscalar.Experiment) -> None:
    names = ["lr1_ic0", "lr5_ic0"]
    rows = np.concatenate([snapshots(experiment.run(name)) for name in names], axis=1)
    batch = batch_cmds(rows.reshape(-1, rows.shape[2]), 1).scores[:, 0].reshape(rows.shape[:2])
    joint = experiment.joint_embedding(names)
    found = np.concatenate([joint[name].values[:, :-1] for name in names], axis=1)
    same_up_to_sign(found, batch)
    with pytest.raises(BadCall, match="run"):
        experiment.joint_embedding([])


def test_views_along_a_run(experiment: streamscalar.Experiment) -> None:
    run = experiment.run("lr5_ic0")
    local = run.local_exponents(width=8)
    assert local.is_ok
    assert len(local.values) == 34
    assert run.growth_rates().status


def test_dropped_weights_are_told(tmp_path: Path) -> None:
    dropped = runtime.run(small_config(tmp_path / "store", recording={"retain": "none"}))
    with pytest.raises(BadCall, match="no longer kept"):
        dropped.run("lr1_ic0").embed("smacof")


def test_monitoring_without_replicas(tmp_path: Path) -> None:
    alone = {"n_perturbed": 0, "control": False}
    experiment = runtime.run(small_config(tmp_path / "store", perturbation=alone, embedding={"method": "smacof"}))
    (first, _) = experiment.analyze().settings
    assert first.estimates["nmle"].status == "too_few_replicas"
    assert first.estimates["explained_variance"].status == "too_few_initial_conditions"
    assert first.estimates["recurrence_exponent"].message
