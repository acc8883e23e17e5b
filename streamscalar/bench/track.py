"""Benchmark `track`: the cost of `ss.track` to a training loop.

Two training loops with the same initial bits, one of them tracked, run blocks of steps alternately, so that a change in
the speed of the machine affects both. While the untracked loop runs, the worker process is stopped, so that all of its
work falls on the tracked loop; the budget counts the time of both loops, so it is set to half of its share.

Expected on two processors: an overhead of 1 to 2 %, which the budget aims at; 99.9 of 100 steps within 1.1 times an
untracked step; `run.step` below 10 us without a row and below 1 ms with one; few rows of loops with steps of about 1 ms
(one in 30), half of the rows with steps of 50 ms. A shadow costs a second training run (ratio 2.1), a tangent vector
three gradients (ratio 4).
"""

import os
import signal
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from streamscalar.bench.figures import Figure
from streamscalar.tracking import Summary, Tracker, TrackingWarning, track
from streamscalar.training.ensemble import pinned_threads

N_STEPS = 1000
N_BLOCK_STEPS = 25
N_REPEATS = 3
N_COMPANION_STEPS = 200
OVERHEAD, TAIL, CALL_S = 0.02, 1.1, 1e-3

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Case:
    """A training loop; `build` makes model, optimiser and batch with the same bits each time."""

    name: str
    build: Callable[[], tuple[nn.Module, Optimizer, Batch]]


@dataclass
class _Times:
    """Seconds of every step, and of the call of `run.step` within it."""

    steps: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)


class _Transformer(nn.Module):
    """Two layers of attention over 32 tokens from a vocabulary of 256; 1.0e6 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 200)
        layer = nn.TransformerEncoderLayer(200, 4, 740, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(200, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layers(self.embed(tokens)))
        return scores.flatten(0, 1)


def bench_track() -> list[Figure]:
    """Measure 1,000 steps with and without tracking, alternately, on one thread; takes a few minutes."""
    cases = [_Case("MLP", _mlp), _Case("CNN", _cnn), _Case("transformer", _transformer)]
    figures = []
    with tempfile.TemporaryDirectory() as folder, pinned_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        for case in cases:
            figures += _overhead(case, Path(folder))
        figures += _companions(cases[0], Path(folder))
    return figures


def _mlp() -> tuple[nn.Module, Optimizer, Batch]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 126), nn.Tanh(), nn.Linear(126, 10))
    return model, SGD(model.parameters(), lr=0.1), (torch.randn(128, 784), torch.randint(0, 10, (128,)))


def _cnn() -> tuple[nn.Module, Optimizer, Batch]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 36, 10),
    )  # fmt: skip
    batch = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    return model, SGD(model.parameters(), lr=0.05, momentum=0.9), batch


def _transformer() -> tuple[nn.Module, Optimizer, Batch]:
    torch.manual_seed(0)
    tokens = torch.randint(0, 256, (4, 33))
    model = _Transformer()
    return model, AdamW(model.parameters(), lr=1e-3), (tokens[:, :-1], tokens[:, 1:].flatten())


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


class _Training:
    """A training loop in progress, tracked or not."""

    def __init__(self, case: _Case, start: Callable[[nn.Module, Optimizer], Tracker] | None = None) -> None:
        self._model, self._optimizer, self._batch = case.build()
        self.times = _Times()
        self.run = start(self._model, self._optimizer) if start else None

    def train(self, n_steps: int) -> None:
        """Make steps; the worker process runs meanwhile and is stopped afterwards."""
        if self.run is not None:
            os.kill(self.run.worker_pid, signal.SIGCONT)
        for _ in range(n_steps):
            started = time.perf_counter()
            self._optimizer.zero_grad()
            loss = _loss(self._model, self._batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            self._optimizer.step()
            called = time.perf_counter()
            if self.run is not None:
                self.run.step(loss=loss, batch=self._batch)
            ended = time.perf_counter()
            self.times.steps.append(ended - started)
            self.times.calls.append(ended - called)
        if self.run is not None:
            os.kill(self.run.worker_pid, signal.SIGSTOP)

    def finish(self) -> Summary | None:
        """Finish the tracker and return its summary; `None` if the loop is not tracked."""
        if self.run is None:
            return None
        os.kill(self.run.worker_pid, signal.SIGCONT)
        return self.run.finish()


def _overhead(case: _Case, folder: Path) -> list[Figure]:
    plain, tracked, ratios, kept = _Times(), _Times(), [], []

    def start(model: nn.Module, optimizer: Optimizer) -> Tracker:
        return track(model, store=folder / case.name, optimizer=optimizer, max_overhead=OVERHEAD / 2)

    for _ in range(N_REPEATS):
        pair = _Training(case), _Training(case, start)
        pair[0].train(N_BLOCK_STEPS)
        pair[0].times = _Times()
        for block in range(N_STEPS // N_BLOCK_STEPS):
            for training in pair if block % 2 else pair[::-1]:
                training.train(N_BLOCK_STEPS)
        summary = pair[1].finish()
        if summary is not None:
            kept.append(summary.n_recorded / summary.n_steps)
        ratios.append(sum(pair[0].times.steps) / sum(pair[1].times.steps))
        plain.steps += pair[0].times.steps
        tracked.steps += pair[1].times.steps
        tracked.calls += pair[1].times.calls
    tails = np.quantile(plain.steps, 0.999), np.quantile(tracked.steps, 0.999)
    calls = np.array(tracked.calls)
    return [
        Figure(f"{case.name}: speed against untracked", statistics.median(ratios), "x", 1.0, target=1 - OVERHEAD),
        Figure(f"{case.name}: median step, untracked over tracked", *_medians(plain, tracked)),
        Figure(f"{case.name}: p99.9 of a step, untracked over tracked", tails[0] / tails[1], "x", 1.0, target=1 / TAIL),
        Figure(f"{case.name}: calls of run.step within 1 ms", float((calls < CALL_S).mean()), "share", target=0.99),
        Figure(f"{case.name}: run.step, p99", float(np.quantile(calls, 0.99)) * 1e3, "ms"),
        Figure(f"{case.name}: untracked step, median", statistics.median(plain.steps) * 1e3, "ms"),
        Figure(f"{case.name}: steps recorded", statistics.median(kept), "share"),
    ]


def _medians(plain: _Times, tracked: _Times) -> tuple[float, str, float]:
    return statistics.median(plain.steps) / statistics.median(tracked.steps), "x", 1.0


def _companions(case: _Case, folder: Path) -> list[Figure]:
    def with_shadow(model: nn.Module, optimizer: Optimizer) -> Tracker:
        return track(model, store=folder / "shadow", optimizer=optimizer, loss_fn=_loss, shadow=True)

    def with_tangent(model: nn.Module, optimizer: Optimizer) -> Tracker:
        return track(model, store=folder / "tangent", optimizer=optimizer, loss_fn=_loss, tangent=True)

    trainings = [_Training(case), _Training(case, with_shadow), _Training(case, with_tangent)]
    for _ in range(N_COMPANION_STEPS // N_BLOCK_STEPS):
        for training in trainings:
            training.train(N_BLOCK_STEPS)
    base, shadow, tangent = (statistics.median(training.times.steps) for training in trainings)
    for training in trainings:
        training.finish()
    return [
        Figure(f"{case.name}: step with a shadow", shadow / base, "x", 1.0),
        Figure(f"{case.name}: step with a tangent vector", tangent / base, "x", 1.0),
    ]
