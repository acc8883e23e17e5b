"""MLflow: the active run of the training process, else a run of its own, at `MLFLOW_TRACKING_URI`."""

import contextlib
import os
import time
from collections.abc import Mapping

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from streamscalar.tracking.worker.mirrors.backends.base import Target
from streamscalar.types import AlertLevel

MOST_METRICS = 1000
"""Maximum number of values in one request."""


class Mlflow:
    """See `Backend`; texts and alerts are tags."""

    def __init__(self, target: Target) -> None:
        self._client = MlflowClient(target.settings.get("tracking_uri"))
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        joined = target.settings.get("run_id")
        self._is_own = joined is None
        if joined is not None:
            self.id = joined
        elif target.is_resumed:
            self.id = target.id
            self._client.update_run(self.id, status="RUNNING")
        else:
            tags = {"streamscalar.group": target.group}
            created = self._client.create_run(self._experiment(target.group), run_name=target.run_id, tags=tags)
            self.id = created.info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Backend.log`."""
        now_ms = int(time.time() * 1000)
        self._metrics += [Metric(name, value, now_ms, step) for name, value in values.items()]
        if len(self._metrics) >= MOST_METRICS:
            self.flush()

    def note(self, name: str, text: str) -> None:
        """See `Backend.note`."""
        self._tags[name.replace("/", ".")] = text

    def alert(self, level: AlertLevel, title: str, text: str, step: int) -> None:
        """See `Backend.alert`."""
        self._tags[f"streamscalar.alert.{title}.{step}"] = f"{level}: {text}"

    def flush(self) -> None:
        """See `Backend.flush`."""
        metrics, tags = self._metrics, [RunTag(name, text) for name, text in self._tags.items()]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self.id, metrics[first : first + MOST_METRICS])
        if tags:
            self._client.log_batch(self.id, tags=tags)
        self._metrics, self._tags = [], {}

    def close(self, *, has_failed: bool) -> None:
        """See `Backend.close`; the run of the training process is left as it is."""
        self.flush()
        if self._is_own:
            self._client.set_terminated(self.id, "FAILED" if has_failed else "FINISHED")

    def _experiment(self, group: str) -> str:
        """Return the id of the experiment: that of the environment, else the one with the name of the group."""
        if chosen := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return chosen
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or group
        # Another process may create it at the same time.
        with contextlib.suppress(MlflowException):
            if self._client.get_experiment_by_name(name) is None:
                return str(self._client.create_experiment(name))
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name))
        return str(found.experiment_id)


open_backend = Mlflow
