"""Record trainings of the Trainer of Hugging Face Transformers."""

from collections.abc import Iterable, Mapping
from typing import Any

from streamscalar.integrations import missing, record, refuse_copies
from streamscalar.tracking import Summary, Tracker, track
from streamscalar.tracking.training.metrics import learning_rates

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise missing(error, "transformers", "huggingface") from None

METRICS = ("loss", "eval_loss", "grad_norm")
"""Metrics that every Trainer may log; others that appear after the first row are passed as `metrics`."""

CONFIG = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "weight_decay", "optim"),
    *("lr_scheduler_type", "warmup_steps", "bf16", "fp16", "num_train_epochs", "max_steps", "seed"),
)
"""Training arguments that are recorded as the config of the run."""


class StreamscalarCallback(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Records every step of a Trainer with `streamscalar.track`.

    A step is an update of the optimizer, whatever the number of batches that it accumulates. Metrics that the Trainer
    logs or evaluates belong to the step after which it does. The training is not changed, bit for bit.

    Parameters
    ----------
    metrics
        Names of further metrics that the Trainer logs after its first step, such as `eval_accuracy`.
    **options
        Options of `streamscalar.track`, such as `name`, `group`, `every_n_steps` or `probe`, but not `model`, `config`
        and `optimizer`, which the Trainer gives. For a Trainer that resumes from a checkpoint, `resume="allow"`.

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

        trainer = Trainer(model, args, train_dataset=data, callbacks=[StreamscalarCallback(name="first")])
    """

    def __init__(self, metrics: Iterable[str] = (), **options: Any) -> None:
        refuse_copies(options, "a Trainer")
        self._metrics = tuple(metrics)
        self._options = options
        self._rates: dict[str, object] = {}
        self.tracker: Tracker | None = None
        self.summary: Summary | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the run, with the learning rate of the training arguments; every rank takes part."""
        del state, control
        config = {name: getattr(args, name) for name in CONFIG if hasattr(args, name)}
        self.tracker = track(
            kwargs["model"],
            optimizer=kwargs.get("optimizer"),
            config={"learning_rate": args.learning_rate, **config},
            metrics=(*METRICS, *self._metrics),
            **self._options,
        )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the learning rates before a scheduler changes them."""
        del args, state, control
        self._rates = learning_rates(kwargs["optimizer"]) if kwargs.get("optimizer") else {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the weights after an update."""
        del args, control, kwargs
        if self.tracker is not None:
            record(self.tracker, state.global_step, self._rates)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record the logged numbers with the row of their step; totals over the training are no metrics."""
        del args, control, kwargs
        if self.tracker is None or not state.global_step:
            return
        known = {*METRICS, *self._metrics}
        record(self.tracker, state.global_step, {k: v for k, v in (logs or {}).items() if k in known})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait until everything is stored."""
        del args, state, control, kwargs
        if self.tracker is not None:
            self.summary = self.tracker.finish()
