"""What is trained beside the model: shadows and a tangent vector, or nothing."""

from collections.abc import Sequence

from torch import Tensor, nn

from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.shadow import Shadows
from streamscalar.tracking.training.tangent_vector import METRIC, Tangent


class Companions:
    """Moves shadows and tangent vector at every step; one that fails is given up, and its values are NaN from then on.

    Parameters
    ----------
    shadows, tangent
        What is carried.
    n_shadows
        Replicas after the reference.
    notices
        Hears of failures.
    """

    def __init__(self, shadows: Shadows | None, tangent: Tangent | None, notices: Notices) -> None:
        self._shadows = shadows
        self._tangent = tangent
        self._notices = notices
        self._has_rows = False

    @property
    def are_there(self) -> bool:
        """Whether anything is carried."""
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
        """Begin from the model as it is now, and not as it will be at the first forward pass."""
        for companion in (self._shadows, self._tangent):
            if companion is not None:
                companion.start()

    def step(self, batch: object) -> list[Tensor]:
        """Repeat the training's last update on `batch`; return the losses of the shadows."""
        losses: list[Tensor] = []
        if self._shadows is not None and self._is_asked(self._shadows, batch):
            try:
                losses = self._shadows.step(batch)
            except Exception as error:  # noqa: BLE001  (never into the training)
                self._notices.failed("shadow, given up", error)
                self._shadows.remove()
                self._shadows = None
        if self._tangent is not None and self._is_asked(self._tangent, batch):
            try:
                self._tangent.step(batch)
            except Exception as error:  # noqa: BLE001  (never into the training)
                self._notices.failed("tangent, given up", error)
                self._tangent.remove()
                self._tangent = None
        return losses

    def growth(self) -> dict[str, object]:
        """Return the tangent vector's growth since the last row, as a metric; 0 at the first row."""
        if self._tangent is None:
            return {}
        growth = self._tangent.growth if self._has_rows else 0.0
        self._tangent.forget_growth()
        self._has_rows = True
        return {METRIC: growth}

    def begin_again(self) -> None:
        """Begin anew from the model as it is, for a child run: it was put back to where it had been."""
        self._has_rows = False
        if self._shadows is not None:
            self._shadows.start()

    def remove(self) -> None:
        """Take all hooks off the training."""
        for companion in (self._shadows, self._tangent):
            if companion is not None:
                companion.remove()

    @staticmethod
    def _is_asked(companion: Shadows | Tangent, batch: object) -> bool:
        return batch is not None or companion.awaits_batch
