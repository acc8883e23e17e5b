"""Small numbers that say how far the runs are."""

from collections.abc import Mapping
from dataclasses import dataclass


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


MAX_VIEWS = 64
"""Runs that a snapshot shows one by one: it is asked for several times a second, and has the same size at any scale."""


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
    counts
        Runs in each phase.
    n_unwanted
        Cancelled runs that the user cancelled one by one.
    runs
        One view per run, in planned order; of more than `MAX_VIEWS` runs some that failed, then those that train or
        wait for their solution.
    note
        What an experiment that stands still waits for; empty otherwise.
    """

    n_rows_planned: int
    n_rows: int
    is_over: bool
    error: str
    counts: Mapping[str, int]
    n_unwanted: int
    runs: tuple[RunView, ...]
    note: str = ""

    @property
    def n_runs(self) -> int:
        """All runs of the experiment."""
        return sum(self.counts.values())

    def count(self, phase: str) -> int:
        """Return how many runs are in `phase`."""
        return self.counts.get(phase, 0)
