"""The setting of one run: what distinguishes it from the other runs of its experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class RunSetting(BaseModel):
    """The setting of one run, as its group in the store records it.

    Only the fields that were given are stored, and unknown ones are kept: a stored setting reads back unchanged.

    Examples
    --------
    >>> setting = RunSetting.model_validate({"learning_rate": 0.5, "epsilon": None})
    >>> setting.learning_rate, setting.is_tracked, setting.to_json()
    (0.5, False, {'learning_rate': 0.5, 'epsilon': None})
    """

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    learning_rate: float | None = None
    """Learning rate; `None` where a tracked run states none."""
    epsilon: float | None = None
    """Size of the perturbation; `None` where nothing is perturbed."""
    initial_condition: int = 0
    """Index of the initial condition, from 0."""
    device: str | None = None
    """Where the weights were computed, as torch names it."""
    product: str | None = None
    """How the matrix products of the replicas were computed."""
    twins_exact: bool | None = None
    """Whether identical twins stayed identical under `product`."""
    is_tracked: bool = False
    """Whether the run was recorded by `ss.track` in a user's own loop."""
    group: str | None = None
    """Group that a tracked run is listed under."""
    tags: Sequence[str] = ()
    """Words to find a tracked run by."""
    config: Mapping[str, Any] = {}
    """The `config` that was passed to `ss.track`."""
    frozen: Sequence[str] = ()
    """Names of the parameters of a tracked model that are not trained, and not recorded."""
    tied: Mapping[str, str] = {}
    """Further names of recorded parameters, with the name they are recorded under."""
    parameter_dtypes: Mapping[str, str] = {}
    """Type of each recorded parameter in the user's model."""
    probe: Mapping[str, Any] | None = None
    """The coordinates that a tracked run records; `None` if it records all."""

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name, as from the stored document.

        Raises
        ------
        KeyError
            There is no such field.
        """
        if name in type(self).model_fields or name in (self.model_extra or {}):
            return getattr(self, name)
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Return the setting as a JSON object."""
        return self.model_dump(mode="json", exclude_unset=True)
