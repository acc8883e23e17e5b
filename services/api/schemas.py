"""The documents that the API answers with; the OpenAPI schema and the typed client follow from them."""

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from streamscalar.types import AlertLevel, Regime, Status, json_float

NonFinite = Literal["nan", "inf", "-inf"]
Number = float | NonFinite
"""A float; JSON has no other way to say that it is not finite."""


def number(value: float | None) -> Number | None:
    """Return a float as documents hold it."""
    return cast(Number | None, json_float(value))


State = Literal["waiting", "training", "trained", "done", "failed", "cancelled", "silent"]
"""`trained`: all rows are there, the exact embedding is not yet. `silent`: neither ended nor written to lately."""

RunKey = Annotated[str, Field(description="Id of the run, `<experiment>:<run id>`.")]
LearningRate = Annotated[Number | None, Field(description="Learning rate; null where it is not known.")]
Epsilon = Annotated[Number | None, Field(description="Size of the perturbation; null without one.")]
IntervalEnd = Annotated[Number | None, Field(description="End of the interval; null without one.")]
RegimeReason = Annotated[str, Field(description="One sentence of reason for the regime.")]
NextCursor = Annotated[str | None, Field(description="Pass it as `cursor` for the next page; null on the last.")]


class Document(BaseModel):
    """Base of all documents."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class EstimateDocument(Document):
    """A number with its interval and its status; `value` is null unless `status` is ok."""

    value: Number | None
    """The number."""
    low: IntervalEnd
    high: IntervalEnd
    confidence: float | None
    """Stated coverage of the interval, in (0, 1)."""
    n: int
    """Independent pieces behind the value."""
    status: Status
    """`ok`, or why there is no number."""
    method: str
    """Name of the estimator."""
    window: tuple[int, int] | None
    """First and last step used."""
    message: str
    """What happened and what to try; empty where there is nothing to add."""


EstimatesByName = Annotated[dict[str, EstimateDocument], Field(description="Estimates by name.")]


class Sparkline(Document):
    """A thinned curve of the reference's scalar."""

    steps: list[int]
    """Training step of each point."""
    values: list[Number]
    """Scalar at each point."""
    of: int
    """Rows that it was thinned from."""


class RunItem(Document):
    """One line of the run list."""

    id: str
    """`<experiment>:<run id>`."""
    experiment: str
    """Name of the experiment."""
    run_id: str
    """Name of the run in its store."""
    state: State
    """What the run does now."""
    is_tracked: bool
    """Whether a user's own loop trains it."""
    group: str
    """Group that it is listed under."""
    tags: list[str]
    """Words to find it by."""
    learning_rate: LearningRate
    epsilon: Epsilon
    initial_condition: int | None
    """Number of its initial condition, from 0."""
    n_rows: int
    """Rows that can be read."""
    n_planned: int | None
    """Rows that it is to have; null where nobody knows."""
    step: int | None
    """Training step of the newest row."""
    loss: Number | None
    """Newest loss of the reference; null where not recorded."""
    accuracy: Number | None
    """Newest test accuracy of the reference; null where not recorded."""
    updated_at: Annotated[float, Field(description="Seconds since 1970 when its newest row was written.")]
    parent: tuple[str, int] | None
    """Run and step that it was forked from."""
    reason: str
    """Why it failed or was started again; empty otherwise."""
    regime: Regime | None
    """By this run alone; null until it was analysed."""
    exponent: EstimateDocument | None
    """Finite-time exponent per step; null until analysed."""
    explained_variance: float | None
    """Share of the variance along the scalar; null before there is an embedding."""
    sparkline: Sparkline | None
    """Curve of the scalar; null before there is one."""
    n_alerts: int
    """Number of its alerts."""


class RunPage(Document):
    """A page of the run list."""

    items: list[RunItem]
    """Runs of this page."""
    n: int
    """Runs on this page."""
    of: int
    """Runs that the filter lets through."""
    n_analysed: int
    """Of those, how many have a regime by now; sorting by one puts the others last."""
    next_cursor: NextCursor


class RunDetails(Document):
    """Everything small about one run."""

    item: RunItem
    """Its line of the list."""
    setting: dict[str, Any]
    """What distinguishes the run, such as its learning rate."""
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
    """Names of the metrics."""
    n_embedded: int
    """Rows that have coordinates."""
    n_components: int
    """Coordinates of each snapshot; the first is the scalar."""
    bases: list[int]
    """Versions of the live basis, oldest first."""
    has_exact: bool
    """Whether the exact embedding is there."""
    exact: dict[str, Any]
    """Method, passes and residual of the exact embedding; empty before there is one."""


