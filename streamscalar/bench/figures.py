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
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    limit: float | None = None
    target: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; `met` says whether the target is reached, where there is one."""
        return {**asdict(self), "met": None if self.target is None else self.value >= self.target}
