"""Result of a benchmark: one measured number."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number, with the values that it is compared with.

    Attributes
    ----------
    name, value, unit
        What was measured, the number and its unit.
    baseline
        The same quantity for the obvious alternative, measured in the same run; `None` if there is none.
    limit
        Maximum that the hardware allows, in `unit`; `None` if unknown.
    target
        Value to be reached; `None` if there is none.
    is_ceiling
        Whether the target is a maximum; else it is a minimum.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    limit: float | None = None
    target: float | None = None
    is_ceiling: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; `met` is `is_met`."""
        document = asdict(self)
        del document["is_ceiling"]
        return {**document, "met": self.is_met}

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; `None` without a target."""
        if self.target is None:
            return None
        # NumPy's bool is not JSON.
        return bool(self.value <= self.target if self.is_ceiling else self.value >= self.target)
