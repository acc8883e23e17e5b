"""One measured number."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number beside what it is judged by.

    Attributes
    ----------
    name, value, unit
        The number.
    baseline
        The same quantity by the obvious way, measured side by side.
    limit
        The most the hardware allows.
    target
        What was asked for.
    is_ceiling
        Whether the target is the most that is allowed, and not the least.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    limit: float | None = None
    target: float | None = None
    is_ceiling: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; `met` says whether the target is reached, where there is one."""
        document = asdict(self)
        del document["is_ceiling"]
        return {**document, "met": self.is_met}

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; `None` without one."""
        if self.target is None:
            return None
        # NumPy's own truth values are no JSON.
        return bool(self.value <= self.target if self.is_ceiling else self.value >= self.target)
