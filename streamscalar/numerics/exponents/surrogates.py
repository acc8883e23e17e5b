"""Surrogate trajectories: the linear correlations of a recorded one, without its determinism.

The null hypothesis is a stationary linear Gaussian process on top of a straight drift. Surrogates have the same
random phases in all components [1]_, which keeps auto- and cross-correlations. Two choices differ from the
common recipe, both because a surrogate that is rougher than the data makes every smooth series appear
deterministic:

- the spectrum is that of the *tapered* residual of a straight line. Without the taper it contains the jump, or the
  kink, between the last row and the first, spread over the whole surrogate: this doubles the increments of a
  random walk.
- values are not restored by rank, as in iterated amplitude-adjusted surrogates [2]_. The ranks of a smooth series
  restore its values with a rough error: with them smooth Gaussian noise (width 10 rows, 4000 rows, two delays
  of one row) passed the test of `streamscalar.numerics.exponents.recurrence` as deterministic in 40 of 40 draws.

As a consequence, a distorted (non-Gaussian) linear process is outside the null hypothesis.

References
----------
.. [1] D. Prichard, J. Theiler, Phys. Rev. Lett. 73, 951 (1994).
.. [2] T. Schreiber, A. Schmitz, Phys. Rev. Lett. 77, 635 (1996).
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from streamscalar.errors import BadCall

Ends = Literal["tapered", "joined"]

ENDS: tuple[Ends, ...] = ("tapered", "joined")
"""Families of surrogates; a test must be significant against each."""


def phase_surrogate(
    states: NDArray[np.float64], rng: np.random.Generator, ends: Ends = "tapered"
) -> NDArray[np.float64]:
    """Draw one trajectory with the linear correlations of `states` and random phases.

    Parameters
    ----------
    states
        Finite trajectory `(T, K)`, T >= 4, rows evenly spaced, any unit.
    rng
        Source of the phases.
    ends
        `tapered`: the residual of the least-squares line, tapered to 0 at both ends. `joined`: the residual of the
        line from the first state to the last, whose ends meet.

    Returns
    -------
    ndarray
        `(T, K)` float64, with the unit of `states`: their line plus a Gaussian process whose total variance is that
        of their residual. Cost: O(T K log T).

    Raises
    ------
    BadCall
        If `states` does not have two dimensions and four rows.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal((200, 2))
    >>> drawn = phase_surrogate(noise, np.random.default_rng(1))
    >>> drawn.shape, bool(np.isclose(drawn.var(axis=0).sum(), noise.var(axis=0).sum(), rtol=0.05))
    ((200, 2), True)
    """
    if states.ndim != 2 or len(states) < 4:
        raise BadCall("states", "must have shape (rows, components) with four rows or more", str(states.shape))
    n_rows = len(states)
    line = _line(states) if ends == "tapered" else _chord(states)
    residual = states - line
    window = _taper(n_rows) if ends == "tapered" else np.ones(n_rows)
    # Components as contiguous rows: transforms run along the last axis.
    spectrum = fft.rfft(np.ascontiguousarray((residual * window[:, None]).T), axis=1)
    mean = residual.mean(axis=0)
    turn = np.exp(2j * np.pi * rng.random(spectrum.shape[1]))
    # The mean does not fluctuate, and the highest frequency of an even length has no phase.
    turn[0] = 0.0
    if n_rows % 2 == 0:
        turn[-1] = rng.choice([-1.0, 1.0])
    drawn = fft.irfft(spectrum * turn, n_rows, axis=1)
    power = float(np.square(drawn).sum())
    scale = math.sqrt(float(np.square(residual - mean).sum()) / power) if power > 0.0 else 0.0
    return np.asarray(scale * drawn.T + mean + line)


def _line(states: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares straight line through each component, `(T, K)`."""
    time = np.arange(len(states)) - (len(states) - 1) / 2.0
    return np.asarray(states.mean(axis=0) + time[:, None] * (time @ states / (time @ time)))


def _chord(states: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the straight line from the first state to the last, `(T, K)`."""
    return np.asarray(states[0] + np.linspace(0.0, 1.0, len(states))[:, None] * (states[-1] - states[0]))


def _taper(n_rows: int) -> NDArray[np.float64]:
    """Return the Hann window `(T,)`, which ends on 0 with slope 0."""
    return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * (np.arange(n_rows) + 0.5) / n_rows))


def n_surrogates_as_good(
    states: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float],
    own: float,
    n_surrogates: int,
    level: float,
    rng: np.random.Generator,
) -> int | None:
    """Test a statistic against surrogates by its rank, one-sided.

    Parameters
    ----------
    states
        Finite trajectory `(T, K)`.
    statistic
        Function of a trajectory of that shape; large where it is deterministic.
    own
        Its value for `states`.
    n_surrogates, level
        The rank of `own` among `n_surrogates + 1` values is significant where `(1 + m) / (n_surrogates + 1)` is at
        most `level`, where m surrogates have at least the value `own`.
    rng
        Source of the surrogates.

    Returns
    -------
    int or None
        `None` where `own` is significant, else the number of surrogates with at least its value when this was
        decided; the remaining surrogates are not drawn.

    Raises
    ------
    BadCall
        As `check_test`.
    """
    check_test(n_surrogates, level)
    most = math.floor(level * (n_surrogates + 1) + 1e-9) - 1
    n_as_good = {"tapered": 0, "joined": 0}
    for _ in range(n_surrogates):
        for ends in ENDS:
            n_as_good[ends] += statistic(phase_surrogate(states, rng, ends)) >= own
            if n_as_good[ends] > most:
                return n_as_good[ends]
    return None


def check_test(n_surrogates: int, level: float) -> None:
    """Raise `BadCall` where `level` is outside (0, 1) or a rank test cannot have a significant outcome.

    Examples
    --------
    >>> check_test(19, 0.05)
    """
    if not 0.0 < level < 1.0:
        raise BadCall("confidence", "must lie between 0 and 1", f"{1.0 - level:g}")
    least = math.ceil(1.0 / level - 1e-9) - 1
    if n_surrogates < least:
        raise BadCall("n_surrogates", f"must be at least {least} at level {level:g}", str(n_surrogates))
