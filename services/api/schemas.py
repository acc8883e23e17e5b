"""The documents that the API returns; the OpenAPI schema is generated from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from streamscalar.analysis.quantities import QUANTITIES, EstimateLevel, keys
from streamscalar.types import AlertLevel, Regime, Status, json_float

NonFinite = Literal["nan", "inf", "-inf"]
Number = float | NonFinite
"""A float; JSON has no numbers for the values that are not finite."""


def number(value: float | None) -> Number | None:
    """Return a float in the form of the documents."""
    return cast(Number | None, json_float(value))


State = Literal["waiting", "training", "trained", "done", "failed", "cancelled", "silent"]
"""`trained`: all rows are there, the exact embedding is not yet. `silent`: neither ended nor written to lately."""

RunKey = Annotated[str, Field(description="Id of the run, `<experiment>:<run id>`.")]
LearningRate = Annotated[Number | None, Field(description="Learning rate; null where it is not known.")]
Epsilon = Annotated[Number | None, Field(description="Size of the perturbation; null without one.")]
IntervalEnd = Annotated[Number | None, Field(description="End of the interval; null without one.")]
RegimeReason = Annotated[str, Field(description="One sentence of reason for the regime.")]
NextCursor = Annotated[str | None, Field(description="Pass it as `cursor` for the next page; null on the last.")]
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


@dataclass(frozen=True)
class EstimatesOf:
    """Lists, in the schema of a mapping of estimates, the quantities of a level with their meaning."""

    level: EstimateLevel

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of an object with one property per quantity."""
        schema = handler(core)
        one = schema["additionalProperties"]
        properties = {
            key: {**one, "title": QUANTITIES[key].label, "description": about(key)} for key in keys(self.level)
        }
        return {**schema, "properties": properties, "required": list(properties), "additionalProperties": False}


def about(key: str) -> str:
    """Return the meaning of a quantity with its unit and source.

    Examples
    --------
    >>> about("nmle")
    'Growth rate of separations while they grow exponentially. Unit: per step. Computed from: weights.'
    """
    quantity = QUANTITIES[key]
    return f"{quantity.meaning} Unit: {quantity.unit}. Computed from: {quantity.source}."


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
    """What the run does now."""
    is_tracked: bool
    """Whether a training loop of the user writes it, through `ss.track`."""
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
    """Rows of the complete run; null if unknown."""
    step: int | None
    """Training step of the newest row."""
    loss: Number | None
    """Newest loss of the reference; null where not recorded."""
    accuracy: Number | None
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
    """Share of the variance along the scalar; null before there is an embedding."""
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
    next_cursor: str | None
    """Pass it as `cursor` for the next page; null on the last."""


class RunDetails(Document):
    """Setting, layout and state of one run."""

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
    """Method, passes and residual of the exact embedding; empty until it is computed."""


class SeriesDocument(Document):
    """A sampled series, one list of values per replica.

    Rows are a power of two apart (`stride`), counted from row 0, so that points never move: a longer series only
    gains points, or loses every second one. The last point is always the newest row. The answer to a cursor begins
    with the last point that is a multiple of `stride`: drop the points from its first step on, then append.
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
    """Rows in the requested range."""
    stride: int
    """Rows from one point to the next."""
    basis: str | None
    """`exact`, or the version of the live basis, for coordinates; null otherwise."""
    reset: bool
    """Whether the basis or stride of the cursor has changed: replace all points by these."""
    cursor: str
    """Pass it to get only newer points."""


class RunEstimatesDocument(Document):
    """Estimates of one run by quantity."""

    run: RunKey
    n_rows: int
    """Rows that were analysed."""
    regime: Regime
    """Regime by this run alone."""
    regime_reason: RegimeReason
    control_divergence: Number | None
    """Largest L1 distance between control and reference; null without a control."""
    eigengap: Number | None
    estimates: Annotated[dict[str, EstimateDocument], EstimatesOf("run")]


class SettingDocument(Document):
    """Estimates over the initial conditions of one setting."""

    learning_rate: LearningRate
    epsilon: Epsilon
    regime: Regime
    """Regime of the setting."""
    regime_reason: RegimeReason
    n_runs: int
    estimates: Annotated[dict[str, EstimateDocument], EstimatesOf("setting")]


class ExperimentItem(Document):
    """One row of the experiment list."""

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
    """Its line of the list."""
    config: dict[str, Any]
    """Config under which it was recorded."""
    provenance: dict[str, Any]
    """Versions, device and seeds: what the bits depend on."""
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
    """What was measured."""
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
    """Runs to add to an experiment."""

    learning_rate: list[Rate] = Field(min_length=1, max_length=100)
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

    type: str
    """Kind of the problem, a URI reference."""
    title: str
    """Name of the HTTP status."""
    status: int
    """HTTP status."""
    detail: str
    """What is wrong and what to do."""
