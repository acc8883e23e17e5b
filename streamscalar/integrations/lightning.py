"""Record trainings of the Trainer of Lightning."""

import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from streamscalar.errors import BadCall
from streamscalar.integrations import missing, refuse_copies

if TYPE_CHECKING:
    from streamscalar.tracking import Summary, Tracker

ENVIRONMENT = "STREAMSCALAR_LIGHTNING"
"""Environment variable that adds the callback to each Trainer that has none, where it is 1."""

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Packages that hold the same Trainer; each takes callbacks of its own class only."""


def _base() -> Any:
    """Return the Callback of the package that is imported, of both if both are, so that either Trainer takes it."""
    bases = tuple(sys.modules[name].Callback for name in PACKAGES if hasattr(sys.modules.get(name), "Callback"))
    if bases:
        return type("Callback", bases, {})
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError as error:
        try:
            from pytorch_lightning import Callback
        except ModuleNotFoundError:
            raise missing(error, "lightning", "lightning") from None
    return Callback


Callback: Any = _base()


class StreamscalarCallback(Callback):  # type: ignore[misc]  # its class depends on the package
    """Records every update of a Trainer with `streamscalar.track`.

    Steps are those of `trainer.global_step`, which counts updates of all optimizers: batches whose gradients are
    accumulated are no steps, and a batch with two updates is two. A row holds the weights at the end of a batch with an
    update. What a LightningModule logs is stored with the newest step, under the name that loggers get; so are the
    metrics of a validation. The mean loss over the batches of an update is the metric `loss`, unless that name is
    logged. The training is not changed, bit for bit.

    A Trainer that continues from a checkpoint (`fit(ckpt_path=...)`) continues the run that the checkpoint belongs to.

    Parameters
    ----------
    **options
        Options of `streamscalar.track`, such as `name`, `group`, `every_n_steps` or `probe`, but not `model` and
        `optimizer`, which the Trainer gives. `config` is added to `hparams` of the module.

    Attributes
    ----------
    tracker : Tracker or None
        Tracker of the training, from its start on.
    summary : Summary or None
        Summary of the recording, once the training has ended.

    Raises
    ------
    BadCall
        `shadow` or `tangent` is asked for: a Trainer clips and accumulates gradients by itself, so no function that a
        copy could repeat is known.

    Examples
    --------
    Pass it to a Trainer::

        trainer = Trainer(callbacks=[StreamscalarCallback(name="first")])
    """

    def __init__(self, **options: Any) -> None:
        refuse_copies(options, "a Trainer")
        self._options = options
        self._is_automatic = False
        self._resumed: str | None = None
        self._step = 0
        self._losses: list[Tensor] = []
        self._rates: dict[str, object] = {}
        self._seen: dict[str, Tensor] = {}
        self.tracker: Tracker | None = None
        self.summary: Summary | None = None

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint: several callbacks in one Trainer record runs of their own."""
        run = "environment" if self._is_automatic else self._options.get("name", "run")
        return f"StreamscalarCallback[{self._options.get('group', 'tracked')}/{run}]"

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the run, for a checkpoint."""
        return {} if self.tracker is None else {"run_id": self.tracker.run_id}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the name of the run that the training continues."""
        self._resumed = state_dict.get("run_id")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the run, or continue that of the checkpoint."""
        from streamscalar.tracking import TrackingWarning, track

        others = [one for one in trainer.callbacks if isinstance(one, StreamscalarCallback) and one is not self]
        if self._is_automatic and others:
            return
        options = {"optimizer": next(iter(trainer.optimizers), None), **self._options}
        if self._resumed is not None:
            options = {"resume": "allow", **options, "name": self._resumed}
        config = {
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "precision": trainer.precision,
            **pl_module.hparams,
            **(options.pop("config", None) or {}),
        }
        self._step = trainer.global_step
        self._losses.clear()
        self._seen = dict(trainer.logged_metrics)
        try:
            self.tracker = track(trainer.model or pl_module, config=config, **options)
        except BadCall as error:
            if not self._is_automatic:
                raise
            # The program does not know of this callback.
            warnings.warn(f"nothing is recorded: {error}", TrackingWarning, stacklevel=2)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Read the learning rates before a scheduler changes them."""
        del pl_module, optimizer
        groups = [group for one in trainer.optimizers for group in one.param_groups]
        names = [f"learning_rate/{index}" if index else "learning_rate" for index in range(len(groups))]
        self._rates = {name: group.get("lr") for name, group in zip(names, groups, strict=True)}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Record what was logged after the step before."""
        del pl_module, batch, batch_idx
        self._record_logged(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the weights if the batch ended with an update."""
        del pl_module, batch, batch_idx
        if self.tracker is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach())
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        metrics = {**self._mean_loss(trainer), **self._rates, **self._new(trainer)}
        self._losses.clear()
        self.tracker.step(step=self._step)
        self.tracker.log(metrics, step=self._step)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the metrics of a validation with the step after which it ran."""
        del pl_module
        if not trainer.sanity_checking:
            self._record_logged(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait until everything is stored."""
        del pl_module
        if self.tracker is not None:
            self._record_logged(trainer)
            self.summary = self.tracker.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Mark the run as failed."""
        del trainer, pl_module
        if self.tracker is not None:
            self.tracker.__exit__(type(exception), exception, exception.__traceback__)
            self.summary = self.tracker.summary()

    def _record_logged(self, trainer: Any) -> None:
        if self.tracker is not None:
            metrics = self._new(trainer)
            if metrics:
                self.tracker.log(metrics, step=self._step)

    def _new(self, trainer: Any) -> dict[str, Tensor]:
        """Return what was logged since the last call.

        Lightning returns old values, too, so each is compared with that of the last call, which is held: a new value
        cannot have the memory of an old one.
        """
        logged = trainer.logged_metrics
        seen = self._seen
        new = {k: v for k, v in logged.items() if k not in seen or v.data_ptr() != seen[k].data_ptr()}
        self._seen = {**seen, **new}
        return new

    def _mean_loss(self, trainer: Any) -> dict[str, object]:
        """Return the mean loss of the batches of an update; Lightning divides each by their nominal number."""
        if not self._losses:
            return {}
        divisor = trainer.accumulate_grad_batches if trainer.lightning_module.automatic_optimization else 1
        if len(self._losses) == divisor == 1:
            return {"loss": self._losses[0]}
        return {"loss": sum(self._losses) * divisor / len(self._losses)}


def from_environment() -> list[StreamscalarCallback]:
    """Return the callback for a Trainer that has none, if the environment variable STREAMSCALAR_LIGHTNING is 1.

    Lightning calls this for each Trainer, as the entry point `lightning.pytorch.callbacks_factory`.
    """
    if os.environ.get(ENVIRONMENT) != "1":
        return []
    callback = StreamscalarCallback()
    callback._is_automatic = True
    return [callback]
