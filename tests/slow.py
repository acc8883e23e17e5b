"""An experiment that takes its time, so that it outlives a failure on any machine, until it need not."""

import os
import time
from pathlib import Path

import torch

from streamscalar.config import Config
from tests.conftest import small_config

QUICK_PASSES = "100"
"""Passes of a process without a wait, so that a training soon has rows: about 10 of them. `SLOW_AFTER` sets another
number: with 64 rows, a resumed training repeats the rows after its key frame at full speed."""


class Slow(torch.nn.Module):
    """One hidden layer; passes wait for `SLOW_MS` milliseconds each until the file `SLOW_UNTIL` is there.

    That changes no bit.
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self._wait_s = float(os.environ.get("SLOW_MS", "0")) / 1000
        self._until = Path(os.environ.get("SLOW_UNTIL", "/"))
        self._n_quick = int(os.environ.get("SLOW_AFTER", QUICK_PASSES))
        self._n_passes = 0
        self.layers = torch.nn.Sequential(torch.nn.Linear(n_inputs, 8), torch.nn.Tanh(), torch.nn.Linear(8, n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, late."""
        self._n_passes += 1
        if self._wait_s and self._n_passes > self._n_quick and not self._until.exists():
            time.sleep(self._wait_s)
        outputs: torch.Tensor = self.layers(x)
        return outputs


def slow_config(store: Path, n_runs: int = 2, n_steps: int = 360) -> Config:
    """Return runs that take ten passes for each update: minutes where these are slow, seconds where not."""
    return small_config(
        store,
        experiment={"name": "slow", "n_initial_conditions": n_runs},
        model={"name": "tests.slow:Slow"},
        training={"n_steps": n_steps, "learning_rate": 1},
        store={"segment_rows": 8},
    )
