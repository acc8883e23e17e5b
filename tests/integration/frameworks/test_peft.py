"""Adapters of PEFT: in a trainer of TRL, which is a Trainer of Transformers, and in a loop of one's own."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

import streamscalar as ss
from streamscalar.integrations.huggingface import StreamscalarCallback
from streamscalar.tracking import TrackingWarning

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM"}


def base() -> Any:
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 8, "vocab_size": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def adapted() -> Any:
    return get_peft_model(base(), LoraConfig(**LORA))


def samples(n: int) -> Tensor:
    return torch.randint(0, 16, (n, 8), generator=torch.Generator().manual_seed(1))


class Weights(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Keeps the adapters after each update."""

    def __init__(self) -> None:
        self.seen: dict[int, np.ndarray[Any, Any]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control
        self.seen[state.global_step] = adapters(kwargs["model"])


def adapters(model: Any) -> np.ndarray[Any, Any]:
    values = [p.detach().flatten() for p in model.parameters() if p.requires_grad]
    return torch.cat(values).numpy().copy()


def test_only_the_adapters_of_a_trainer_are_recorded(tmp_path: Path) -> None:
    callback, weights = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1), Weights()
    arguments = {"max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "logging_steps": 2}
    quiet = {"report_to": [], "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no"}
    words = Tokenizer(models.WordLevel({str(index): index for index in range(16)}, unk_token="0"))
    SFTTrainer(
        base(),
        SFTConfig(str(tmp_path / "out"), **arguments, **quiet),
        train_dataset=Dataset.from_dict({"input_ids": samples(64).tolist()}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1"),
        peft_config=LoraConfig(**LORA),
        callbacks=[weights, callback],
    ).train()
    run = ss.open(tmp_path / "s").run("a")
    assert run.steps().tolist() == [1, 2, 3, 4, 5, 6]
    assert [layer.name.rpartition("c_attn.")[2] for layer in run.layout.layers] == [
        "lora_A.default.weight",
        "lora_B.default.weight",
    ]
    for step, seen in weights.seen.items():
        np.testing.assert_array_equal(run.weights(step)[0], seen)


def loss_fn(model: Any, batch: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=batch, labels=batch).loss
    return loss


def stepped(model: Any, optimizer: torch.optim.Optimizer, clips: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Train; yield batch and loss after each update."""
    model.train()
    for sample in samples(30):
        batch = sample[None]
        loss = loss_fn(model, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if clips:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        yield batch, loss


@pytest.mark.parametrize("clips", [False, True])
def test_the_exponent_of_adapters_is_right_or_refused(tmp_path: Path, clips: bool) -> None:
    model = adapted()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    run = ss.track(
        model, name="a", store=tmp_path / "s", optimizer=optimizer, every_n_steps=1, shadow=True, loss_fn=loss_fn
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        for batch, loss in stepped(model, optimizer, clips):
            run.step(batch=batch, loss=loss)
    summary = run.finish()
    stored = ss.open(tmp_path / "s").run("a")
    rows = np.stack([stored.weights(step) for step in stored.steps()])
    np.testing.assert_array_equal(rows[-1, 0], adapters(model))
    ftle = stored.estimates().estimates["ftle"]
    assert (ftle.status == "not_reproduced") is clips, "the loss says nothing of the clipping"
    assert ("not reproduced" in summary.warnings) is clips
    if clips:
        return
    # A training of its own from the weights of the shadow after the first update, with the same dropout.
    again = adapted()
    optimizer = torch.optim.SGD([p for p in again.parameters() if p.requires_grad], lr=0.5)
    for index, _ in enumerate(stepped(again, optimizer, clips)):
        if index == 0:
            flat = torch.from_numpy(rows[0, 1].copy())
            torch.nn.utils.vector_to_parameters(flat, [p for p in again.parameters() if p.requires_grad])
        np.testing.assert_array_equal(rows[index, 1], adapters(again))
    assert (rows[-1, 0] != rows[-1, 1]).mean() > 0.5
