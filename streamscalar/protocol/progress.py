"""Small numbers that say how far the runs are."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The newest embedded row of a run.

    Attributes
    ----------
    run_id
        Name of the run.
    n_rows
        Rows embedded so far.
    coordinate
        Live scalar embedding of the reference, in basis version `basis_version`.
    basis_version
        Version of the basis that `coordinate` belongs to.
    divergence
        Mean over the perturbed replicas of ln of the L1 divergence; NaN where there is none.
    """

    run_id: str
    n_rows: int
    coordinate: float
    basis_version: int
    divergence: float


@dataclass(frozen=True, slots=True)
class RunView:
    """One line of the live view: phase, attempts, the reason of the last failure, and the newest row."""

    run_id: str
    phase: str
    attempts: int
    reason: str
    progress: RunProgress | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of an experiment.

    Attributes
    ----------
    n_rows_planned
        Rows of one run.
    n_rows
        Rows embedded over all runs.
    is_over
        Whether nothing is left to do.
    error
        Why the experiment stopped before its end; empty otherwise.
    runs
        One view per run, in planned order.
    """

    n_rows_planned: int
    n_rows: int
    is_over: bool
    error: str = ""
    runs: tuple[RunView, ...] = field(default=())

    def count(self, phase: str) -> int:
        """Return how many runs are in `phase`."""
        return sum(run.phase == phase for run in self.runs)
