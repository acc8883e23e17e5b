"""Benchmark `train`: all replicas in one batch, compared with a loop over replicas and with peak arithmetic speed."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from streamscalar.bench.figures import Figure
from streamscalar.config.models import ModelSection
from streamscalar.training.data import Data
from streamscalar.training.ensemble import pinned_threads
from streamscalar.training.perceptron import Perceptron
from streamscalar.training.problem import Product

N_SAMPLES, N_FEATURES, N_HIDDEN, N_CLASSES = 2000, 784, 64, 10
REPLICAS = (1, 6, 26)
N_REPEATS = 5


def bench_train() -> list[Figure]:
    """Measure full-batch loss and gradient of a 784-64-10 network on 2,000 random samples, float64, one thread."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(N_SAMPLES, N_FEATURES))
    y = rng.integers(0, N_CLASSES, N_SAMPLES)
    data = Data(x, y, x[:1], y[:1], N_CLASSES, {})
    figures = []
    with pinned_threads(1):
        problem = Perceptron(data, ModelSection(widths=(N_HIDDEN,)), torch.float64, torch.device("cpu"))
        loop = _TightLoop(x, y)
        peak = _gemm_peak()
        for n_replicas in REPLICAS:
            weights = torch.tensor(np.stack([problem.initial(rng) for _ in range(n_replicas)]))
            flops = 2 * 2 * n_replicas * N_SAMPLES * N_HIDDEN * (N_FEATURES + 1.5 * N_CLASSES)
            ours_s, loop_s = _side_by_side(
                partial(problem.evaluate, weights, Product.FUSED, with_accuracy=False), partial(loop.gradients, weights)
            )
            figures += [
                Figure(f"R={n_replicas}: step", n_replicas / ours_s, "replicas/s", n_replicas / loop_s),
                Figure(f"R={n_replicas}: speed-up over the loop", loop_s / ours_s, "x", 1.0),
                Figure(
                    f"R={n_replicas}: arithmetic",
                    flops / ours_s / 1e9,
                    "GFLOP/s",
                    flops / loop_s / 1e9,
                    peak / 1e9,
                ),
            ]
    return figures


class _TightLoop:
    """The baseline: one replica after another with hand-written gradients, as a careful user would write it."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.int64]) -> None:
        self._x = torch.tensor(x)
        self._y = torch.tensor(y)
        self._one_hot = torch.nn.functional.one_hot(self._y, N_CLASSES).to(torch.float64)

    def gradients(self, weights: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        return [self._gradient(row) for row in weights]

    def _gradient(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = [N_HIDDEN * N_FEATURES, N_HIDDEN, N_CLASSES * N_HIDDEN, N_CLASSES]
        w1, b1, w2, b2 = torch.split_with_sizes(flat, sizes)
        hidden = torch.tanh(torch.addmm(b1, self._x, w1.view(N_HIDDEN, N_FEATURES).T))
        logits = torch.addmm(b2, hidden, w2.view(N_CLASSES, N_HIDDEN).T)
        at_logits = (torch.softmax(logits, 1) - self._one_hot) / N_SAMPLES
        at_hidden = (at_logits @ w2.view(N_CLASSES, N_HIDDEN)) * (1 - hidden * hidden)
        return at_hidden.T @ self._x, at_hidden.sum(0), at_logits.T @ hidden, at_logits.sum(0)


def _side_by_side(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of both calls, measured alternately."""
    times: tuple[list[float], list[float]] = ([], [])
    first(), second()
    for _ in range(N_REPEATS):
        for call, seconds in zip((first, second), times, strict=True):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _gemm_peak(n: int = 1536) -> float:
    """Return the FLOP/s of a large square matrix product."""
    a, b = torch.rand(n, n, dtype=torch.float64), torch.rand(n, n, dtype=torch.float64)
    a_s, b_s = _side_by_side(lambda: a @ b, lambda: b @ a)
    return 2 * n**3 / min(a_s, b_s)
