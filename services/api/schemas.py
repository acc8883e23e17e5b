"""The documents that the API returns; the OpenAPI schema is generated from them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamscalar.types import AlertLevel, Regime
from streamscalar_services.api.estimate_schemas import (
    Document,
    Epsilon,
    EstimateDocument,
    LearningRate,
    Number,
    RunKey,
    SettingDocument,
)

State = Literal["waiting", "training", "trained", "done", "failed", "cancelled", "silent"]
STATES: Mapping[State, str] = {
    "waiting": "The run has not started.",
    "training": "Rows are being written.",
    "trained": "All rows are stored; the exact embedding is not computed yet.",
    "done": "All rows and the exact embedding are stored.",
    "failed": "The run stopped with an error; its rows are kept.",
    "cancelled": "The run was stopped on request; its rows are kept.",
    "silent": "The run has not ended, and no row was written recently.",
}
"""What each state means, in the order of a run's life."""

NextCursor = Annotated[str | None, Field(description="Pass it as `cursor` for the next page; null on the last.")]


class Sparkline(Document):
    """A thinned curve of the reference's scalar."""

    steps: list[int]
    """Training step of each point."""
    values: list[Number]
    """Scalar at each point."""
    of: int
    """Rows from which it was thinned."""


class RunItem(Document):
    """One row of the run list."""

    id: str
    """`<experiment>:<run id>`."""
    experiment: str
    """Name of the experiment."""
    run_id: str
    """Name of the run in its store."""
    state: State
    """State of the run."""
    is_tracked: bool
    """Whether a training loop of the user writes it, through `ss.track`."""
    group: str
    """Group of the run."""
    tags: list[str]
    """Tags of the run and of its experiment."""
    learning_rate: LearningRate
    epsilon: Epsilon
    initial_condition: int | None
    """Number of its initial condition, from 0."""
    n_rows: int
    """Rows that can be read."""
    n_planned: int | None
    """Rows of the complete run; null if unknown."""
    step: int | None
    """Training step of the newest row."""
    loss: Number | None
    """Newest loss of the reference; null if not recorded."""
    accuracy: Number | None
    """Newest test accuracy of the reference; null if not recorded."""
    updated_at: Annotated[float, Field(description="Unix time of its newest row, in seconds.")]
    parent: tuple[str, int] | None
    """Run and step from which it was forked."""
    reason: str
    """Reason of a failure or restart; empty otherwise."""
    regime: Regime | None
    """Regime of this run alone; null until it is analysed."""
    exponent: EstimateDocument | None
    """Finite-time exponent per step; null until it is analysed."""
    explained_variance: float | None
    """Share of the variance along the scalar; null without an embedding."""
    sparkline: Sparkline | None
    """Curve of the scalar; null before there is one."""
    n_alerts: int
    """Number of its alerts."""


class RunPageDocument(Document):
    """A page of the run list."""

    items: list[RunItem]
    """Runs of this page."""
    n: int
    """Runs on this page."""
    of: int
    """Runs that match the filter."""
    n_analysed: int
    """Of those, how many are analysed; sorting by regime or exponent puts the others last."""
    next_cursor: NextCursor


class RunDetails(Document):
    """Setting, layout and state of one run."""

    item: RunItem
    """Its row in the list."""
    setting: dict[str, Any]
    """Setting of the run, such as its learning rate."""
    seed: int
    """Seed of its initial condition."""
    n_parameters: int
    """Number P of recorded parameters."""
    dtype: str
    """Type of the stored weights, `float32` or `float64`."""
    layers: list[dict[str, Any]]
    """Name, offset, shape and type of each parameter, in recorded order."""
    replicas: list[str]
    """Meaning of the replica axis: `reference`, `perturbed 1`..., `control`."""
    metrics: list[str]
    """Names of the metrics: those of the rows, then those that were only logged."""
    n_embedded: int
    """Rows that have coordinates."""
    n_components: int
    """Coordinates of each snapshot; the first is the scalar."""
    bases: list[int]
    """Versions of the live basis, oldest first."""
    has_exact: bool
    """Whether the exact embedding is stored."""
    exact: dict[str, Any]
    """Method, passes and residual of the exact embedding; empty until it is computed."""


class SeriesDocument(Document):
    """A sampled series, one list of values per replica.

    A point is a row, or for a metric a step for which a value was reported. Points are a power of two apart (`stride`),
    counted from the first, so that they never move: a longer series only gains points, or loses every second one. The
    last point is always the newest. The answer to a cursor begins with the last point that is a multiple of `stride`:
    drop the points from its first step on, then append.
    """

    run: RunKey
    name: str
    """Name of the series."""
    replicas: list[str]
    """Meaning of each list of values: `reference`, `perturbed 1`..., `control`."""
    steps: list[int]
    """Training step of each point."""
    values: list[list[Number | None]]
    """By replica, then step; null where a replica has no value of a metric."""
    n: int
    """Points in this answer."""
    of: int
    """Points of the series in the requested range."""
    stride: int
    """Points of the series from one to the next in this answer."""
    basis: str | None
    """`exact`, or the version of the live basis, for coordinates; null otherwise."""
    reset: bool
    """Whether basis, earlier values or stride have changed since the cursor: replace all points by these."""
    cursor: str
    """Pass it to get only newer points."""


