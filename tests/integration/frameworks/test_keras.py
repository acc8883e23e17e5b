"""The callback in a real `fit` of Keras on torch: accumulation, schedules, frozen weights, validation, two fits."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"
import keras

import streamscalar as ss
from streamscalar.errors import BadCall
from streamscalar.integrations.keras import StreamscalarCallback

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Weights(keras.callbacks.Callback):  # type: ignore[misc]  # its types are not read
    """Keeps the trained weights after each update."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, np.ndarray[Any, Any]] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        values = [np.asarray(v).ravel() for v in self.model.trainable_variables]
        self.seen[int(self.model.optimizer.iterations)] = np.concatenate(values)


def built(rate: Any) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((8,)), layers.Dense(16, name="first"), layers.BatchNormalization(), layers.Dropout(0.1)]
    )
    model.add(layers.Dense(4, name="frozen", trainable=False))
    model.add(layers.Dense(3, name="last"))
    optimizer = keras.optimizers.Adam(rate, clipnorm=0.5, gradient_accumulation_steps=2)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def fit(model: Any, *callbacks: Any) -> Weights:
    weights = Weights()
    x = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    y = x[:, :3].argmax(1)
    model.fit(x, y, 8, 2, verbose=0, callbacks=[weights, *callbacks], validation_data=(x[:16], y[:16]))
    return weights


def test_every_update_is_recorded_and_values_belong_to_their_step(tmp_path: Path) -> None:
    rate = keras.optimizers.schedules.CosineDecay(0.0, 100, warmup_target=0.01, warmup_steps=8)
    callback = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1, resume="allow")
    model = built(rate)
    weights = fit(model, callback)
    plain = fit(built(rate))
    assert callback.summary is not None
    assert dict(callback.summary.warnings) == {}
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == list(range(1, 9)), "8 batches in an epoch, two to an update"
    for step in range(1, 9):
        np.testing.assert_array_equal(stored.weights(step)[0], weights.seen[step])
        np.testing.assert_array_equal(plain.seen[step], weights.seen[step], err_msg="recording changes no bit")
    names = [layer.name for layer in stored.layout.layers]
    assert names[:2] == ["sequential/first/kernel", "sequential/first/bias"]
    assert "sequential/frozen/kernel" in stored.setting["frozen"]
    assert "sequential/batch_normalization/moving_mean" in stored.setting["frozen"]
    val = stored.metrics("val_loss").values[:, 0]
    assert np.flatnonzero(np.isfinite(val)).tolist() == [3, 7]
    assert np.isfinite(stored.metrics("loss").values[:, 0]).all()
    assert stored.setting["learning_rate"] == 0.01, "that which the schedule warms up to"
    assert stored.is_complete
    rates = stored.metrics("learning_rate").values[:, 0]
    np.testing.assert_allclose(rates, [rate(2 * step - 1) for step in range(1, 9)], rtol=1e-6)
    more = fit(model, callback)
    assert callback.summary.run_id == "a-2", "a child of the run, which is finished"
    child = ss.open(tmp_path / "s").run("a-2")
    assert child.steps().tolist() == list(range(9, 17))
    np.testing.assert_array_equal(child.weights(16)[0], more.seen[16])


def test_a_callback_that_sets_the_rate_is_seen_at_once(tmp_path: Path) -> None:
    callback = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1)
    model = built(0.5)

    class Lower(keras.callbacks.Callback):  # type: ignore[misc]  # its types are not read
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            del logs
            model.optimizer.learning_rate = 1 / (1 + batch)

    fit(model, callback, Lower())
    rates = ss.open(tmp_path / "s").run("a").metrics("learning_rate").values[:, 0]
    np.testing.assert_allclose(rates, [1 / 2, 1 / 4, 1 / 6, 1 / 8] * 2, rtol=1e-6)


def test_a_shadow_is_refused() -> None:
    with pytest.raises(BadCall, match="shadow: must be left out with fit"):
        StreamscalarCallback(shadow=True)


def test_a_backend_that_is_not_installed_is_named_with_the_variable_that_sets_it() -> None:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", "import streamscalar.integrations.keras"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    said = (
        "ModuleNotFoundError: Keras needs tensorflow for its backend. Set KERAS_BACKEND=torch before keras is imported"
    )
    assert ended.stderr.splitlines()[-1] == said
