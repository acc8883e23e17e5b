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


class Document(BaseModel):
    """Base of all documents."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class EstimateDocument(Document):
    """A number with its interval and its status; `value` is null unless `status` is ok."""

    value: Number | None
    low: Number | None
    high: Number | None
    confidence: float | None
    n: int
    """Independent pieces behind the value."""
    status: Status
    method: str
    window: tuple[int, int] | None
    """First and last step used."""
    message: str


class Sparkline(Document):
    """A thinned curve of the reference's scalar."""

    steps: list[int]
    values: list[Number]
    of: int
    """Rows that it was thinned from."""


class RunItem(Document):
    """One line of the run list."""

    id: str
    """`<experiment>:<run id>`."""
    experiment: str
    run_id: str
    state: State
    is_tracked: bool
    """Whether a user's own loop trains it."""
    group: str
    tags: list[str]
    learning_rate: Number | None
    epsilon: Number | None
    initial_condition: int | None
    n_rows: int
    """Rows that can be read."""
    n_planned: int | None
    """Rows that it is to have; null where nobody knows."""
    step: int | None
    """Training step of the newest row."""
    loss: Number | None
    accuracy: Number | None
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
    sparkline: Sparkline | None
    n_alerts: int


class RunPage(Document):
    """A page of the run list."""

    items: list[RunItem]
    n: int
    """Runs on this page."""
    of: int
    """Runs that the filter lets through."""
    n_analysed: int
    """Of those, how many have a regime by now; sorting by one puts the others last."""
    next_cursor: str | None
    """Pass it as `cursor` for the next page; null on the last."""


class RunDetails(Document):
    """Everything small about one run."""

    item: RunItem
    setting: dict[str, Any]
    seed: int
    n_parameters: int
    dtype: str
    layers: list[dict[str, Any]]
    replicas: list[str]
    """Meaning of the replica axis: `reference`, `perturbed 1`..., `control`."""
    metrics: list[str]
    n_embedded: int
    n_components: int
    """Coordinates of each snapshot; the first is the scalar."""
    bases: list[int]
    """Versions of the live basis, oldest first."""
    has_exact: bool
    exact: dict[str, Any]
    """Method, passes and residual of the exact embedding; empty before there is one."""


class Series(Document):
    """A sampled series, one list of values per replica.

    Rows are a power of two apart (`stride`), counted from row 0, so that points never move: a longer series is only
    appended to, or loses every second point. The newest row always closes it. An answer to a cursor begins with the
    last point that is a multiple of `stride`: drop what you hold from its first step on, then append.
    """

    run: str
    name: str
    replicas: list[str]
    steps: list[int]
    values: list[list[Number]]
    """By replica, then step."""
    n: int
    of: int
    """Rows in the asked range."""
    stride: int
    basis: str | None
    """`exact`, or the version of the live basis, for coordinates; null otherwise."""
    reset: bool
    """Whether the cursor's basis or stride no longer holds: drop what you have and take this instead."""
    cursor: str
    """Pass it to get only what came after."""


class Estimates(Document):
    """What one run says, by quantity."""

    run: str
    n_rows: int
    """Rows that the estimates are made of."""
    regime: Regime
    regime_reason: str
    control_divergence: Number | None
    eigengap: Number | None
    estimates: dict[str, EstimateDocument]


class SettingDocument(Document):
    """Estimates over the initial conditions of one setting."""

    learning_rate: Number | None
    epsilon: Number | None
    regime: Regime
    regime_reason: str
    n_runs: int
    estimates: dict[str, EstimateDocument]


class ExperimentItem(Document):
    """One line of the experiment list."""

    name: str
    task: str
    is_tracked: bool
    n_runs: int
    states: dict[str, int]
    """Runs by state."""
    n_rows: int
    created_at: float
    updated_at: float


class ExperimentPage(Document):
    """The experiments."""

    items: list[ExperimentItem]
    n: int
    of: int


class ExperimentDetails(Document):
    """An experiment: config, provenance, and estimates per setting."""

    item: ExperimentItem
    config: dict[str, Any]
    provenance: dict[str, Any]
    settings: list[SettingDocument]
    n_analysed: int
    """Runs behind `settings`; the others follow."""


class Compared(Document):
    """One run of a comparison."""

    run: str
    values: list[Number | None]
    """Newest value at or before each step; null before its first row and after its last."""


class Comparison(Document):
    """The reference's series of several runs at shared steps."""

    name: str
    axis: Literal["shared", "own"]
    """`shared`: coordinates of all runs in one joint basis, comparable. `own`: each in its own; only shapes compare."""
    message: str
    steps: list[int]
    runs: list[Compared]
    n: int
    of: int


class Neighbour(Document):
    """A run and how far its trajectory lies from the asked one."""

    run: str
    distance: float
    n_steps: int
    """Steps that both have."""
    features: dict[str, Number]
    """What was compared, of the neighbour, where layouts differ."""


class Neighbours(Document):
    """The nearest runs by trajectory."""

    run: str
    method: Literal["weights", "shape"]
    """`weights`: RMS distance along the shared components at equal steps, for runs of one layout. `shape`: speed,
    curvature, autocorrelation and exponent of the scalar, standardised over the runs compared."""
    message: str
    items: list[Neighbour]
    n: int
    of: int
    """Runs that could be compared."""


class AlertDocument(Document):
    """Something happened to a run that somebody should know."""

    id: str
    run: str
    rule: str
    level: AlertLevel
    step: int | None
    row: int | None
    at: float
    """Seconds since 1970 when the row was written, or when silence was noticed."""
    message: str
    evidence: dict[str, Any]


class AlertPage(Document):
    """Alerts, newest first."""

    items: list[AlertDocument]
    n: int
    of: int
    next_cursor: str | None


Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class NewRuns(Document):
    """Which runs to add to an experiment."""

    learning_rate: list[Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]] = Field(
        min_length=1, max_length=100
    )
    n_initial_conditions: Annotated[int, Field(ge=1, le=1000)] | None = None
    """As many as the experiment has, where it is not given; those that are there already are not run again."""


class Accepted(Document):
    """What was asked for; whoever runs the experiment takes it up within a second or so, or `resume` does."""

    runs: list[str]


class Health(Document):
    """Whether the service runs."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An error after RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