class ExperimentItem(Document):
    """One row of the experiment list."""

    name: str
    """Name of the experiment."""
    task: str
    """Task of its config; `tracked` for runs recorded by `ss.track`."""
    is_tracked: bool
    """Whether training loops of users write its runs, through `ss.track`."""
    n_runs: int
    """Number of runs that have started."""
    states: dict[str, int]
    """Runs by state."""
    n_rows: int
    """Rows of all runs together."""
    created_at: float
    """Unix time in seconds when the store was created."""
    updated_at: float
    """Unix time of its newest row, in seconds."""


class ExperimentPageDocument(Document):
    """The experiments."""

    items: list[ExperimentItem]
    """The experiments."""
    n: int
    """Number of experiments in this answer."""
    of: int
    """Number of experiments in all."""


class ExperimentDetails(Document):
    """An experiment: config, provenance, and estimates per setting."""

    item: ExperimentItem
    """Its row in the list."""
    config: dict[str, Any]
    """Config under which it was recorded."""
    provenance: dict[str, Any]
    """Versions, device and seeds, which the stored bits depend on."""
    settings: list[SettingDocument]
    """One entry per learning rate and epsilon."""
    n_analysed: int
    """Runs that `settings` is computed from; it is updated as more are analysed."""


class Compared(Document):
    """One run of a comparison."""

    run: RunKey
    values: list[Number | None]
    """Newest value at or before each step; null before the first row and after the last."""


class Comparison(Document):
    """The series of the references of several runs at shared steps."""

    name: str
    """Series that is compared."""
    axis: Literal["shared", "own"]
    """`shared`: coordinates of all runs in one joint basis. `own`: one basis per run; only shapes can be compared."""
    message: str
    """Whether the axis is shared, and why."""
    steps: list[int]
    """Steps of all columns."""
    runs: list[Compared]
    """One entry per run, in the order of the request."""
    n: int
    """Number of steps in this answer."""
    of: int
    """Number of steps that it was thinned from."""


class Neighbour(Document):
    """A run and the distance of its trajectory from that of the requested run."""

    run: RunKey
    distance: float
    """Distance of its trajectory, by the method of the answer."""
    n_steps: int
    """Steps that both have."""
    features: dict[str, Number]
    """The compared features of the neighbour; empty for `weights`."""


class Neighbours(Document):
    """The nearest runs by trajectory."""

    run: str
    """Id of the run that was asked about."""
    method: Literal["weights", "shape"]
    """`weights`: RMS distance along the shared components at equal steps, for runs of one layout. `shape`: speed,
    curvature, autocorrelation and exponent of the scalar, standardised over the runs compared."""
    message: str
    """Name of the series."""
    items: list[Neighbour]
    """The nearest runs, nearest first."""
    n: int
    """Number of runs in this answer."""
    of: int
    """Runs that could be compared."""


class AlertDocument(Document):
    """An event in a run that needs attention."""

    id: str
    """Id of the alert."""
    run: RunKey
    rule: str
    """Rule that raised it, as the config section `analysis.alerts` names it."""
    level: AlertLevel
    """Level of the rule."""
    step: int | None
    """Training step at which the rule was met; null where it has none."""
    row: int | None
    """Row at which the rule was met; null where it has none."""
    at: float
    """Unix time in seconds when the row was written, or when silence was detected."""
    change_id: str
    """Id of the poll that found the change behind the alert; events and log lines of that poll carry it too."""
    message: str
    """One sentence."""
    evidence: dict[str, Any]
    """Numbers that the rule compared."""


class AlertPage(Document):
    """Alerts, newest first."""

    items: list[AlertDocument]
    """Alerts on this page."""
    n: int
    """Number of alerts on this page."""
    of: int
    """Number of alerts that match."""
    next_cursor: NextCursor


Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class NewRuns(Document):
    """Runs to add to an experiment."""

    learning_rate: list[Rate] = Field(min_length=1, max_length=100)
    """Learning rates of the new runs."""
    n_initial_conditions: Annotated[int, Field(ge=1, le=1000)] | None = None
    """By default as many as the experiment has; runs that exist already are not run again."""


class Accepted(Document):
    """The requested change; the executor applies it within about a second, or `resume` does."""

    runs: list[str]
    """Ids of the runs concerned."""


class Health(Document):
    """The state of the service."""

    status: Literal["ok"]
    """Always `ok`."""


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 defines it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """Kind of the problem, a URI reference."""
    title: str
    """Name of the HTTP status."""
    status: int
    """HTTP status."""
    detail: str
    """What is wrong and what to do."""
