"""The documents that the API returns; the OpenAPI schema is generated from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from streamscalar.analysis.quantities import QUANTITIES, EstimateLevel, keys
from streamscalar.analysis.rules import Level
from streamscalar.types import Regime, Status, json_float

NonFinite = Literal["nan", "inf", "-inf"]
Number = float | NonFinite
"""A float; JSON has no numbers for the values that are not finite."""


def number(value: float | None) -> Number | None:
    """Return a float in the form of the documents."""
    return cast(Number | None, json_float(value))


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
    values: list[Number]
    of: int
    """Rows from which it was thinned."""


class RunItem(Document):
    """One row of the run list."""

    id: str
    """`<experiment>:<run id>`."""
    experiment: str
    run_id: str
    state: State
    is_tracked: bool
    """Whether a training loop of the user writes it, through `ss.track`."""
    group: str
    tags: list[str]
    learning_rate: Number | None
    epsilon: Number | None
    initial_condition: int | None
    n_rows: int
    """Rows that can be read."""
    n_planned: int | None
    """Rows of the complete run; null if unknown."""
    step: int | None
    """Training step of the newest row."""
    loss: Number | None
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
    sparkline: Sparkline | None
    n_alerts: int


class RunPageDocument(Document):
    """A page of the run list."""

    items: list[RunItem]
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
    """Method, passes and residual of the exact embedding; empty until it is computed."""


class SeriesDocument(Document):
    """A sampled series, one list of values per replica.

    Rows are a power of two apart (`stride`), counted from row 0, so that points never move: a longer series only
    gains points, or loses every second one. The last point is always the newest row. The answer to a cursor begins
    with the last point that is a multiple of `stride`: drop the points from its first step on, then append.
    """

    run: str
    name: str
    replicas: list[str]
    steps: list[int]
    values: list[list[Number]]
    """By replica, then step."""
    n: int
    of: int
    """Rows in the requested range."""
    stride: int
    basis: str | None
    """`exact`, or the version of the live basis, for coordinates; null otherwise."""
    reset: bool
    """Whether the basis or stride of the cursor has changed: replace all points by these."""
    cursor: str
    """Pass it to get only newer points."""


class RunEstimatesDocument(Document):
    """Estimates of one run by quantity."""

    run: str
    n_rows: int
    """Rows that were analysed."""
    regime: Regime
    regime_reason: str
    control_divergence: Number | None
    eigengap: Number | None
    estimates: Annotated[dict[str, EstimateDocument], EstimatesOf("run")]


class SettingDocument(Document):
    """Estimates over the initial conditions of one setting."""

    learning_rate: Number | None
    epsilon: Number | None
    regime: Regime
    regime_reason: str
    n_runs: int
    estimates: Annotated[dict[str, EstimateDocument], EstimatesOf("setting")]


class ExperimentItem(Document):
    """One row of the experiment list."""

    name: str
    task: str
    is_tracked: bool
    n_runs: int
    states: dict[str, int]
    """Runs by state."""
    n_rows: int
    created_at: float
    updated_at: float


class ExperimentPageDocument(Document):
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
    """Runs that `settings` is computed from; it is updated as more are analysed."""


class Compared(Document):
    """One run of a comparison."""

    run: str
    values: list[Number | None]
    """Newest value at or before each step; null before the first row and after the last."""


class Comparison(Document):
    """The series of the references of several runs at shared steps."""

    name: str
    axis: Literal["shared", "own"]
    """`shared`: coordinates of all runs in one joint basis. `own`: one basis per run; only shapes can be compared."""
    message: str
    steps: list[int]
    runs: list[Compared]
    n: int
    of: int


class Neighbour(Document):
    """A run and the distance of its trajectory from that of the requested run."""

    run: str
    distance: float
    n_steps: int
    """Steps that both have."""
    features: dict[str, Number]
    """The compared features of the neighbour; empty for `weights`."""


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
    """An event in a run that needs attention."""

    id: str
    run: str
    rule: str
    level: Level
    step: int | None
    row: int | None
    at: float
    """Unix time in seconds when the row was written, or when silence was detected."""
    change_id: str
    """Id of the poll that found the change behind the alert; events and log lines of that poll carry it too."""
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
    """Runs to add to an experiment."""

    learning_rate: list[Rate] = Field(min_length=1, max_length=100)
    n_initial_conditions: Annotated[int, Field(ge=1, le=1000)] | None = None
    """By default as many as the experiment has; runs that exist already are not run again."""


class Accepted(Document):
    """The requested change; the executor applies it within about a second, or `resume` does."""

    runs: list[str]


class Health(Document):
    """The state of the service."""

    status: Literal["ok"]


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 defines it."""

    type: str
    title: str
    status: int
    detail: str
