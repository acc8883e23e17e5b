"""What the training and its worker say to each other; no torch here."""

from dataclasses import dataclass
from typing import Any, Literal

from streamscalar.config import RunSetting
from streamscalar.types import Layout

Resume = Literal["never", "allow", "must"]


@dataclass(frozen=True)
class Open:
    """The first words to a worker.

    Attributes
    ----------
    store, config, provenance
        Folder of the store, what it must hold, and what it was made with.
    address
        Ray cluster to record to; `None` for the local disk.
    name, is_named
        Name wanted for the run, and whether the user gave it.
    resume
        What to do where the name is taken.
    keeps_pace
        Whether the run carries what cannot be taken up again (a shadow, a tangent vector): it is resumed as a child.
    layout, setting, seed
        Definition of the run.
    n_slots
        Slots of the ring.
    attach
        Name of the run that a former worker of this tracker wrote; `None` for its first worker.
    """

    store: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    address: str | None
    name: str
    is_named: bool
    resume: Resume
    keeps_pace: bool
    layout: Layout
    setting: RunSetting
    seed: int
    n_slots: int
    attach: str | None = None


@dataclass(frozen=True)
class Begin:
    """Begin a run: the first, or a child of the run before.

    Attributes
    ----------
    number
        Counts the orders of one tracker.
    metrics
        Names of the metrics.
    fork_step
        Last step that a child has in common with its parent; `None` for no child.
    """

    number: int
    metrics: tuple[str, ...]
    fork_step: int | None


@dataclass(frozen=True)
class Facts:
    """What the training knows and the status of the run shows: steps without a row, rows dropped, share of time."""

    n_skipped: int
    n_dropped: int
    overhead: float


@dataclass(frozen=True)
class Row:
    """A row in slot `slot` of the ring, and its metrics, shape (metrics, R), float64; `number` as in `Begin`.

    Metrics travel as bytes: an array takes the training's thread ten times as long to pickle.
    """

    number: int
    slot: int
    step: int
    metrics: bytes
    facts: Facts


@dataclass(frozen=True)
class FinishRun:
    """The training is over; `failure` says why it broke off, empty where it did not."""

    facts: Facts
    failure: str


Order = Begin | Row | FinishRun


@dataclass(frozen=True)
class Opened:
    """The worker is ready.

    Attributes
    ----------
    run_id
        Name of the run.
    newest
        Newest recorded step of a run that is resumed; `None` for a new one.
    metrics
        Names of a resumed run's metrics.
    must_fork
        Whether the next row belongs to a child of that run.
    notes
        What the user should hear.
    """

    run_id: str
    newest: int | None
    metrics: tuple[str, ...]
    must_fork: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """A child run was begun under this name."""

    run_id: str


@dataclass(frozen=True)
class Trouble:
    """Something went wrong and the worker goes on; said once per kind."""

    kind: str
    text: str


@dataclass(frozen=True)
class Refused:
    """The worker cannot open the run."""

    error: Exception


@dataclass(frozen=True)
class Done:
    """Everything is stored; `trouble` is empty or says what is not."""

    trouble: str


Reply = Opened | Named | Trouble | Refused | Done
