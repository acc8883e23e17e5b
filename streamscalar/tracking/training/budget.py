"""Decides which steps are recorded, so that recording stays within its share of the training time; no clock, no I/O."""

from streamscalar.tracking.training.slowdown import Slowdown

FARTHEST = 2**30
"""Largest stride; with it a run has one row."""

LEAST_SHARE = 0.5
"""Share of `max_overhead` that rows get, even where metrics of very short steps take more than the rest."""

HOLD_ROWS = 4
"""Number of rows for which the stride is not lowered after a row found no free slot."""


class Budget:
    """Decides at each step whether it is recorded.

    The cost so far is the time spent in the thread of the training plus the CPU time of the worker, weighted by how
    much it slows the training. The next row is recorded if that cost, including the row, stays within `max_overhead`
    of the time since the first step. Where steps are very short, calls of `step` with metrics may alone cost more than
    that; rows then get half of it. The stride between rows is a power of two, so that a coarser grid is part of a finer
    one and rows are evenly spaced, without bursts and gaps.

    Parameters
    ----------
    max_overhead
        Maximum share of the training time, over 0.
    worker_weight
        Seconds by which one second of CPU time of the worker slows the training, until that is measured (see `watch`).
    every_n_steps
        A fixed stride, whatever its cost.

    Attributes
    ----------
    stride : int
        Current number of steps between rows.
    n_steps, n_recorded : int
        Number of steps seen and of rows recorded.

    Examples
    --------
    >>> budget = Budget(max_overhead=0.02)
    >>> taken = []
    >>> for step in range(200):
    ...     now_s = 0.010 * step
    ...     if budget.is_on_grid(now_s) and budget.is_due(now_s, row_worker_s=0.0, n_stored=0):
    ...         taken.append(step)
    ...         budget.took_row(0.001)
    >>> budget.stride, taken[0], taken[-3:]
    (8, 0, [176, 184, 192])
    >>> round(budget.overhead(2.0, worker_s=0.0), 4)
    0.012
    """

    def __init__(self, max_overhead: float, worker_weight: float = 0.0, every_n_steps: int | None = None) -> None:
        self._max_overhead = max_overhead
        self._slowdown = Slowdown(worker_weight)
        self._watched: tuple[float, float, float] | None = None
        self._is_fixed = every_n_steps is not None
        self.stride = every_n_steps or 1
        self.n_steps = 0
        self.n_recorded = 0
        self._started_s = 0.0
        self._row_s = 0.0
        self._other_s = 0.0
        self._hold_until = 0

    def is_on_grid(self, now_s: float) -> bool:
        """Count one step and return whether it may be recorded; `now_s` is a time of any monotonic clock."""
        self.n_steps += 1
        if self.n_steps == 1:
            self._started_s = now_s
        return (self.n_steps - 1) % self.stride == 0

    def is_due(self, now_s: float, row_worker_s: float, n_stored: int, other_worker_s: float = 0.0) -> bool:
        """Return whether to record the step that was just counted.

        Parameters
        ----------
        now_s
            Current time of the same clock.
        row_worker_s
            CPU time of the worker for rows so far.
        n_stored
            Number of rows processed in that time; each further row is expected to cost as much.
        other_worker_s
            CPU time of the worker for everything else.
        """
        if self.n_steps == 1 or self._is_fixed:
            return True
        elapsed_s = now_s - self._started_s
        worker_s = row_worker_s / n_stored if n_stored else 0.0
        row_s = self._row_s / max(1, self.n_recorded) + self._slowdown.weight * worker_s
        rows_s = self._row_s + self._slowdown.weight * max(row_worker_s, self.n_recorded * worker_s)
        other_s = self._other_s + self._slowdown.weight * other_worker_s
        self._adapt(elapsed_s / (self.n_steps - 1), row_s)
        on_grid = (self.n_steps - 1) % self.stride == 0
        return on_grid and rows_s + row_s <= self._share_of_rows_s(elapsed_s, other_s)

    def watch(self, now_s: float, worker_s: float) -> None:
        """Measure how much the worker slows the training; called after equal numbers of steps.

        Parameters
        ----------
        now_s
            Current time of the same clock.
        worker_s
            CPU time of the worker so far; less than before where another worker has been started.
        """
        own_s = self._row_s + self._other_s
        before, self._watched = self._watched, (now_s, own_s, worker_s)
        if before is not None and worker_s >= before[2]:
            self._slowdown.add(now_s - before[0] - (own_s - before[1]), worker_s - before[2])

    def took_row(self, thread_s: float) -> None:
        """Count a row and the time it took in the thread of the training."""
        self.n_recorded += 1
        self._row_s += thread_s

    def took_none(self, thread_s: float) -> None:
        """Count the time that a step without a row took in the thread of the training."""
        self._other_s += thread_s

    def found_no_slot(self) -> None:
        """Double the stride after a due row found no free slot, and do not lower it for `HOLD_ROWS` rows."""
        if not self._is_fixed:
            self.stride = min(2 * self.stride, FARTHEST)
            self._hold_until = self.n_steps + HOLD_ROWS * self.stride

    def overhead(self, now_s: float, worker_s: float) -> float:
        """Return the share of the time since the first step spent on recording; infinite if no time has passed."""
        spent_s = self._row_s + self._other_s + self._slowdown.weight * worker_s
        elapsed_s = self.elapsed_s(now_s)
        return spent_s / elapsed_s if elapsed_s > 0 else float("inf")

    def elapsed_s(self, now_s: float) -> float:
        """Return the time since the first step."""
        return now_s - self._started_s if self.n_steps else 0.0

    def _adapt(self, step_s: float, row_s: float) -> None:
        """Double the stride if rows cost too much, or halve it while twice as many would be affordable.

        It doubles at most once per call, because a single expensive row may be an outlier, and the next call comes
        only after the new stride.
        """
        wanted = row_s / self._share_of_rows_s(step_s, self._other_s / self.n_steps) if step_s > 0 else float(FARTHEST)
        if self.stride < min(wanted, FARTHEST):
            self.stride *= 2
        # 0.35 rather than 0.5, so that the stride does not oscillate with noise.
        while self.stride > 1 and wanted < 0.35 * self.stride and self.n_steps >= self._hold_until:
            self.stride //= 2

    def _share_of_rows_s(self, time_s: float, other_s: float) -> float:
        """Return how much of a time rows may take, where all else takes `other_s` of it."""
        return max(self._max_overhead * time_s - other_s, LEAST_SHARE * self._max_overhead * time_s)
