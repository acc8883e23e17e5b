"""Companions of the model: shadows and a tangent vector, or none."""

from collections.abc import Sequence

from torch import Tensor, nn

from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.shadow import Shadows
from streamscalar.tracking.training.tangent_vector import METRIC, Tangent


class Companions:
    """Updates shadows and tangent vector at every step; one that fails is dropped, and its values are NaN afterwards.

    Parameters
    ----------
    shadows, tangent
        The companions, if there are any.
    n_shadows
        Replicas after the reference.
    notices
        Receives failures.
    """

    def __init__(self, shadows: Shadows | None, tangent: Tangent | None, notices: Notices) -> None:
        self._shadows = shadows
        self._tangent = tangent
        self._notices = notices
        self._has_rows = False

    @property
    def are_there(self) -> bool:
        """Whether there are companions."""
        return self._shadows is not None or self._tangent is not None

    @property
    def parameters(self) -> Sequence[Sequence[Tensor]]:
        """The recorded parameters of the shadows."""
        return [] if self._shadows is None else self._shadows.parameters

    @property
    def shadows(self) -> Sequence[nn.Module]:
        """The shadows, to be looked at or put elsewhere before the first step."""
        return [] if self._shadows is None else self._shadows.models

    def start(self) -> None:
        """Start from the current state of the model, not from that at the first forward pass."""
        for companion in (self._shadows, self._tangent):
            if companion is not None:
                companion.start()

    def step(self, batch: object) -> list[Tensor]:
        """Repeat the last update of the training on `batch`; return the losses of the shadows."""
        losses: list[Tensor] = []
        if self._shadows is not None and self._is_due(self._shadows, batch):
            try:
                losses = self._shadows.step(batch)
            except Exception as error:  # noqa: BLE001  (no error may reach the training)
                self._notices.failed("shadow, given up", error)
                self._shadows.remove()
                self._shadows = None
        if self._tangent is not None and self._is_due(self._tangent, batch):
            try:
                self._tangent.step(batch)
            except Exception as error:  # noqa: BLE001  (no error may reach the training)
                self._notices.failed("tangent, given up", error)
                self._tangent.remove()
                self._tangent = None
        return losses

    def growth(self) -> dict[str, object]:
        """Return the growth of the tangent vector since the last row as a metric; 0 at the first row."""
        if self._tangent is None:
            return {}
        growth = self._tangent.growth if self._has_rows else 0.0
        self._tangent.forget_growth()
        self._has_rows = True
        return {METRIC: growth}

    def begin_again(self) -> None:
        """Restart from the current state of the model, for a child run."""
        self._has_rows = False
        if self._shadows is not None:
            self._shadows.start()

    def remove(self) -> None:
        """Remove all hooks from the model and its optimizer."""
        for companion in (self._shadows, self._tangent):
            if companion is not None:
                companion.remove()

    @staticmethod
    def _is_due(companion: Shadows | Tangent, batch: object) -> bool:
        return batch is not None or companion.awaits_batch
