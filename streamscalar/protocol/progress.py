"""Progress of runs, as small values for display."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Newest embedded row of a run.

    Attributes
    ----------
    run_id
        Name of the run.
    n_rows
        Number of rows embedded so far.
    coordinate
        Live scalar embedding of the reference, in basis version `basis_version`.
    basis_version
        Version of the basis that `coordinate` belongs to.
    divergence
        Mean over the perturbed replicas of ln of the L1 divergence; NaN if there is none.
    """

    run_id: str
    n_rows: int
    coordinate: float
    basis_version: int
    divergence: float


@dataclass(frozen=True, slots=True)
class RunView:
    """A run in the live view: phase, attempts, reason of the last failure, and newest row."""

    run_id: str
    phase: str
    attempts: int
    reason: str
    progress: RunProgress | None


MAX_VIEWS = 64
"""Maximum number of runs in a snapshot, which is queried several times a second and so has a bounded size."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of an experiment.

    Attributes
    ----------
    n_rows_planned
        Planned number of rows of one run.
    n_rows
        Number of embedded rows over all runs.
    is_over
        Whether nothing is left to do.
    error
        Why the experiment ended early; empty otherwise.
    counts
        Number of runs in each phase.
    n_unwanted
        Number of runs that were cancelled on their own.
    runs
        One view per run, in the planned order; of more than `MAX_VIEWS` runs, some that failed, then those in training
        or waiting for their solution.
    note
        What the experiment waits for while no run is in training; empty otherwise.
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
        """Number of runs of the experiment."""
        return sum(self.counts.values())

    def count(self, phase: str) -> int:
        """Return how many runs are in `phase`."""
        return self.counts.get(phase, 0)
