"""Compares the training with a copy that repeats it: a number is given only where both have the same bits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from streamscalar.tracking.training.repeating.beside.tensors import same_bits
from streamscalar.tracking.training.repeating.recorder import Recorder, Start
from streamscalar.tracking.training.repeating.twin import Procedure, Twin, tensors_of

N_TRIALS = 10
"""Number of updates at the start at which other ways to repeat are tried."""

NOISE_EPS = 32
"""On a device whose kernels do not repeat: difference that passes, in units of the last place of the largest value."""

MOST_ATTEMPTS = 8
"""Largest number of ways in which one update is repeated before it is given up."""

Pending = Sequence[tuple[Start, object]]
"""The batches since the last update, each with its start."""


class NotReproducedError(Exception):
    """The copy did not do what the training did; the text is for the user."""


@dataclass(frozen=True)
class Way:
    """One way to repeat an update.

    Attributes
    ----------
    from_forward
        Whether random numbers are those from the first forward pass on, or from the last call of `step` on.
    n_last
        Number of batches whose gradients add up; those before belong to skipped updates.
    """

    from_forward: bool
    n_last: int


class Control:
    """An unperturbed copy of the model that repeats every update, and has to keep the bits of the training.

    Between updates it is in the state of the training before the next one. Cost: one more forward and backward pass and
    update per step.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and its optimizer.
    procedure
        What the training does for a batch.
    recorder
        Knows how batches began.
    device
        Device of the model.

    Attributes
    ----------
    twin : Twin
        The copy.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, procedure: Procedure, recorder: Recorder, device: torch.device
    ) -> None:
        self._model = model
        self._procedure = procedure
        self._recorder = recorder
        self._repeats_bits = device.type == "cpu"
        self.twin = Twin(model, optimizer)
        self._from_forward = True
        self._n_last: dict[int, int] = {}
        self._n_updates = 0

    def follow(self) -> None:
        """Take the current state of the training."""
        self.twin.follow()

    def way(self, n_pending: int) -> Way:
        """Return how an update with so many batches is repeated, as far as is known."""
        return Way(self._from_forward, self._n_last.get(n_pending, n_pending))

    def repeat(self, pending: Pending, step: int, *, keeps: bool) -> Way:
        """Repeat the newest update; return the way that gives the bits of the training.

        Parameters
        ----------
        pending
            Batches since the update before.
        step
            Number of the step, for the message.
        keeps
            Whether the copy stays at the state before the update until `follow`.

        Raises
        ------
        NotReproducedError
            There is none.
        """
        self._n_updates += 1
        is_known = self._n_updates > N_TRIALS and len(pending) in self._n_last and not keeps
        before = [p.detach().clone() for p in self.twin.model.parameters()]
        first: tuple[float, Twin] | None = None
        for way in [self.way(len(pending))] if is_known else self._ways(len(pending)):
            attempt, n_variables = self.twin if is_known else self.twin.moved(), self._recorder.n_variables
            repeat(attempt, self._procedure, self._recorder, pending, way)
            difference = attempt.difference()
            if difference > self._noise() and self._recorder.n_variables > n_variables and not is_known:
                # It began with variables as they were after the step, before it was known that the step changes them.
                attempt = self.twin.moved()
                repeat(attempt, self._procedure, self._recorder, pending, way)
                difference = attempt.difference()
            if difference <= self._noise():
                self._from_forward = way.from_forward
                self._n_last[len(pending)] = way.n_last
                if not keeps:
                    # Not the twin with the tensors of the training: a model may have a state beside them.
                    self.twin = attempt
                    if not self._repeats_bits:
                        self.follow()
                return way
            first = first or (difference, attempt)
        assert first is not None
        raise NotReproducedError(self._explained(*first, before, step))

    def require_no_update(self, step: int) -> None:
        """Require that the weights are those after the newest update.

        Raises
        ------
        NotReproducedError
            They are not: something else than the optimizer has changed them.
        """
        pairs = zip(self.twin.model.parameters(), self._model.parameters(), strict=True)
        if not all(same_bits(own.detach(), theirs.detach()) for own, theirs in pairs):
            raise NotReproducedError(
                f"at step {step} weights had changed without an update of the optimizer that ss.track() was given, "
                "such as by another optimizer"
            )

    def _ways(self, n_pending: int) -> Iterator[Way]:
        """Yield the ways to try, the known one first."""
        known = self.way(n_pending)
        yield known
        has_loss = self._procedure.train_step is None
        counts = [known.n_last, *(n for n in range(n_pending, 0, -1) if n != known.n_last)] if has_loss else [n_pending]
        for n_last in counts[:MOST_ATTEMPTS]:
            for from_forward in (known.from_forward, not known.from_forward):
                way = Way(from_forward, n_last)
                if way != known:
                    yield way

    def _noise(self) -> float:
        """Return the largest difference that passes: none where kernels repeat their bits."""
        if self._repeats_bits:
            return 0.0
        floats = [t for t in tensors_of(self._model) if t.is_floating_point() and t.numel()]
        return max(float(t.detach().abs().max()) * torch.finfo(t.dtype).eps for t in floats) * NOISE_EPS

    def _explained(self, difference: float, attempt: Twin, before: Sequence[Tensor], step: int) -> str:
        ours = _move(before, attempt.model)
        theirs = _move(before, self._model)
        lengths = float(ours.norm()), float(theirs.norm())
        off = float((ours - theirs).norm()) / max(lengths[1], torch.finfo(torch.float64).tiny)
        what = f"the update of step {step} was not repeated: weights differ by up to {difference:.2g}"
        if lengths[1]:
            what += f", {off:.2g} of the update"
        scale = float(ours @ theirs) / lengths[0] ** 2 if lengths[0] else 0.0
        rest = float((theirs - scale * ours).norm()) / max(lengths[1], torch.finfo(torch.float64).tiny)
        if lengths[1] == 0:
            why = "the training skipped the update, or changed only buffers"
        elif rest < 1e-3 < abs(scale - 1):
            why = "gradients were scaled between backward and update (clipping, accumulation, loss scaling)"
        elif off < 1e-3:
            why = "kernels that do not repeat their bits, autocast, or a compiled model"
        else:
            why = (
                f"the training minimises something else than {self._procedure.name} (accumulated batches, clipped "
                "gradients, a penalty, another batch), draws random numbers before the forward pass, or changes "
                "weights outside the optimizer"
            )
        fix = (
            "pass train_step=fn(model, optimizer, batch) that does all that the training does for a batch"
            if self._procedure.train_step is None
            else "train_step must do all that the training does for a batch, and nothing else may change the model"
        )
        return f"{what}. Likely reason: {why}. To get exponents, {fix}."


