"""Exponents from the growth of tangent vectors: no epsilon, no saturation.

A tangent vector obeys the derivative of one training step, `v <- v - lr H v` for gradient descent. Several of them,
made orthonormal again by a QR decomposition after every recorded row, stretch by the diagonal of R; the mean
logarithm of these factors tends to the Lyapunov exponents in falling order [1]_.

The exponents of a *training run* are finite-time numbers, averaged over one trajectory. Training is a transient:
curvature changes as the loss falls, there is no attractor to average over and no limit to approach, so the number
holds for these steps of this run. Its interval measures how much the rate varied between batches of rows, not between
initial conditions; combine runs for that.

References
----------
.. [1] G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15, 9 and 21 (1980).
.. [2] C. Alexopoulos, A. F. Seila, in Handbook of Simulation, ed. J. Banks, Wiley 1998, section 7.3 (batch means).
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.exponents.curves import check_rows
from streamscalar.numerics.intervals import student
from streamscalar.types import Estimate, Status

LEAST_BATCHES = 8
"""Least number of batches that a series is cut into; the largest is twice as many less one."""

LEAST_BATCH_ROWS = 4
"""Least rows in a batch for an interval: shorter batches are not independent."""


class TangentGrowth:
    """Tangent exponents of a stream of rows, in memory that does not grow.

    Rows after the burn-in are cut into batches of s rows, where s is the largest power of two that leaves at least
    `LEAST_BATCHES`. So s doubles from time to time, two batches become one, and only running sums at the ends of at
    most 16 batches are kept. The exponent is the growth over the steps from the end of the burn-in to the last row;
    the interval is Student's over the rates of the complete batches [2]_.

    Parameters
    ----------
    n_vectors
        Number k of tangent vectors.
    burn_in
        Rows to leave out after row 0, while the vectors turn into the growing directions. By default the first s
        rows, where s is the largest power of two at most an eighth of the rows: between a sixteenth and an eighth,
        the first batch. It grows with the series; seven to 14 batches remain.
    confidence
        Stated coverage of the intervals.

    Notes
    -----
    Cost of an update: `n * k` operations. The state has the same bits for any division of the rows into blocks, and
    after a restart from a snapshot. Where this differs from the textbook rule of a tenth: with a power of two, a
    stream keeps the required sums without keeping the rows. Rates of batches are differences of running sums,
    accurate to 16 digits of the sum.

    Examples
    --------
    >>> growth = TangentGrowth(n_vectors=1)
    >>> growth.update(np.array([0]), np.array([[0.0]]))
    >>> growth.update(np.arange(1, 41), np.tile([[0.2], [0.4]], (20, 1)))
    >>> found = growth.estimates()[0]
    >>> round(found.value, 6), found.window, found.n
    (0.3, (4, 40), 9)
    """

    def __init__(self, n_vectors: int, burn_in: int | None = None, confidence: float = 0.95) -> None:
        if n_vectors < 1:
            raise BadCall("n_vectors", "must be at least 1", str(n_vectors))
        if burn_in is not None and burn_in < 0:
            raise BadCall("burn_in", "must be at least 0 rows", str(burn_in))
        if not 0.0 < confidence < 1.0:
            raise BadCall("confidence", "must lie between 0 and 1", str(confidence))
        self.n_vectors = n_vectors
        self.burn_in = burn_in
        self.confidence = confidence
        self.n_rows = 0
        self._last_step = 0
        self._total = np.zeros(n_vectors)
        self._batch_rows = 1
        self._mark_steps = np.zeros(0, dtype=np.int64)
        self._mark_totals = np.zeros((0, n_vectors))
        self._first_bad = np.full(n_vectors, -1, dtype=np.int64)
        self._has_grown = False

    def update(self, steps: NDArray[np.int64], growth: NDArray[np.float64]) -> None:
        """Add the next rows.

        Parameters
        ----------
        steps
            Training step of each row, `(n,)`, rising and above all earlier ones.
        growth
            `ln` of the factor by which each tangent vector was stretched since the row before, `(n, k)`; the
            first row of the series is 0.

        Raises
        ------
        BadCall
            If the shapes do not agree, the steps do not rise, or the first row of the series is not 0.
        """
        check_rows(steps, growth, "growth")
        if growth.shape[1] != self.n_vectors:
            raise BadCall("growth", f"must have {self.n_vectors} columns", str(growth.shape), kind=Kind.DATA)
        if len(steps) == 0:
            return
        earlier = self._last_step if self.n_rows else int(steps[0]) - 1
        if (np.diff(steps, prepend=earlier) <= 0).any():
            raise BadCall("steps", f"must rise, from above {earlier}", str(steps.tolist()[:8]), kind=Kind.DATA)
        is_finite = np.isfinite(growth)
        if self.n_rows == 0 and growth[0][is_finite[0]].any():
            must = "must be 0 in row 0, before which nothing is stretched"
            raise BadCall("growth", must, str(growth[0].tolist()[:8]), kind=Kind.DATA)
        is_new = (self._first_bad < 0) & ~is_finite.all(axis=0)
        self._first_bad[is_new] = self.n_rows + np.argmax(~is_finite, axis=0)[is_new]
        self._has_grown = self._has_grown or bool(growth.any())
        # Accumulation adds one row after the other, so the bits do not depend on how the rows are cut.
        totals = np.cumsum(np.vstack([self._total, np.where(is_finite, growth, 0.0)]), axis=0)[1:]
        self._mark(np.arange(self.n_rows, self.n_rows + len(steps)) - (self.burn_in or 0), steps, totals)
        self.n_rows += len(steps)
        self._last_step = int(steps[-1])
        self._total = totals[-1].copy()

    def _mark(self, rows: NDArray[np.int64], steps: NDArray[np.int64], totals: NDArray[np.float64]) -> None:
        """Keep the running sums at the ends of batches; `rows` `(n,)` count from the first batch."""
        batch_rows = self._batch_rows
        while int(rows[-1]) >= 2 * LEAST_BATCHES * batch_rows:
            batch_rows *= 2
        thin = batch_rows // self._batch_rows
        is_end = (rows >= 0) & (rows % batch_rows == 0)
        self._mark_steps = np.concatenate([self._mark_steps[::thin], steps[is_end]])
        self._mark_totals = np.concatenate([self._mark_totals[::thin], totals[is_end]])
        self._batch_rows = batch_rows

    def estimates(self) -> list[Estimate]:
        """Return the exponents of the rows so far, one per tangent vector, without changing anything.

        Returns
        -------
        list of Estimate
            See `tangent_exponents`.
        """
        origin = self.burn_in or 0
        n_behind = self.n_rows - 1 - origin
        method = "tangent growth, batch means"
        least = LEAST_BATCHES if self.burn_in is None else 1
        if n_behind < least:
            after = "row 0" if self.burn_in is None else f"a burn-in of {self.burn_in}"
            what = f"{max(n_behind, 0)} rows after {after}; {least} are needed."
            return [Estimate.failed(Status.TOO_FEW_ROWS, method=method, what=what)] * self.n_vectors
        if not self._has_grown:
            what = "No tangent vector was stretched or shrunk in any row."
            return [Estimate.failed(Status.CONSTANT, n=1, method=method, what=what)] * self.n_vectors
        # Without a given burn-in, the first batch is left out.
        first = 1 if self.burn_in is None else 0
        steps, totals = self._mark_steps[first:], self._mark_totals[first:]
        rates = np.diff(totals, axis=0) / np.diff(steps)[:, None]
        values = (self._total - totals[0]) / float(self._last_step - steps[0])
        window = (int(steps[0]), self._last_step)
        return [self._estimate(k, float(values[k]), rates[:, k], method, window) for k in range(self.n_vectors)]

    def _estimate(
        self, vector: int, value: float, rates: NDArray[np.float64], method: str, window: tuple[int, int]
    ) -> Estimate:
        """Return the exponent of one vector from the rates of its batches `(n_batches,)`."""
        bad = [(int(row), k) for k, row in enumerate(self._first_bad[: vector + 1]) if row >= 0]
        if bad:
            row, at = min(bad)
            behind = f", to which vector {vector} is made orthogonal" if at < vector else ""
            what = f"First at row {row}, in vector {at}{behind}."
            return Estimate.failed(Status.NON_FINITE, n=1, method=method, what=what)
        n_batches = len(rates)
        if self._batch_rows < LEAST_BATCH_ROWS:
            message = f"No interval: batches of {LEAST_BATCH_ROWS} rows need {LEAST_BATCHES * LEAST_BATCH_ROWS} rows."
            return Estimate(value, Status.OK, n=1, method=method, window=window, message=message)
        low, high = student(rates, self.confidence)
        half = (high - low) / 2.0
        message = f"Over this trajectory; the interval is over {n_batches} batches of {self._batch_rows} rows."
        return Estimate(
            value, Status.OK, value - half, value + half, self.confidence, n_batches, method, window, message
        )

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the whole state as arrays, for `from_snapshot`."""
        return {
            "burn_in": np.array(-1 if self.burn_in is None else self.burn_in, dtype=np.int64),
            "confidence": np.array(self.confidence),
            "n_rows": np.array(self.n_rows, dtype=np.int64),
            "last_step": np.array(self._last_step, dtype=np.int64),
            "total": self._total.copy(),
            "batch_rows": np.array(self._batch_rows, dtype=np.int64),
            "mark_steps": self._mark_steps.copy(),
            "mark_totals": self._mark_totals.copy(),
            "first_bad": self._first_bad.copy(),
            "has_grown": np.array(self._has_grown),
        }

    @classmethod
    def from_snapshot(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """Return an object that continues with the same bits as the one that returned `state`."""
        burn_in = int(state["burn_in"])
        growth = cls(len(state["total"]), None if burn_in < 0 else burn_in, float(state["confidence"]))
        growth.n_rows = int(state["n_rows"])
        growth._last_step = int(state["last_step"])
        growth._total = np.array(state["total"], dtype=np.float64)
        growth._batch_rows = int(state["batch_rows"])
        growth._mark_steps = np.array(state["mark_steps"], dtype=np.int64)
        growth._mark_totals = np.array(state["mark_totals"], dtype=np.float64)
        growth._first_bad = np.array(state["first_bad"], dtype=np.int64)
        growth._has_grown = bool(state["has_grown"])
        return growth


def tangent_exponents(
    steps: NDArray[np.int64], growth: NDArray[np.float64], burn_in: int | None = None, confidence: float = 0.95
) -> list[Estimate]:
    """Estimate the exponents of a recorded tangent growth series.

    For a training run they are finite-time numbers, averaged over its trajectory: see the module docstring.

    Parameters
    ----------
    steps
        Training step of each row, `(T,)`, rising.
    growth
        `ln` of the factor by which each tangent vector was stretched since the row before, `(T, k)`; row 0 is 0.
        The vectors are made orthonormal again after every row, in this order.
    burn_in
        Rows to leave out after row 0. Default: the first s rows, s the largest power of two at most an eighth
        of `T - 1`; see `TangentGrowth`.
    confidence
        Stated coverage of the intervals.

    Returns
    -------
    list of Estimate
        k values in 1 per step, in the order of the vectors, which is falling after the burn-in. `n` is the number of
        batches in the interval, 7 to 15, and `window` goes from the step at the end of the burn-in to the last step.
        With batches under `LEAST_BATCH_ROWS` rows there is a value without an interval, and `n` is 1. A series that
        grows evenly has an interval of width 0. Statuses: `too_few_rows` (under 8 rows after row 0; with a given
        burn-in, none after it), `non_finite` (in this vector or one before it), `constant` (no vector was stretched
        or shrunk in any row).

    Raises
    ------
    BadCall
        If the shapes do not agree, there is no vector, the steps do not rise, row 0 is not 0, or a parameter is
        outside its range.

    Examples
    --------
    >>> growth = np.full((101, 2), [0.5, -0.1])
    >>> growth[0] = 0.0
    >>> [round(found.value, 6) for found in tangent_exponents(np.arange(101), growth)]
    [0.5, -0.1]
    """
    check_rows(steps, growth, "growth")
    whole = TangentGrowth(growth.shape[1], burn_in, confidence)
    whole.update(steps, growth)
    return whole.estimates()
