"""Plain values shared by every layer: estimates with their status, regimes, parameter layouts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self, get_args

REFERENCE = 0
"""Index of the reference replica in every `(step, replica)` array."""


AlertLevel = Literal["info", "warn", "error"]
"""Level of an alert."""

ALERT_LEVELS: tuple[AlertLevel, ...] = get_args(AlertLevel)
"""Levels of alerts in ascending order."""


class Status(StrEnum):
    """What became of an estimate. Only `OK` carries a number."""

    OK = "ok"
    TOO_FEW_ROWS = "too_few_rows"
    TOO_FEW_REPLICAS = "too_few_replicas"
    TOO_FEW_INITIAL_CONDITIONS = "too_few_initial_conditions"
    NO_EXPONENTIAL_PHASE = "no_exponential_phase"
    NOT_SATURATED = "not_saturated"
    CONTRACTED = "contracted"
    CONSTANT = "constant"
    NON_FINITE = "non_finite"
    DIVERGED = "diverged"
    NOT_REACHED = "not_reached"
    PARTLY_REACHED = "partly_reached"
    NOT_SIGNIFICANT = "not_significant"
    NOT_ENOUGH_RECURRENCES = "not_enough_recurrences"
    DRIFTING = "drifting"
    NOT_DECORRELATED = "not_decorrelated"
    NOT_CONVERGED = "not_converged"
    MIXED_LAYOUTS = "mixed_layouts"
    MISSING = "missing"
    UNEVEN_STEPS = "uneven_steps"


ADVICE: Mapping[Status, str] = {
    Status.OK: "",
    Status.TOO_FEW_ROWS: "Record more steps: raise training.n_steps or lower recording.every_n_steps.",
    Status.TOO_FEW_REPLICAS: "Carry more perturbed replicas: raise perturbation.n_perturbed.",
    Status.TOO_FEW_INITIAL_CONDITIONS: "An interval needs three: raise experiment.n_initial_conditions.",
    Status.NO_EXPONENTIAL_PHASE: "Without an exponential phase there is no exponent of it; read ftle instead.",
    Status.NOT_SATURATED: "Separations still grow at the end; train longer (training.n_steps) or read ftle.",
    Status.CONTRACTED: "Separations shrank to nothing: training forgets where it started.",
    Status.CONSTANT: "What does not change has no rate and no spread.",
    Status.NON_FINITE: "The series holds NaN or infinity; lower the learning rate.",
    Status.DIVERGED: "The loss ended above where it began; lower the learning rate.",
    Status.NOT_REACHED: "No run reached the target; train longer or lower task.accuracy_target.",
    Status.PARTLY_REACHED: "Some runs never reached the target, so a mean would be biased; train longer.",
    Status.NOT_SIGNIFICANT: "Surrogate data without the effect do as well; record more before claiming it.",
    Status.NOT_ENOUGH_RECURRENCES: "The trajectory hardly comes back near itself; perturb replicas instead "
    "(perturbation.n_perturbed), or train longer.",
    Status.DRIFTING: "The series still drifts over its last window; train longer (training.n_steps).",
    Status.NOT_DECORRELATED: "Reference and replicas stay correlated to the end; train longer (training.n_steps).",
    Status.NOT_CONVERGED: "The fit did not settle; record more steps, replicas or initial conditions.",
    Status.MIXED_LAYOUTS: "Runs with different parameter layouts cannot be compared; analyse them apart.",
    Status.MISSING: "The series was not recorded.",
    Status.UNEVEN_STEPS: "Record at a fixed distance: ss.track(..., every_n_steps=...).",
}


class Regime(StrEnum):
    """Dynamical regime of training at one setting."""

    REGULAR = "regular"
    ONSET = "onset"
    CHAOTIC = "chaotic"
    DIVERGED = "diverged"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that never travels without its status.

    Attributes
    ----------
    value
        The number; `None` unless `status` is `OK`.
    status
        What became of the estimate.
    low, high
        Ends of the confidence interval, `None` where there is none.
    confidence
        Stated coverage of the interval in (0, 1), `None` where there is no interval.
    n
        Number of independent pieces (initial conditions, or rows of a fit) behind the value.
    method
        Name of the estimator.
    window
        First and last step used, both inclusive, where a window was fitted.
    message
        One sentence for people; for a failing status, what happened and what to try.
    """

    value: float | None
    status: Status
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    n: int = 0
    method: str = ""
    window: tuple[int, int] | None = None
    message: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) is (self.status is Status.OK):
            raise ValueError(f"an estimate has a value exactly when its status is ok; got {self!r}")

    @classmethod
    def failed(
        cls, status: Status, *, n: int = 0, method: str = "", what: str = "", window: tuple[int, int] | None = None
    ) -> Self:
        """Return an estimate without a value; `what` says what was seen, the advice of the status follows it."""
        message = f"{what} {ADVICE[status]}".strip()
        return cls(None, status, n=n, method=method, window=window, message=message)

    @property
    def is_ok(self) -> bool:
        """Whether there is a number."""
        return self.status is Status.OK

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; non-finite floats become strings."""
        return {
            "value": json_float(self.value),
            "low": json_float(self.low),
            "high": json_float(self.high),
            "confidence": self.confidence,
            "n": self.n,
            "status": str(self.status),
            "method": self.method,
            "window": None if self.window is None else list(self.window),
            "message": self.message,
        }


def json_float(value: float | None) -> float | str | None:
    """Return `value` as JSON can hold it: NaN and infinities as the strings "nan", "inf", "-inf"."""
    return value if value is None or math.isfinite(value) else str(float(value))


@dataclass(frozen=True, slots=True)
class Layer:
    """One named block of the flat parameter axis.

    Attributes
    ----------
    name
        Name of the parameter, such as `0.weight`.
    offset
        First index on the flat parameter axis.
    shape
        Shape of the parameter; its product is the number of coordinates.
    """

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Whether this is a weight (as opposed to a bias)."""
        return not self.name.endswith("bias")


@dataclass(frozen=True, slots=True)
class Layout:
    """The recorded order of all parameters of a run, and who stands on its replica axis.

    Attributes
    ----------
    layers
        Layers in the order of the flat parameter axis, without gaps.
    dtype
        `float32` or `float64`.
    n_perturbed
        Number of perturbed replicas M; replica 0 is the reference, 1..M are perturbed.
    has_control
        Whether the last replica is an unperturbed copy of the reference.
    """

    layers: tuple[Layer, ...]
    dtype: str
    n_perturbed: int
    has_control: bool

    @property
    def n_parameters(self) -> int:
        """Length P of the flat parameter axis."""
        return sum(layer.size for layer in self.layers)

    @property
    def n_replicas(self) -> int:
        """Length R of the replica axis: reference, perturbed, control."""
        return 1 + self.n_perturbed + int(self.has_control)

    @property
    def perturbed(self) -> slice:
        """Slice of the replica axis that holds the perturbed replicas."""
        return slice(1, 1 + self.n_perturbed)

    @property
    def control(self) -> int | None:
        """Index of the control on the replica axis, or `None`."""
        return 1 + self.n_perturbed if self.has_control else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "layers": [
                {"name": layer.name, "offset": layer.offset, "shape": list(layer.shape), "dtype": self.dtype}
                for layer in self.layers
            ],
            "dtype": self.dtype,
            "n_perturbed": self.n_perturbed,
            "has_control": self.has_control,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        layers = tuple(Layer(x["name"], x["offset"], tuple(x["shape"])) for x in data["layers"])
        return cls(layers, data["dtype"], data["n_perturbed"], data["has_control"])
