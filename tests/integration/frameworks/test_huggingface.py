"""The callback on a real Trainer: accumulation, clipping, warm-up, evaluation, early stop, resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import streamscalar as ss
from streamscalar.errors import BadCall
from streamscalar.integrations.huggingface import StreamscalarCallback

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Net(nn.Module):
    """A classifier that returns its loss, as models of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {"logits": self.layers(x)}
        return found if labels is None else {"loss": functional.cross_entropy(found["logits"], labels), **found}


class Data(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Samples whose class is their largest number."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(n, 8, generator=generator)
        self.y = self.x[:, :3].argmax(1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Weights(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Keeps the weights after each update."""

    def __init__(self) -> None:
        self.seen: dict[int, np.ndarray[Any, Any]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control
        flat = nn.utils.parameters_to_vector(kwargs["model"].parameters())
        self.seen[state.global_step] = flat.detach().numpy().copy()


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def trained(folder: Path, *callbacks: TrainerCallback, resume: bool = False, **arguments: Any) -> Weights:
    weights = Weights()
    options = {
        "output_dir": str(folder / "out"),
        "max_steps": 24,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.05,
        "learning_rate": 0.01,
        "warmup_steps": 10,
        "logging_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 8,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        "save_strategy": "no",
        **arguments,
    }
    trainer = Trainer(
        Net(),
        TrainingArguments(**options),
        train_dataset=Data(256),
        eval_dataset=Data(64),
        compute_metrics=accuracy,
        callbacks=[weights, *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return weights


def test_every_update_is_recorded_and_values_belong_to_their_step(tmp_path: Path) -> None:
    callback = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1)
    weights = trained(tmp_path, callback)
    plain = trained(tmp_path)
    assert callback.summary is not None
    assert dict(callback.summary.warnings) == {}
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == list(range(1, 25))
    for step, seen in weights.seen.items():
        np.testing.assert_array_equal(stored.weights(step)[0], seen)
        np.testing.assert_array_equal(plain.seen[step], seen, err_msg="recording changes no bit")
    known = {
        name: [int(s) for s, v in zip(stored.steps(), stored.metrics(name).values[:, 0], strict=True) if v == v]
        for name in ("loss", "eval_loss", "eval_accuracy")
    }
    assert known == {"loss": [4, 8, 12, 16, 20, 24], "eval_loss": [8, 16, 24], "eval_accuracy": [8, 16, 24]}
    assert stored.setting["learning_rate"] == 0.01
    assert stored.setting["config"]["gradient_accumulation_steps"] == 2
    rates = stored.metrics("learning_rate").values[:, 0]
    np.testing.assert_allclose(rates[:11], np.arange(11) * 0.001, err_msg="the warm-up: the rate of each update")
    assert stored.is_complete
    assert not stored.estimates().has_diverged


def test_an_early_stop_is_complete_and_a_resumed_training_goes_on(tmp_path: Path) -> None:
    stop = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=100.0)
    first = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1)
    saves: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 8,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    }
    trained(tmp_path, first, stop, **saves)
    assert ss.open(tmp_path / "s").run("a").steps().tolist() == list(range(1, 17))
    assert ss.open(tmp_path / "s").run("a").is_complete
    second = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1, resume="allow")
    weights = trained(tmp_path, second, resume=True, **saves)
    assert second.summary is not None
    stored = ss.open(tmp_path / "s").run(second.summary.run_id)
    assert stored.steps().tolist() == list(range(17, 25))
    np.testing.assert_array_equal(stored.weights(24)[0], weights.seen[24])


def test_a_shadow_of_a_trainer_is_refused() -> None:
    with pytest.raises(BadCall, match="shadow: must be left out with a Trainer"):
        StreamscalarCallback(shadow=True)
