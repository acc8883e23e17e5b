"""The documents with estimates, and the base of all documents of the API."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from streamscalar.analysis.quantities import QUANTITIES, EstimateLevel, keys
from streamscalar.types import Regime, Status, json_float

NonFinite = Literal["nan", "inf", "-inf"]
Number = float | NonFinite
"""A float; JSON has no numbers for the values that are not finite."""


def number(value: float | None) -> Number | None:
    """Return a float in the form of the documents."""
    return cast(Number | None, json_float(value))


RunKey = Annotated[str, Field(description="Id of the run, `<experiment>:<run id>`.")]
LearningRate = Annotated[Number | None, Field(description="Learning rate; null if unknown.")]
Epsilon = Annotated[Number | None, Field(description="Size of the perturbation; null without one.")]
IntervalEnd = Annotated[Number | None, Field(description="End of the interval; null without one.")]
RegimeReason = Annotated[str, Field(description="One sentence that justifies the regime.")]


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
    """The reason of a missing value and what to try, or a remark; may be empty."""


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
    """One minus the ratio of the two leading eigenvalues; null without an embedding."""
    estimates: Annotated[dict[str, EstimateDocument], EstimatesOf("run"), Field(description="Estimates by key.")]


class SettingDocument(Document):
    """Estimates over the initial conditions of one setting."""

    learning_rate: LearningRate
    epsilon: Epsilon
    variant: str
    """What else distinguishes the setting, for tracked runs that differ in architecture or config; usually empty."""
    regime: Regime
    """Regime of the setting."""
    regime_reason: RegimeReason
    n_runs: int
    """Number of its runs."""
    estimates: Annotated[dict[str, EstimateDocument], EstimatesOf("setting"), Field(description="Estimates by key.")]
