"""The whole way of a row in one process, against oracles."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamscalar
from streamscalar import runtime
from streamscalar.config import plan_packs
from streamscalar.errors import BadCall
from streamscalar.numerics.embedding.online import OnlineCMDS
from streamscalar.protocol.progress import Snapshot
from streamscalar.store import Store, verify
from streamscalar.types import Status
from streamscalar.workers.embedder import Embedder
from streamscalar.workers.trainer import Trainer
from tests.conftest import Truth, small_config
from tests.oracles.classical import batch_cmds


@pytest.fixture
def experiment(truth: Truth) -> streamscalar.Experiment:
    return truth(small_config(Path("unused")))


def fitted(run: streamscalar.Run) -> NDArray[Any]:
    rows = np.stack([run.weights(int(step)) for step in run.steps()])
    return rows[:, [r for r in range(run.layout.n_replicas) if r != run.layout.control]]


def test_the_control_stays_exactly_at_the_reference(experiment: streamscalar.Experiment) -> None:
    for run in experiment.runs.values():
        for distance in ("l1", "rms", "random", "embedded"):
            values = run.divergence(distance).values
            assert (values[:, -1] == 0).all()
            assert (values[:, 1:-1] > 0).all()


def test_divergence_is_that_of_the_stored_weights(experiment: streamscalar.Experiment) -> None:
    run = experiment.run("lr5_ic1")
    rows = np.stack([run.weights(int(step)) for step in run.steps()])
    apart = rows - rows[:, :1]
    np.testing.assert_allclose(run.divergence("l1").values, np.abs(apart).sum(2), rtol=1e-12)
    np.testing.assert_allclose(run.divergence("rms").values, np.sqrt((apart**2).mean(2)), rtol=1e-12)


def test_the_exact_solution_is_the_batch_one(experiment: streamscalar.Experiment) -> None:
    for run in experiment.runs.values():
        rows = fitted(run)
        batch = batch_cmds(rows.reshape(-1, rows.shape[-1]), 16)
        exact = run.embedding().values[:, :-1].reshape(-1)
        sign = np.sign(exact @ batch.scores[:, 0])
        scale = np.abs(batch.scores[:, 0]).max()
        np.testing.assert_allclose(exact * sign, batch.scores[:, 0], atol=1e-9 * scale)
        assert run.exact_info()["residual"] <= 1e-9
        assert run.exact_info()["n_passes"] >= 2


def test_online_follows_batch_after_each_block(experiment: streamscalar.Experiment) -> None:
    for run in experiment.runs.values():
        rows = fitted(run)
        online = OnlineCMDS(rows.shape[-1], 16)
        for stop in range(8, len(rows) + 1, 8):
            online.update(rows[stop - 8 : stop].reshape(-1, rows.shape[-1]))
            batch = batch_cmds(rows[:stop].reshape(-1, rows.shape[-1]), 16)
            overlap = online.components[:2] @ batch.components[:2].T
            if batch.eigengap >= 0.1:
                assert abs(overlap[0, 0]) >= 0.9999
                ours, theirs = online.project(rows[:stop])[..., 0].ravel(), batch.scores[:, 0]
                assert abs(np.corrcoef(ours, theirs)[0, 1]) >= 0.9999
            else:
                assert np.linalg.svd(overlap)[1].min() >= 0.9999


def test_weights_read_back_follow_gradient_descent_and_verify(experiment: streamscalar.Experiment) -> None:
    run = experiment.run("lr1_ic0")
    np.testing.assert_array_equal(
        run.deltas(3, 20), np.stack([run.weights(t) - run.weights(t - 1) for t in range(4, 21)])
    )
    assert list(verify(Store.open(experiment.store.path))) == []


def test_the_same_config_continues_to_the_same_digest(experiment: streamscalar.Experiment, tmp_path: Path) -> None:
    for _ in range(2):
        assert runtime.run(small_config(tmp_path / "again")).digest() == experiment.digest()
    other = runtime.run(small_config(tmp_path / "other", experiment={"seed": 1}))
    assert other.digest() != experiment.digest()


def test_analysis_document_has_the_agreed_shape(experiment: streamscalar.Experiment) -> None:
    document = json.loads(json.dumps(experiment.analyze().to_json(), allow_nan=False))
    assert document["schema"] == 1
    assert [setting["learning_rate"] for setting in document["settings"]] == [1, 5]
    for setting in document["settings"]:
        assert setting["n_runs"] == 2
        for name in ("ftle", "nmle", "nmle_embedded", "nmle_random_direction", "positive_fraction"):
            assert {"value", "low", "high", "confidence", "n", "status", "method", "message"} <= set(setting[name])


@pytest.mark.parametrize(("curvature", "learning_rate"), [(1.0, 0.5), (1.0, 1.9), (0.2, 0.05), (1.0, 2.3), (3.0, 1.0)])
def test_ftle_of_a_quadratic_is_ln_of_its_factor(tmp_path: Path, curvature: float, learning_rate: float) -> None:
    experiment = runtime.run(
        {
            "task": {"name": "quadratic", "curvatures": [curvature] * 20},
            "training": {"learning_rate": learning_rate, "n_steps": 60},
            "perturbation": {"epsilon": 1e-3},
            "experiment": {"n_initial_conditions": 1},
            "store": {"url": str(tmp_path / "store")},
            "cluster": {"executor": "inline"},
        }
    )
    ftle = next(iter(experiment.runs.values())).estimates().estimates["ftle"]
    assert ftle.status is Status.OK
    assert ftle.value == pytest.approx(math.log(abs(1 - learning_rate * curvature)), abs=1e-9)


def test_the_digest_does_not_depend_on_the_wording_of_messages(
    experiment: streamscalar.Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = experiment.digest()
    monkeypatch.setattr("streamscalar.types.ADVICE", dict.fromkeys(Status, "Other words."))
    reworded = streamscalar.open(experiment.store.url)
    assert "Other words." in json.dumps(reworded.analyze().to_json())
    assert reworded.digest() == before


def test_retention_drops_weights_and_keeps_the_digest(experiment: streamscalar.Experiment, tmp_path: Path) -> None:
    dropped = runtime.run(small_config(tmp_path / "dropped", recording={"retain": "none"}))
    assert dropped.digest() == experiment.digest()
    with pytest.raises(BadCall, match="no longer kept"):
        dropped.run("lr1_ic0").weights(0)


def test_a_diverging_run_is_recorded_and_labelled(tmp_path: Path) -> None:
    experiment = runtime.run(
        small_config(tmp_path / "store", training={"learning_rate": 1e100}, model={"activation": "identity"})
    )
    (setting,) = experiment.analyze().settings
    assert setting.regime == "diverged"
    last = next(iter(experiment.runs.values())).weights(40)
    assert not np.isfinite(last).all()


def test_runs_trained_in_a_pack_are_those_trained_alone(experiment: streamscalar.Experiment, tmp_path: Path) -> None:
    packed = runtime.run(small_config(tmp_path / "packed", training={"pack_size": 3}))
    assert packed.runs.keys() == experiment.runs.keys()
    for name, run in packed.runs.items():
        alone = experiment.run(name)
        np.testing.assert_array_equal(run.weights(0), alone.weights(0))
        np.testing.assert_allclose(run.weights(3), alone.weights(3), rtol=1e-9)
        assert (run.divergence("l1").values[:, -1] == 0).all()


def test_a_ladder_runs_every_rung_from_one_start(tmp_path: Path) -> None:
    ladder = {"epsilon": [1e-10, 1e-6]}
    experiment = runtime.run(small_config(tmp_path / "store", perturbation=ladder, training={"learning_rate": 1}))
    low, high = experiment.run("lr1_eps1e-10_ic0"), experiment.run("lr1_eps1e-06_ic0")
    np.testing.assert_array_equal(low.weights(0)[0], high.weights(0)[0])
    near, far = ((run.weights(0) - run.weights(0)[0])[1:-1] for run in (low, high))
    np.testing.assert_allclose(far, 1e4 * near, atol=1e-11)
    assert [setting.epsilon for setting in experiment.analyze().settings] == [1e-10, 1e-6]


@pytest.mark.parametrize("training", [{"optimizer": "adam", "learning_rate": 0.05}, {"momentum": 0.8}])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path: Path, training: dict[str, Any]) -> None:
    chosen: dict[str, Any] = {"training": {"n_steps": 80, "n_tangents": 2, "pack_size": 3, **training}}
    chosen["experiment"] = {"n_initial_conditions": 1}
    whole = runtime.run(small_config(tmp_path / "whole", **chosen))
    config = small_config(tmp_path / "parts", **chosen)
    Store.create(config.store_path, config.identity(), {})
    calls = iter(range(10**6))
    outcome = Trainer(config.store_path, config).train(plan_packs(config)[0], lambda *_: None, lambda: next(calls) > 69)
    assert outcome == "stopped"
    assert runtime.run(config).digest() == whole.digest()
    growth = whole.run("lr1_ic0" if "momentum" in training else "lr0.05_ic0").metrics("tangent_1").values
    assert growth[0].tolist() == [0.0] * growth.shape[1]
    assert (growth[1:, 0] != 0).all()
    assert (growth[:, 0] == growth[:, -1]).all()


def test_estimates_read_mid_run_are_those_of_the_same_row_afterwards(tmp_path: Path) -> None:
    config = small_config(tmp_path / "store", training={"n_tangents": 1, "learning_rate": 5})
    seen: dict[tuple[str, int], dict[str, Any]] = {}

    def watch(snapshot: Snapshot) -> None:
        del snapshot
        for name, run in streamscalar.open(config.store_path).runs.items():
            found = run.estimates()
            if not found.is_complete:
                seen[name, found.n_rows] = found.to_json()

    experiment = runtime.run(config, on_snapshot=watch)
    assert {rows for _, rows in seen} >= {8, 16, 24, 32, 40}
    for (name, n_rows), then in seen.items():
        assert experiment.run(name).estimates(n_rows).to_json() == then


def test_an_embedder_that_starts_again_at_any_block_goes_on_with_the_same_bits(
    experiment: streamscalar.Experiment, tmp_path: Path
) -> None:
    config = small_config(tmp_path / "store")
    Store.create(config.store_path, config.identity(), {})

    def sink(run_id: str, first_row: int, weights: NDArray[Any]) -> None:
        Embedder(config.store_path, config.embedding).embed(run_id, first_row, weights)

    for pack in plan_packs(config):
        Trainer(config.store_path, config).train(pack, sink, lambda: False)
    assert runtime.run(config).digest() == experiment.digest()
