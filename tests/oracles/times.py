"""Characteristic and decorrelation times by loops over rows, from their definitions, and curves to try them on."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.oracles import naive

Floats = NDArray[np.float64]


def ending_growth(
    end: float, n_rows: int, n_replicas: int, rng: np.random.Generator, rate: float = 0.5, scatter: float = 0.0
) -> Floats:
    """Separations `(n_rows, n_replicas)` that grow at `rate` until step `end`, then scatter as |normal| does.

    `scatter`: relative standard deviation of the replicas' own ends.
    """
    own = end * (1.0 + scatter * rng.standard_normal(n_replicas))
    t = np.arange(n_rows)[:, None]
    log_d = rate * (np.minimum(t, own) - end)
    cusps = np.log(np.abs(rng.standard_normal((n_rows, n_replicas)))) + 0.635
    small = 0.1 * rng.standard_normal((n_rows, n_replicas))
    return np.asarray(np.exp(log_d + np.where(t > own, cusps, small)))


def accuracies(
    until: float, shared: float, n_rows: int, n_series: int, rng: np.random.Generator, memory: float = 0.0
) -> Floats:
    """Series `(n_rows, n_series)` with `shared` of their variance in common before row `until`, none after it.

    `memory`: correlation of successive rows, by a first-order autoregression.
    """
    noise = rng.standard_normal((n_rows, n_series + 1))
    for row in range(1, n_rows):
        noise[row] = memory * noise[row - 1] + math.sqrt(1.0 - memory**2) * noise[row]
    together = math.sqrt(shared) * noise[:, :1] + math.sqrt(1.0 - shared) * noise[:, 1:]
    return np.asarray(np.where(np.arange(n_rows)[:, None] < until, together, noise[:, 1:]))


def published_time(steps: Floats, separation: Floats) -> float | None:
    """Apply the published rule to one replica `(T,)`, row by row; rows at every step."""
    n = len(steps)
    log_d = [math.log(d + 1e-12) for d in separation]
    slope = [log_d[1] - log_d[0]]
    slope += [(log_d[i + 1] - log_d[i - 1]) / 2.0 for i in range(1, n - 1)]
    slope.append(log_d[-1] - log_d[-2])
    for i in range(n - 7):
        if steps[i] >= 10 and all(slope[i + k] < 0.15 * max(slope) for k in range(8)):
            return float(steps[i])
    return None


def broken_line(x: Floats, y: Floats, least: int, per_row: int) -> tuple[float, float]:
    """Breakpoint and squared residuals of the best broken line among `per_row` breakpoints between any two rows."""
    best = (math.nan, math.inf)
    for row in range(least - 1, len(x) - least):
        for at in np.linspace(x[row], x[row + 1], per_row + 1):
            columns = np.stack([np.ones(len(x)), np.minimum(x - at, 0.0), np.maximum(x - at, 0.0)], axis=1)
            coefficients = np.linalg.lstsq(columns, y, rcond=None)[0]
            residual = math.fsum((y - columns @ coefficients) ** 2)
            if residual < best[1]:
                best = (float(at), residual)
    return best


def detrended(window: Floats) -> list[float]:
    """Residuals of a window from its least-squares line, divided by their length; NaN where constant."""
    x = np.arange(len(window), dtype=np.float64)
    slope = naive.slope(x, window)
    rest = [float(v) - slope * t for t, v in enumerate(window)]
    mean = math.fsum(rest) / len(rest)
    length = math.sqrt(math.fsum((v - mean) ** 2 for v in rest))
    return [(v - mean) / length if length > 1e-10 else math.nan for v in rest]


def product(a: list[float], b: list[float]) -> float:
    """Pearson's r of two detrended windows."""
    return math.fsum(v * w for v, w in zip(a, b, strict=True))


def published_decorrelation(reference: Floats, replica: Floats, shifts: list[int]) -> float | None:
    """Apply the published rule to one replica `(T,)`, window by window, with the given circular shifts."""
    for start in range(len(reference) - 19):
        window = slice(start, start + 20)
        here = detrended(reference[window])
        r = product(here, detrended(replica[window]))
        null = [product(here, detrended(np.roll(replica, -shift)[window])) for shift in shifts]
        p = (1 + sum(abs(v) >= abs(r) for v in null)) / (1 + len(null))
        above = (1 + sum(v >= r for v in null)) / (1 + len(null))
        below = (1 + sum(v <= r for v in null)) / (1 + len(null))
        if p > 0.05 and abs(r) < 0.5 and above > 0.025 and below > 0.025:
            return start + 9.5
    return None


def decorrelation(reference: Floats, replicas: Floats, drawn: list[list[int]]) -> list[float] | None:
    """Apply the validated rule, run by run, with shifts `drawn[j]` for the replicas together; own times of each."""
    n_windows, n = len(reference) - 19, len(replicas.T)
    here = [detrended(reference[w : w + 20]) for w in range(n_windows)]
    there = [[detrended(column[v : v + 20]) for v in range(n_windows)] for column in replicas.T]
    table = {
        (j, w, v): product(here[w], there[j][v]) for j in range(n) for w in range(n_windows) for v in range(n_windows)
    }

    def run(j: int, start: int, shift: int) -> list[float]:
        return [table[j, w, (w + shift) % n_windows] for w in range(start, start + 20)]

    def is_chance(real: float, null: list[float]) -> bool:
        return (1 + sum(v >= real - 1e-12 for v in null)) / (1 + len(null)) > 0.05

    def joint(start: int, shifts: list[int]) -> float:
        runs = [run(j, start, shifts[j]) for j in range(n)]
        return max(math.fsum(of[k] for of in runs) / n for k in range(20))

    def is_small(j: int, start: int) -> bool:
        return math.fsum(abs(v) for v in run(j, start, 0)) / 20 < 0.5

    def is_own(j: int, start: int) -> bool:
        null = [max(abs(v) for v in run(j, start, shift)) for shift in range(20, n_windows - 19)]
        return is_small(j, start) and is_chance(max(abs(v) for v in run(j, start, 0)), null)

    starts = range(n_windows - 19)
    for start in starts:
        null = [joint(start, list(shifts)) for shifts in zip(*drawn, strict=True)]
        if is_chance(joint(start, [0] * n), null):
            since = [s for s in starts if s >= max(0, start - 20)]
            own = [[s + 9.5 for s in since if is_own(j, s)] for j in range(n)]
            return [times[0] for times in own] if all(own) else None
    return None


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's r from its definition."""
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    top = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(math.fsum((a - mean_x) ** 2 for a in x) * math.fsum((b - mean_y) ** 2 for b in y))


def jackknife_error_of_z(x: Floats, y: Floats) -> float:
    """Delete-one jackknife standard error of artanh r, by leaving out each pair in turn."""
    n = len(x)
    without = [math.atanh(pearson(np.delete(x, i), np.delete(y, i))) for i in range(n)]
    mean = math.fsum(without) / n
    return math.sqrt((n - 1) / n * math.fsum((z - mean) ** 2 for z in without))
