"""The tracker in a real Accelerator: accumulation, clipping, values, resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import streamscalar as ss
from streamscalar.errors import BadCall
from streamscalar.integrations.accelerate import StreamscalarTracker
from streamscalar.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def trained(
    folder: Path, recorder: StreamscalarTracker | None, n_epochs: int = 2, resume: Path | None = None
) -> dict[int, np.ndarray[Any, Any]]:
    """Train with accumulation over two batches; return the weights after each update."""
    torch.manual_seed(0)
    accelerator = Accelerator(
        cpu=True, log_with=[recorder] if recorder else None, gradient_accumulation_steps=2, project_dir=folder
    )
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))
    x = torch.randn(64, 8)
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8)
    model, optimizer, batches = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=0.01), data)
    if recorder is not None:
        accelerator.init_trackers("digits", config={"learning_rate": 0.01, "width": 16})
        accelerator.register_for_checkpointing(recorder)
    seen: dict[int, np.ndarray[Any, Any]] = {}
    n_updates = 0
    if resume is not None:
        accelerator.load_state(str(resume))
        n_updates = 4
    for epoch in range(n_epochs):
        for batch, targets in batches:
            with accelerator.accumulate(model):
                loss = functional.cross_entropy(model(batch), targets)
                accelerator.log({"before": loss}, step=n_updates)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.05)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                n_updates += 1
                seen[n_updates] = nn.utils.parameters_to_vector(net.parameters()).detach().numpy().copy()
                accelerator.log({"loss": loss}, step=n_updates - 1)
        accelerator.log({"val/loss": float(epoch)}, step=epoch)
        if recorder is not None and epoch == 0 and resume is None:
            accelerator.save_state(str(folder / "state"))
    accelerator.end_training()
    return seen


def test_every_update_is_recorded_and_a_training_continues_from_a_checkpoint(tmp_path: Path) -> None:
    ended = nn.Linear(50, 50)
    earlier = torch.optim.Adam(ended.parameters())
    torch.autograd.backward(ended(torch.ones(50)).sum())
    earlier.step()
    recorder = StreamscalarTracker(name="a", store=tmp_path / "s", every_n_steps=1)
    seen = trained(tmp_path, recorder)
    plain = trained(tmp_path, None)
    assert recorder.summary is not None
    assert dict(recorder.summary.warnings) == {}
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == list(range(1, 9))
    for step in range(1, 9):
        np.testing.assert_array_equal(stored.weights(step)[0], seen[step])
        np.testing.assert_array_equal(plain[step], seen[step], err_msg="recording changes no bit")
    loss, val = (stored.metrics(name).values[:, 0] for name in ("loss", "val/loss"))
    assert np.isfinite(loss).all()
    assert stored.logged("before").steps.tolist() == list(range(8)), "from before the first update on"
    assert np.flatnonzero(np.isfinite(val)).tolist() == [3, 7], "after updates 4 and 8, whatever epochs count"
    assert stored.setting["config"] == {"learning_rate": 0.01, "width": 16}
    assert [layer.name for layer in stored.layout.layers] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert stored.is_complete

    again = StreamscalarTracker(name="a", store=tmp_path / "s", every_n_steps=1)
    resumed = trained(tmp_path, again, n_epochs=1, resume=tmp_path / "state")
    assert again.summary is not None
    child = ss.open(tmp_path / "s").run(again.summary.run_id)
    parent = Store.open(tmp_path / "s").reader(child.run_id).spec.parent
    assert parent == ("a", 4), "the run has rows after update 4 already"
    assert child.steps().tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(child.weights(8)[0], resumed[8])


def test_a_shadow_is_refused() -> None:
    with pytest.raises(BadCall, match="shadow: must be left out with Accelerate"):
        StreamscalarTracker(shadow=True)