def repeat(twin: Twin, procedure: Procedure, recorder: Recorder, pending: Pending, way: Way) -> Tensor:
    """Repeat the batches since the last update, and the update; return the loss of the last batch."""
    loss = torch.tensor(torch.nan)
    for index, (start, batch) in enumerate(pending):
        if index == len(pending) - way.n_last and procedure.train_step is None:
            twin.discard()
        loss = repeat_one(twin, procedure, recorder, start, batch, way, is_last=index == len(pending) - 1)
    return loss


def repeat_one(
    twin: Twin, procedure: Procedure, recorder: Recorder, start: Start, batch: object, way: Way, *, is_last: bool
) -> Tensor:
    """Repeat one batch; with the last one also the update."""
    with recorder.replaying(twin.model, start, twin.own, from_forward=way.from_forward):
        if procedure.train_step is not None:
            twin.prepare(recorder.hyperparameters)
            return twin.repeat(procedure, batch)
        loss = twin.repeat(procedure, batch)
        if is_last:
            twin.update(recorder.hyperparameters)
    return loss


def _move(before: Sequence[Tensor], after: nn.Module) -> Tensor:
    """Return how far all parameters moved, flat, float64."""
    pairs = zip(before, after.parameters(), strict=True)
    with torch.no_grad():
        return torch.cat([(b.double() - a.double()).reshape(-1) for a, b in pairs])
