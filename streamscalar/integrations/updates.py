"""Tracks a training through the hook that torch keeps for all optimizers, without a line in its loop."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from streamscalar.integrations.owners import largest, optimizers, owner, parameters_of
from streamscalar.tracking import Summary, Tracker, track
from streamscalar.tracking.start import rank
from streamscalar.tracking.training.capture import named_parameters

PATIENCE = 10
"""Number of updates of a smaller optimizer for which the largest one, which has made none, is waited for."""


class Updates:
    """Records a row after each update of the optimizer with the most parameters.

    The model is found at the first update. No error reaches the training.

    Parameters
    ----------
    options
        Options of `streamscalar.track`.
    say
        Called with a sentence on what is recorded, or why nothing is, and with the summary.
    ended
        Optimizers of earlier trainings, which are not waited for.

    Attributes
    ----------
    tracker : Tracker or None
        Tracker of the training, from its first update on.
    n_updates : int
        Number of updates, which is the newest step.
    """

    def __init__(self, options: dict[str, Any], say: Callable[[str], None], ended: Iterable[Optimizer]) -> None:
        self._options = options
        self._say = say if rank() == 0 else _say_nothing
        self._ended = WeakSet(ended)
        self._waiting: Counter[int] = Counter()
        self._chosen: Optimizer | None = None
        self._failed = False
        self.tracker: Tracker | None = None
        self.n_updates = 0
        self._handle = register_optimizer_step_post_hook(self._after_update)

    def end(self, failure: BaseException | None = None) -> Summary | None:
        """Remove the hook, and wait until everything is stored; return the summary if anything was recorded."""
        self._handle.remove()
        if self.tracker is None:
            if not self._failed:
                which = "no optimizer of torch" if self._chosen is None else "the largest optimizer of torch never"
                self._say(f"nothing is recorded: {which} made an update in this process")
            return None
        if failure is None:
            self.tracker.finish()
        else:
            self.tracker.__exit__(type(failure), failure, failure.__traceback__)
        summary = self.tracker.summary()
        self._say(str(summary))
        return summary

    def _after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        try:
            if self.tracker is None:
                self._choose(optimizer)
            if optimizer is not self._chosen:
                return
            if self.tracker is None:
                self.tracker = self._start(optimizer)
        except Exception as error:  # noqa: BLE001  (no error of the recording may end the training)
            self._failed = True
            self._handle.remove()
            self._say(f"nothing is recorded: {error}")
            return
        self.n_updates += 1
        self.tracker.step(step=self.n_updates)

    def _choose(self, optimizer: Optimizer) -> None:
        if self._chosen is None:
            self._chosen = largest([optimizer, *self._others(optimizer)])
        if optimizer is not self._chosen:
            self._waiting[id(optimizer)] += 1
            if self._waiting[id(optimizer)] > PATIENCE:
                self._chosen = optimizer
                self.n_updates += PATIENCE

    def _others(self, optimizer: Optimizer) -> list[Optimizer]:
        return [one for one in optimizers() if one is not optimizer and one not in self._ended]

    def _start(self, optimizer: Optimizer) -> Tracker:
        model = owner(optimizer)
        tracker = track(model, optimizer=optimizer, **self._options)
        n_parameters = sum(p.numel() for p in named_parameters(model).values() if p.requires_grad)
        what = f"{type(model).__name__} with {n_parameters:,} parameters, updated by {type(optimizer).__name__}"
        others = {id(p) for one in self._others(optimizer) for p in parameters_of(one)}
        others -= {id(p) for p in parameters_of(optimizer)}
        more = f"; {len(others):,} tensors of other optimizers are not recorded" if others else ""
        self._say(f"run {tracker.run_id} records {what}{more}")
        return tracker


def _say_nothing(text: str) -> None:
    """Do nothing: one process of a training prints."""
