"""Value types shared by all layers: estimates with their status, regimes, alert levels, parameter layouts."""

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

DISTANCES = ("l1", "rms", "embedded", "random")
"""Stored distances of every replica from the reference. `embedded` and `random` lie along one direction and have a
sign; `embedded` is the live one until the exact solution replaces it."""

EmbeddingDistance = Literal["rms", "l1", "layer"]
"""Distance between two snapshots that an embedding preserves."""

RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}"
"""Regular expression of the name of a run, or of a stored experiment: a folder name that leads nowhere else."""


class Status(StrEnum):
    """Status of an estimate; only `OK` comes with a number."""

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
    NOT_REPRODUCED = "not_reproduced"

    @property
    def words(self) -> str:
        """The status in words.

        Examples
        --------
        >>> Status.TOO_FEW_ROWS.words
        'too few rows'
        """
        return self.replace("_", " ")


ADVICE: Mapping[Status, str] = {
    Status.OK: "",
    Status.TOO_FEW_ROWS: "Record more steps: raise training.n_steps or lower recording.every_n_steps.",
    Status.TOO_FEW_REPLICAS: "Use more perturbed replicas: raise perturbation.n_perturbed.",
    Status.TOO_FEW_INITIAL_CONDITIONS: "A confidence interval needs three: raise experiment.n_initial_conditions.",
    Status.NO_EXPONENTIAL_PHASE: "There is no exponential phase to fit an exponent to; use ftle instead.",
    Status.NOT_SATURATED: "Separations still grow at the end; train longer (training.n_steps) or use ftle.",
    Status.CONTRACTED: "Separations shrank to zero: training does not depend on where it started.",
    Status.CONSTANT: "The series is constant, so it has no rate and no spread.",
    Status.NON_FINITE: "The series contains NaN or infinity; lower the learning rate.",
    Status.DIVERGED: "The loss ended above its initial value; lower the learning rate.",
    Status.NOT_REACHED: "No run reached the target; train longer or lower task.accuracy_target.",
    Status.PARTLY_REACHED: "Some runs did not reach the target, so a mean would be biased; train longer.",
    Status.NOT_SIGNIFICANT: "Surrogate data without the effect give similar values; record more rows.",
    Status.NOT_ENOUGH_RECURRENCES: "The trajectory rarely returns near itself; use perturbed replicas instead "
    "(perturbation.n_perturbed), or train longer.",
    Status.DRIFTING: "The series still drifts over its last window; train longer (training.n_steps).",
    Status.NOT_DECORRELATED: "Reference and replicas stay correlated to the end; train longer (training.n_steps).",
    Status.NOT_CONVERGED: "The fit did not converge; record more steps, replicas or initial conditions.",
    Status.MIXED_LAYOUTS: "Runs with different parameter layouts cannot be compared; analyse them separately.",
    Status.MISSING: "The series was not recorded.",
    Status.UNEVEN_STEPS: "Record at a fixed interval: ss.track(..., every_n_steps=...).",
    Status.NOT_REPRODUCED: "The copies did not repeat the training, so their distances are none of its dynamics.",
}
"""What each failing status means and what to try; `analysis.quantities` has the counterparts for tracked runs."""


class Regime(StrEnum):
    """Dynamical regime of training at one setting."""

    REGULAR = "regular"
    ONSET = "onset"
    CHAOTIC = "chaotic"
    DIVERGED = "diverged"
    UNDECIDED = "undecided"


REGIMES: Mapping[Regime, str] = {
    Regime.REGULAR: "Small differences at the start stay small.",
    Regime.ONSET: "Between regular and chaotic: differences grow, but saturation is not certain.",
    Regime.CHAOTIC: "Small differences at the start grow exponentially until they saturate.",
    Regime.DIVERGED: "The loss ended above its start or is not finite.",
    Regime.UNDECIDED: "The intervals allow no decision.",
}
"""What each regime means."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number together with its status, interval and method.

    Attributes
    ----------
    value
        The number; `None` unless `status` is `OK`.
    status
        `OK`, or why there is no number.
    low, high
        Ends of the confidence interval; `None` if there is none.
    confidence
        Nominal coverage of the interval in (0, 1); `None` if there is no interval.
    n
        Number of independent samples (initial conditions, or rows of a fit) behind the value.
    method
        Name of the estimator.
    window
        First and last step of the fitted window, both inclusive; `None` if no window was fitted.
    message
        One sentence; if there is no value, what happened and what to try.
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
            raise ValueError(f"an estimate must have a value if and only if its status is ok; got {self!r}")

    @classmethod
    def failed(
        cls, status: Status, *, n: int = 0, method: str = "", what: str = "", window: tuple[int, int] | None = None
    ) -> Self:
        """Return an estimate without a value; its message is `what` followed by the advice for the status."""
        message = f"{what} {ADVICE[status]}".strip()
        return cls(None, status, n=n, method=method, window=window, message=message)

    @property
    def is_ok(self) -> bool:
        """Whether there is a value."""
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
    """Return `value` in a form valid in JSON: NaN and infinities as the strings "nan", "inf", "-inf"."""
    return value if value is None or math.isfinite(value) else str(float(value))


@dataclass(frozen=True, slots=True)
class Layer:
    """One named parameter of a network: a block of the flat parameter axis.

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
    """Order of the parameters and replicas of a run on the axes of its arrays.

    Attributes
    ----------
    layers
        Layers in the order of the flat parameter axis, without gaps.
    dtype
        `float32` or `float64`.
    n_perturbed
        Number of perturbed replicas M; replica 0 is the reference, replicas 1 to M are perturbed.
    has_control
        Whether the last replica is the control, an unperturbed copy of the reference.
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
        """Index of the control on the replica axis; `None` if there is none."""
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
        """Return the layout of a JSON object made by `to_json`."""
        layers = tuple(Layer(x["name"], x["offset"], tuple(x["shape"])) for x in data["layers"])
        return cls(layers, data["dtype"], data["n_perturbed"], data["has_control"])
