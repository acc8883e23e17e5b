"""Summary of a recording, as numbers and as one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass

FEW_ROWS = 50
"""Number of rows below which `str` suggests to record more."""


@dataclass(frozen=True)
class Summary:
    """Summary of a recording.

    Attributes
    ----------
    run_id
        Name of the run; of the last child if training went back to an earlier step.
    n_steps, n_recorded
        Steps seen, and rows sent to the worker.
    n_dropped, n_lost
        Rows that were due while the worker was busy, and rows that could not be stored.
    stride
        Number of steps between rows at the end.
    overhead
        Share of the training time spent on recording, without shadows and tangent vector.
    companions
        Share of the training time spent on shadows and tangent vector.
    warnings
        Number of occurrences of each kind of problem.
    n_values, n_values_lost
        Values of metrics that were handed over, and that were dropped or could not be stored.
    """

    run_id: str
    n_steps: int
    n_recorded: int
    n_dropped: int
    n_lost: int
    stride: int
    overhead: float
    companions: float
    warnings: Mapping[str, int]
    n_values: int = 0
    n_values_lost: int = 0

    def __str__(self) -> str:
        parts = [f"run {self.run_id}: recorded {self.n_recorded:,} of {self.n_steps:,} steps"]
        if self.stride > 1:
            parts[0] += f" (every {_ordinal(self.stride)} at the end)"
        lost = (self.n_dropped, "dropped"), (self.n_lost, "lost"), (self.n_values_lost, "values of metrics lost")
        parts += [f"{n:,} {what}" for n, what in lost if n]
        if self.n_steps:
            parts.append(f"{self.overhead:.1%} overhead")
        if self.companions:
            parts.append(f"{self.companions:.0%} for shadow and tangent")
        is_thin = self.n_recorded < FEW_ROWS < self.n_steps
        return ", ".join(parts) + ("; for more rows raise max_overhead or set every_n_steps" if is_thin else "")


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
