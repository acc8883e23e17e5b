"""Weights & Biases: a run of its own, with `WANDB_PROJECT`, `WANDB_MODE` and the other settings of the environment."""

import os
from collections.abc import Mapping
from typing import Any, Literal, cast

import wandb

from streamscalar.tracking.worker.mirrors.backends.base import Target
from streamscalar.types import AlertLevel

STEP = "streamscalar/step"


class Wandb:
    """See `Backend`. Values carry the training step as a metric of its own, since steps of W&B only increase."""

    def __init__(self, target: Target) -> None:
        # The service of the training process, which ends with it and would end this process, too.
        os.environ.pop("WANDB_SERVICE", None)
        self.id = target.id
        settings = target.settings
        self._run: Any = wandb.init(
            id=target.id,
            name=target.run_id,
            group=settings.get("group") or target.group,
            project=settings.get("project"),
            entity=settings.get("entity"),
            mode=cast(Literal["online", "offline", "disabled"] | None, settings.get("mode")),
            job_type="streamscalar",
            resume="allow",
            # The run is that of the training: nothing about this process is recorded.
            settings=wandb.Settings(console="off", x_disable_stats=True, save_code=False, disable_git=True),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("streamscalar/*", step_metric=STEP)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Backend.log`."""
        self._run.log({STEP: step, **values})

    def note(self, name: str, text: str) -> None:
        """See `Backend.note`."""
        self._run.summary[name] = text

    def alert(self, level: AlertLevel, title: str, text: str, step: int) -> None:
        """See `Backend.alert`."""
        del step  # The text says it.
        self._run.alert(title, text, level=level.upper())

    def flush(self) -> None:
        """See `Backend.flush`; W&B sends from a process of its own."""

    def close(self, *, has_failed: bool) -> None:
        """See `Backend.close`."""
        self._run.finish(exit_code=int(has_failed))


open_backend = Wandb
