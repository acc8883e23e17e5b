"""A network that takes its time, so that a training outlives a failure on any machine."""

import os
import time

import torch


class Slow(torch.nn.Module):
    """One hidden layer; every pass waits for `SLOW_MS` milliseconds, which changes no bit."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self._wait_s = float(os.environ.get("SLOW_MS", "0")) / 1000
        self.layers = torch.nn.Sequential(torch.nn.Linear(n_inputs, 8), torch.nn.Tanh(), torch.nn.Linear(8, n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, late."""
        time.sleep(self._wait_s)
        outputs: torch.Tensor = self.layers(x)
        return outputs
