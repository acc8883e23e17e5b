"""Companions of the model: shadows and a tangent vector, compared with the training, or none."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from streamscalar.tracking.notices import Notices
from streamscalar.tracking.training.repeating.beside.stateful import Stateful
from streamscalar.tracking.training.repeating.control import Control, NotReproducedError, Way, repeat_one
from streamscalar.tracking.training.repeating.guard import Guard
from streamscalar.tracking.training.repeating.recorder import Recorder, Start
from streamscalar.tracking.training.repeating.shadow import Shadows
from streamscalar.tracking.training.repeating.tangent_vector import METRIC, Tangent
from streamscalar.tracking.training.repeating.twin import Procedure

MOST_PENDING = 64
"""Batches without an update after which companions are given up: each is held until then."""


class Companions:
    """Repeats every update of the training in shadows and tangent vector, and compares it in an unperturbed copy.

    Where the comparison fails, or a repeat raises an error, all companions are given up: their values are NaN
    afterwards, and `refused` says why.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and its optimizer.
    procedure
        What the training does for a batch.
    shadows, tangent
        The companions.
    device
        Device of the model.
    notices
        Receives failures.

    Attributes
    ----------
    refused
        Why no exponent of this run is one of the training; empty where they are.
    is_repeating
        Whether a function of the user is called now, to repeat a step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        procedure: Procedure,
        shadows: Shadows | None,
        tangent: Tangent | None,
        device: torch.device,
        notices: Notices,
    ) -> None:
        self._procedure = procedure
        self._shadows = shadows
        self._tangent = tangent
        self._notices = notices
        self._recorder = Recorder(model, optimizer, Stateful(procedure.function, model, optimizer), device, self._begin)
        self._control = Control(model, optimizer, procedure, self._recorder, device)
        self._guard = Guard(model, optimizer)
        self._pending: list[tuple[Start, object]] = []
        if self._recorder.begins_now:
            self._recorder.begin()
        self._has_rows = False
        self._has_repeated = False
        self._is_over = False
        self.refused = ""
        self.is_repeating = False

    @property
    def parameters(self) -> Sequence[Sequence[Tensor]]:
        """The recorded parameters of the shadows."""
        return [] if self._shadows is None else self._shadows.parameters

    @property
    def shadows(self) -> Sequence[nn.Module]:
        """The shadows; their weights may be read or set before the first step."""
        return [] if self._shadows is None else [twin.model for twin in self._shadows.twins]

    def start(self) -> None:
        """Start from the current state of the model, not from that at the first forward pass."""
        self._recorder.begin()

    def step(self, batch: object, number: int) -> list[Tensor]:
        """Repeat what the training did for `batch` up to step `number`; return the losses of the shadows."""
        if self._is_over:
            return []
        try:
            self._guard.hold()
            self.is_repeating = True
            try:
                losses = self._step(batch, number)
            finally:
                self.is_repeating = False
                if self._guard.restores():
                    must = "it must use the model and the optimizer that it is given"
                    raise NotReproducedError(f"{self._procedure.name} changed the model of the training; {must}")
        except NotReproducedError as error:
            if self._has_repeated or self._has_rows or self._procedure.train_step is None:
                self._refuse(str(error))
            else:
                # Where the first step began is not known: generators may have been seeded after ss.track(). Copies can
                # start after it as long as no row has their distances.
                self._has_repeated = True
                self._begin()
        except Exception as error:  # noqa: BLE001  (no error may reach the training)
            self._refuse(f"step {number} could not be repeated: {type(error).__name__}: {error}")
        else:
            return losses
        return []

    def growth(self) -> dict[str, object]:
        """Return the growth of the tangent vector since the last row as a metric; 0 at the first row."""
        had_rows, self._has_rows = self._has_rows, True
        if self._tangent is None:
            return {}
        growth = self._tangent.growth if had_rows else 0.0
        self._tangent.forget_growth()
        return {METRIC: growth}

    def begin_again(self) -> None:
        """Restart from the current state of the model, for a child run."""
        self._has_rows = False
        if not self._is_over:
            self._begin()

    def remove(self) -> None:
        """Remove all hooks, and forget the copies' batches."""
        self._is_over = True
        self._pending.clear()
        self._recorder.remove()

    def _begin(self) -> None:
        self._pending.clear()
        self._recorder.forget_updates()
        self._control.follow()
        if self._shadows is not None:
            self._shadows.start()

    def _step(self, batch: object, number: int) -> list[Tensor]:
        recorder, is_whole = self._recorder, self._procedure.train_step is not None
        if batch is None:
            if recorder.n_updates:
                raise NotReproducedError(f"step {number} was an update without its batch; call step(batch=...)")
            self._require_no_update(number)
            return []
        self._pending.append((recorder.take(), batch))
        losses: list[Tensor] = []
        try:
            if recorder.n_updates or is_whole:
                losses = self._update(number)
                self._has_repeated = True
                self._pending.clear()
                recorder.forget_updates()
            elif len(self._pending) > MOST_PENDING:
                raise NotReproducedError(f"the optimizer made no update in {MOST_PENDING} steps with a batch")
            else:
                self._require_no_update(number)
                losses = self._repeat(self._control.way(len(self._pending)), is_last=False)
        finally:
            recorder.rest()
        return losses

    def _require_no_update(self, number: int) -> None:
        if self._recorder.has_begun:
            self._control.require_no_update(number)

    def _update(self, number: int) -> list[Tensor]:
        n_updates, n_pending = self._recorder.n_updates, len(self._pending)
        if n_updates > 1 and self._procedure.train_step is None:
            raise NotReproducedError(
                f"the optimizer made {n_updates} updates up to step {number}; call step() after each, or pass "
                "train_step=fn(model, optimizer, batch) that makes them"
            )
        way = self._control.repeat(self._pending, number, keeps=self._tangent is not None)
        if self._tangent is not None:
            self._tangent.step(self._control.twin, self._recorder, self._pending, way)
            self._control.follow()
        if way.n_last == 1 and n_pending > 1 and self._shadows is not None:
            # The batches before belong to updates that the training skipped.
            for twin in self._shadows.twins:
                twin.discard()
        elif way.n_last < n_pending:
            raise NotReproducedError(f"updates were skipped while {way.n_last} batches add up to one, at step {number}")
        return self._repeat(way, is_last=True)

    def _repeat(self, way: Way, *, is_last: bool) -> list[Tensor]:
        if self._shadows is None:
            return []
        start, batch = self._pending[-1]
        repeated = self._procedure, self._recorder, start, batch, way
        return [repeat_one(twin, *repeated, is_last=is_last) for twin in self._shadows.twins]

    def _refuse(self, why: str) -> None:
        self.refused = why
        self._notices.warn("not reproduced", f"shadow and tangent vector are given up: {why}")
        self._shadows = self._tangent = None
        self.remove()


class NoCompanions:
    """Used where there are no companions."""

    refused = ""
    is_repeating = False
    parameters: Sequence[Sequence[Tensor]] = ()
    shadows: Sequence[nn.Module] = ()

    def start(self) -> None:
        """Do nothing."""

    def step(self, batch: object, number: int) -> list[Tensor]:
        """Return no loss."""
        del batch, number
        return []

    def growth(self) -> dict[str, object]:
        """Return no metric."""
        return {}

    def begin_again(self) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""