class Series(Document):
    """A sampled series, one list of values per replica.

    Rows are a power of two apart (`stride`), counted from row 0, so that points never move: a longer series is only
    appended to, or loses every second point. The newest row always closes it. An answer to a cursor begins with the
    last point that is a multiple of `stride`: drop what you hold from its first step on, then append.
    """

    run: RunKey
    name: str
    """What was measured."""
    replicas: list[str]
    """Meaning of each list of values: `reference`, `perturbed 1`..., `control`."""
    steps: list[int]
    """Training step of each point."""
    values: list[list[Number]]
    """By replica, then step."""
    n: int
    """Points in this answer."""
    of: int
    """Rows in the asked range."""
    stride: int
    """Rows from one point to the next."""
    basis: str | None
    """`exact`, or the version of the live basis, for coordinates; null otherwise."""
    reset: bool
    """Whether the cursor's basis or stride no longer holds: drop what you have and take this instead."""
    cursor: str
    """Pass it to get only what came after."""


class Estimates(Document):
    """What one run says, by quantity."""

    run: RunKey
    n_rows: int
    """Rows that the estimates are made of."""
    regime: Regime
    """Regime by this run alone."""
    regime_reason: RegimeReason
    control_divergence: Number | None
    """Largest L1 distance between control and reference; null without a control."""
    eigengap: Number | None
    """One minus the ratio of the two leading eigenvalues; null before there is an embedding."""
    estimates: EstimatesByName


class SettingDocument(Document):
    """Estimates over the initial conditions of one setting."""

    learning_rate: LearningRate
    epsilon: Epsilon
    regime: Regime
    """Regime of the setting."""
    regime_reason: RegimeReason
    n_runs: int
    """Number of runs behind it."""
    estimates: EstimatesByName


class ExperimentItem(Document):
    """One line of the experiment list."""

    name: str
    """Name of the experiment."""
    task: str
    """Task of its config; `tracked` for trainings recorded by `ss.track`."""
    is_tracked: bool
    """Whether a user's own loop trains its runs."""
    n_runs: int
    """Number of runs that have begun."""
    states: dict[str, int]
    """Runs by state."""
    n_rows: int
    """Rows of all runs together."""
    created_at: float
    """Seconds since 1970 when the store was made."""
    updated_at: float
    """Seconds since 1970 when its newest row was written."""


class ExperimentPage(Document):
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
    """Its line of the list."""
    config: dict[str, Any]
    """Config under which it was recorded."""
    provenance: dict[str, Any]
    """Versions, device and seeds: what the bits depend on."""
    settings: list[SettingDocument]
    """One entry per learning rate and epsilon."""
    n_analysed: int
    """Runs behind `settings`; the others follow."""


class Compared(Document):
    """One run of a comparison."""

    run: RunKey
    values: list[Number | None]
    """Newest value at or before each step; null before its first row and after its last."""


class Comparison(Document):
    """The reference's series of several runs at shared steps."""

    name: str
    """Series that is compared."""
    axis: Literal["shared", "own"]
    """`shared`: coordinates of all runs in one joint basis, comparable. `own`: each in its own; only shapes compare."""
    message: str
    """Why the axis is shared or not."""
    steps: list[int]
    """Steps of all columns."""
    runs: list[Compared]
    """One entry per run, in the order of the request."""
    n: int
    """Number of steps in this answer."""
    of: int
    """Number of steps that it was thinned from."""


class Neighbour(Document):
    """A run and how far its trajectory lies from the asked one."""

    run: RunKey
    distance: float
    """Distance of its trajectory, by the method of the answer."""
    n_steps: int
    """Steps that both have."""
    features: dict[str, Number]
    """What was compared, of the neighbour, where layouts differ."""


class Neighbours(Document):
    """The nearest runs by trajectory."""

    run: str
    """Id of the run that was asked about."""
    method: Literal["weights", "shape"]
    """`weights`: RMS distance along the shared components at equal steps, for runs of one layout. `shape`: speed,
    curvature, autocorrelation and exponent of the scalar, standardised over the runs compared."""
    message: str
    """What was measured."""
    items: list[Neighbour]
    """The nearest runs, nearest first."""
    n: int
    """Number of runs in this answer."""
    of: int
    """Runs that could be compared."""


class AlertDocument(Document):
    """Something happened to a run that somebody should know."""

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
    """Seconds since 1970 when the row was written, or when silence was noticed."""
    message: str
    """One sentence: what happened."""
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
    """Which runs to add to an experiment."""

    learning_rate: list[Rate] = Field(min_length=1, max_length=100)
    """Learning rates of the new runs."""
    n_initial_conditions: Annotated[int, Field(ge=1, le=1000)] | None = None
    """As many as the experiment has, where it is not given; those that are there already are not run again."""


class Accepted(Document):
    """What was asked for; whoever runs the experiment takes it up within a second or so, or `resume` does."""

    runs: list[str]
    """Ids of the runs concerned."""


class Health(Document):
    """Whether the service runs."""

    status: Literal["ok"]
    """Always `ok`."""


class Problem(Document):
    """An error after RFC 9457."""

    type: str
    """Kind of the problem, a URI reference."""
    title: str
    """Name of the HTTP status."""
    status: int
    """HTTP status."""
    detail: str
    """What is wrong and what to do."""
