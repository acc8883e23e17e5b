"""Changes of a series by loops over rows, with fitted lines and whole covariance matrices; noise to try them on."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


def autoregressive(correlation: float, n_rows: int, rng: np.random.Generator, freedom: float = math.inf) -> Floats:
    """Noise `(n_rows,)` with variance 1 of its normal kind; `freedom`: of Student's t of its innovations."""
    n_before = 200
    shocks = (
        rng.standard_normal(n_rows + n_before) if math.isinf(freedom) else rng.standard_t(freedom, n_rows + n_before)
    )
    values = np.empty(n_rows + n_before)
    values[0] = shocks[0]
    for row in range(1, len(values)):
        values[row] = correlation * values[row - 1] + math.sqrt(1.0 - correlation**2) * shocks[row]
    return values[n_before:]


def assumed_correlation(residual: Floats) -> float:
    """Lag-one autocorrelation of the residuals of a line, corrected for bias and raised by one standard error."""
    n = len(residual)
    found = sum(residual[i] * residual[i - 1] for i in range(1, n)) / sum(x * x for x in residual)
    unbiased = min(0.99, max(-0.9, (found + 2.0 / n) / (1.0 - 4.0 / n)))
    return float(min(0.99, max(-0.9, unbiased + math.sqrt((1.0 - unbiased**2) / n))))


def error_and_freedom(design: Floats, contrast: Floats, residual: Floats, correlation: float) -> tuple[float, float]:
    """Return the standard error of a contrast of rows, the first of which carry the fit, and its freedom."""
    n, n_fitted = len(contrast), len(design)
    covariance = np.array([[correlation ** abs(i - j) for j in range(n)] for i in range(n)])
    keep = np.eye(n_fitted) - design @ np.linalg.inv(design.T @ design) @ design.T
    product = keep @ covariance[:n_fitted, :n_fitted] @ keep
    expected = float(np.trace(product))
    variance = float(residual @ residual) / expected
    freedom = expected**2 / float(np.trace(product @ product))
    return math.sqrt(variance * float(contrast @ covariance @ contrast)), freedom


def level_change(series: Floats, row: int, n_before: int, n_after: int, run_length: float) -> tuple[float, ...]:
    """Shift, statistic, threshold and correlation at one row."""
    first = row - n_before - n_after + 1
    if first < 0 or not all(math.isfinite(x) for x in series[first : row + 1]):
        return (math.nan,) * 4
    past = np.arange(first, first + n_before)
    ahead = np.arange(first + n_before, row + 1)
    slope, level = np.polyfit(past, series[past], 1)
    residual = series[past] - (slope * past + level)
    off = [series[i] - (slope * i + level) for i in ahead]
    shift = min(off) if min(off) > 0.0 else max(off) if max(off) < 0.0 else 0.0
    correlation = assumed_correlation(residual)
    design = np.stack([np.ones(n_before), past.astype(np.float64)], axis=1)
    # The forecast of the line for the mean of the rows ahead, as weights of the rows before it.
    weights = np.array([1.0, float(ahead.mean())]) @ np.linalg.pinv(design)
    contrast = np.concatenate([-weights, np.full(n_after, 1.0 / n_after)])
    error, freedom = error_and_freedom(design, contrast, residual, correlation)
    return shift, shift / error, float(stats.t.isf(0.5 / run_length, freedom)), correlation


def block_means(series: Floats, n_blocks: int) -> Floats:
    """Means of equal blocks that end with the series."""
    size = len(series) // n_blocks
    first = len(series) - n_blocks * size
    return np.array([np.mean(series[first + k * size : first + (k + 1) * size]) for k in range(n_blocks)])


def trend(series: Floats, n_blocks: int, confidence: float) -> tuple[float, float, float]:
    """Change along the line through block means, from the first row used to the last, and its interval."""
    means = block_means(series, n_blocks)
    size = len(series) // n_blocks
    centres = np.array([k * size + (size - 1) / 2.0 for k in range(n_blocks)])
    slope, level = np.polyfit(centres, means, 1)
    residual = means - (slope * centres + level)
    design = np.stack([np.ones(n_blocks), centres], axis=1)
    span = n_blocks * size - 1
    contrast = span * np.linalg.pinv(design)[1]
    error, freedom = error_and_freedom(design, contrast, residual, assumed_correlation(residual))
    half = error * float(stats.t.isf((1.0 - confidence) / 2.0, freedom))
    return slope * span, slope * span - half, slope * span + half


def correlation_of_changes(own: Floats, others: Floats, n_changes: int) -> float:
    """Correlation about 0 of the changes between block means."""
    first, second = block_means(own, n_changes + 1), block_means(others, n_changes + 1)
    a = [first[i] - first[i - 1] for i in range(1, n_changes + 1)]
    b = [second[i] - second[i - 1] for i in range(1, n_changes + 1)]
    products = sum(x * y for x, y in zip(a, b, strict=True))
    return float(products / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)))
