"""Record trainings of the Trainer of Hugging Face Transformers."""

from collections.abc import Mapping
from typing import Any

from streamscalar.integrations import missing, refuse_copies
from streamscalar.tracking import Summary, Tracker, track
from streamscalar.tracking.training.metrics import learning_rates

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise missing(error, "transformers", "huggingface") from None

TOTALS = ("total_flos", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second")
"""What a Trainer logs at its end about the whole training."""

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

    def __init__(self, **options: Any) -> None:
        refuse_copies(options, "a Trainer")
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
            self.tracker.step(step=state.global_step)
            self.tracker.log(self._rates, step=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record the logged numbers with their step; totals over the training are no metrics."""
        del args, control, kwargs
        if self.tracker is not None:
            # The rate after a scheduler's step is that of the next update.
            numbers = {k: v for k, v in (logs or {}).items() if k not in {*TOTALS, "learning_rate"}}
            self.tracker.log(numbers, step=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait until everything is stored."""
        del args, state, control, kwargs
        if self.tracker is not None:
            self.summary = self.tracker.finish()
