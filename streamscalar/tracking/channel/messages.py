"""Messages between the training process and its worker; imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal

from streamscalar.config import RunSetting
from streamscalar.tracking.channel.shards import Shards
from streamscalar.tracking.channel.values import N_VALUES
from streamscalar.types import Layout

Resume = Literal["never", "allow", "must"]


@dataclass(frozen=True)
class Destination:
    """A back end that results are also sent to.

    Attributes
    ----------
    backend
        Its name, as in `mirror`.
    settings
        What the training process has set for it, such as the identifier of an active run.
    """

    backend: str
    settings: dict[str, str]


@dataclass(frozen=True)
class Open:
    """First message to a worker: the run to open.

    Attributes
    ----------
    store, config, provenance
        Folder of the store, its config, and its provenance if it is new.
    address
        Ray cluster to record to; `None` for the local disk.
    name, is_named
        Requested name of the run, and whether the user gave it.
    resume
        What to do if the run exists.
    keeps_pace
        Whether the run has shadows or a tangent vector, which cannot be restored: it is resumed as a child.
    layout, setting, seed
        Definition of the run.
    n_slots, n_values
        Number of slots of the ring, and of its values in transit.
    attach
        Name of the run that an earlier worker of this tracker wrote; `None` for the first worker.
    shards
        Where the other ranks of a sharded model write their parts of the rows; `None` where rows are whole.
    mirrors
        Back ends that results are also sent to.
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
    n_values: int = N_VALUES
    attach: str | None = None
    shards: Shards | None = None
    mirrors: tuple[Destination, ...] = ()


@dataclass(frozen=True)
class Begin:
    """Start a run: the first, or a child of the previous one.

    Attributes
    ----------
    number
        Number of the order, counted per tracker.
    run
        Number of the run in this tracker, from 1; see `ValueRing`.
    metrics
        Names of the metrics of its rows.
    fork_step
        Last step that a child has in common with its parent; `None` for the first run.
    """

    number: int
    run: int
    metrics: tuple[str, ...]
    fork_step: int | None


@dataclass(frozen=True)
class Facts:
    """Facts for the status of the run: steps without a row, dropped rows, share of the training time.

    `n_values_dropped` counts values of metrics that found no room.
    `not_reproduced` says why shadows and tangent vector do not follow the training, `stopped` why no row is recorded
    any more; both are empty where that is not so.
    """

    n_skipped: int
    n_dropped: int
    overhead: float
    not_reproduced: str = ""
    stopped: str = ""
    n_values_dropped: int = 0


@dataclass(frozen=True)
class Row:
    """A row in slot `slot` of the ring, and its metrics; `number` as in `Begin`."""

    number: int
    slot: int
    step: int
    facts: Facts


@dataclass(frozen=True)
class Settle:
    """No more metrics will come for the row of step `step`.

    Until then, or until the next order, the worker does not store the row.
    """

    number: int
    step: int


@dataclass(frozen=True)
class Wake:
    """Take the values that wait now."""


@dataclass(frozen=True)
class FinishRun:
    """The training ended; `failure` is the reason if it failed, else empty."""

    facts: Facts
    failure: str


Order = Begin | Row | Settle | Wake | FinishRun


@dataclass(frozen=True)
class Opened:
    """The worker is ready.

    Attributes
    ----------
    run_id
        Name of the run.
    newest
        Newest recorded step of a resumed run; `None` for a new one.
    metrics
        Names of the metrics of a resumed run.
    n_logged
        Number of logged values of a resumed run.
    must_fork
        Whether the next row belongs to a new child of that run.
    notes
        Messages to the user.
    """

    run_id: str
    newest: int | None
    metrics: tuple[str, ...]
    n_logged: int
    must_fork: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """A child run was started under this name."""

    run_id: str


@dataclass(frozen=True)
class Trouble:
    """A problem of the worker, which continues; sent once per kind."""

    kind: str
    text: str


@dataclass(frozen=True)
class Refused:
    """The worker cannot open the run."""

    error: Exception


@dataclass(frozen=True)
class Done:
    """The end of the work: everything is stored if `trouble` is empty, else it is the reason why not."""

    trouble: str


Reply = Opened | Named | Trouble | Refused | Done
