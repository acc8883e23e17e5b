"""The callback on a real Trainer: accumulation, clipping, AMP, validation, optimizers, resume, failure, Fabric."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import streamscalar as ss
from streamscalar.errors import BadCall
from streamscalar.integrations.lightning import StreamscalarCallback, from_environment
from streamscalar.store import Store
from streamscalar.tracking import TrackingWarning

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Net(LightningModule):  # type: ignore[misc]  # its types are not read
    """A classifier with dropout and a warm-up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))
        self.save_hyperparameters({"width": 16})
        self.fails_at = -1

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train/each", loss)
        if batch_idx % 4 == 3:
            self.log("train/fourth", loss, on_step=True, on_epoch=True)
        if self.global_step == self.fails_at:
            raise RuntimeError("lost the data")
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        del batch_idx
        self.log("val_loss", functional.cross_entropy(self.layers(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm_up, "interval": "step"}}


class Weights(Callback):  # type: ignore[misc]  # its types are not read
    """Keeps the weights after each update."""

    def __init__(self) -> None:
        self.seen: dict[int, np.ndarray[Any, Any]] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        del args
        self.seen[trainer.global_step] = flat(pl_module)


def flat(module: nn.Module) -> np.ndarray[Any, Any]:
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy().copy()


def batches(n: int, seed: int = 1) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8)


def trained(folder: Path, *callbacks: Any, net: Any = None, resume: str | None = None, **options: Any) -> Weights:
    weights = Weights()
    torch.manual_seed(3)
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            "callbacks": [weights, *callbacks],
            **options,
        }
    )
    trainer.fit(net or Net(), batches(128), batches(16, seed=2), ckpt_path=resume)
    return weights


def values(run: ss.Run, name: str) -> dict[int, float]:
    found = run.metrics(name)
    return {int(s): float(v) for s, v in zip(found.steps, found.values[:, 0], strict=True) if v == v}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_update_is_recorded_and_values_belong_to_their_step(tmp_path: Path, precision: str) -> None:
    callback = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1)
    options: dict[str, Any] = {
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 0.05,
        "val_check_interval": 8,
        "precision": precision,
    }
    weights = trained(tmp_path, callback, **options)
    plain = trained(tmp_path, **options)
    assert callback.summary is not None
    assert dict(callback.summary.warnings) == {}
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == list(range(1, 17)), "16 batches in an epoch, two to an update"
    for step in range(1, 17):
        np.testing.assert_array_equal(stored.weights(step)[0], weights.seen[step])
        np.testing.assert_array_equal(plain.seen[step], weights.seen[step], err_msg="recording changes no bit")
    assert list(values(stored, "train/each")) == list(range(1, 17))
    assert list(values(stored, "val_loss")) == [4, 8, 12, 16]
    assert list(values(stored, "train/fourth_step")) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert list(values(stored, "train/fourth_epoch")) == [8, 16]
    assert list(values(stored, "loss")) == list(range(1, 17))
    assert values(stored, "loss")[1] != values(stored, "train/each")[1], "the mean over both batches"
    rates = stored.metrics("learning_rate").values[:, 0]
    np.testing.assert_allclose(rates[:6], [0.001, 0.0028, 0.0046, 0.0064, 0.0082, 0.01], rtol=1e-6)
    assert stored.setting["learning_rate"] == 0.01
    assert stored.setting["config"]["width"] == 16
    assert stored.setting["config"]["gradient_clip_val"] == 0.05
    assert stored.is_complete
    assert stored.layout.layers[0].name == "layers.0.weight"


class Adversaries(LightningModule):  # type: ignore[misc]  # its types are not read
    """Two optimizers, one of which makes two updates in a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 3)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        del batch_idx
        first, second = self.optimizers()
        for optimizer, net in ((first, self.a), (first, self.a), (second, self.b)):
            optimizer.zero_grad()
            self.manual_backward(functional.cross_entropy(net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.a.parameters(), lr=0.1), torch.optim.SGD(self.b.parameters(), lr=0.2)]


def test_several_optimizers_count_several_steps(tmp_path: Path) -> None:
    callback = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1)
    weights = trained(tmp_path, callback, net=Adversaries(), max_epochs=1, limit_val_batches=0)
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == list(range(3, 49, 3))
    np.testing.assert_array_equal(stored.weights(48)[0], weights.seen[48])
    assert set(stored.metrics("learning_rate").values[:, 0]) == {0.1}
    assert set(stored.metrics("learning_rate/1").values[:, 0]) == {0.2}


def test_a_training_continues_its_run_from_a_checkpoint_and_a_failed_one_is_failed(tmp_path: Path) -> None:
    first = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1)
    keep = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=16)
    fails = Net()
    fails.fails_at = 20
    with pytest.raises(RuntimeError, match="lost the data"):
        trained(tmp_path, first, keep, net=fails, enable_checkpointing=True)
    failed = ss.open(tmp_path / "s").run("a")
    status = Store.open(tmp_path / "s").status("a")
    assert (status["phase"], status["reason"]) == ("failed", "The training ended with RuntimeError: lost the data")
    assert failed.steps().tolist() == list(range(1, 21))
    second = StreamscalarCallback(name="a", store=tmp_path / "s", every_n_steps=1)
    weights = trained(tmp_path, second, resume=str(tmp_path / "step=16.ckpt"))
    assert second.summary is not None
    child = ss.open(tmp_path / "s").run(second.summary.run_id)
    parent = Store.open(tmp_path / "s").reader(child.run_id).spec.parent
    assert parent == ("a", 16), "the run has rows after step 16 already"
    assert child.steps().tolist() == list(range(17, 33))
    np.testing.assert_array_equal(child.weights(32)[0], weights.seen[32])
    assert child.is_complete


def test_the_environment_adds_the_callback_unless_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment() == []
    monkeypatch.setenv("STREAMSCALAR_LIGHTNING", "1")
    monkeypatch.chdir(tmp_path)
    own = StreamscalarCallback(store=tmp_path / "s", every_n_steps=1)
    trained(tmp_path, own, max_steps=3, limit_val_batches=0)
    assert not (tmp_path / "streamscalar-runs").exists()
    trained(tmp_path, max_steps=3, limit_val_batches=0)
    assert len(ss.open(tmp_path / "streamscalar-runs/tracked").runs) == 1
    net = Net()
    net.phase = nn.Parameter(torch.zeros(1, dtype=torch.complex64))
    with pytest.warns(TrackingWarning, match="nothing is recorded: model: must have dense, real parameters"):
        trained(tmp_path, net=net, max_steps=1, limit_val_batches=0)


def test_a_shadow_of_a_trainer_is_refused() -> None:
    with pytest.raises(BadCall, match="shadow: must be left out with a Trainer"):
        StreamscalarCallback(shadow=True)


def test_a_model_of_fabric_is_recorded_under_its_own_names(tmp_path: Path) -> None:
    fabric = lightning.Fabric(accelerator="cpu", precision="bf16-mixed")
    net = nn.Linear(8, 3)
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
    run = ss.track(model, name="a", store=tmp_path / "s", optimizer=optimizer, every_n_steps=1)
    for x, y in batches(32):
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        run.step(loss=loss)
    run.finish()
    stored = ss.open(tmp_path / "s").run("a")
    assert [layer.name for layer in stored.layout.layers] == ["weight", "bias"]
    assert stored.setting["tied"] == {}
    np.testing.assert_array_equal(stored.weights(4)[0], flat(net))
