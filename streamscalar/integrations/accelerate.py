"""Record trainings that use Accelerate."""

import logging
from collections.abc import Mapping
from typing import Any

from streamscalar.integrations import missing, refuse_copies
from streamscalar.integrations.owners import has_run, optimizers
from streamscalar.integrations.updates import Updates
from streamscalar.tracking import Summary, Tracker

try:
    from accelerate.tracking import GeneralTracker
except ModuleNotFoundError as error:
    raise missing(error, "accelerate", "accelerate") from None

_LOG = logging.getLogger(__name__)


class StreamscalarTracker(GeneralTracker):  # type: ignore[misc]  # its types are not read
    """Records every update of a training with `streamscalar.track`, as a tracker of an `Accelerator`.

    A step is an update of the optimizer, whatever the number of batches that it accumulates, and the steps are counted
    from 1; an update that loss scaling skips is none. The recorded parameters are those that the optimizer updates, by
    their names in the prepared model. What is logged is stored with the newest update at the time of the call:
    `Accelerator.log` does not define what its `step` counts, which may be batches or epochs. The training is not
    changed, bit for bit. Recording starts at the first update after the tracker is made, on every rank, and
    `end_training` ends it.

    To continue the run from a checkpoint, pass the tracker to `Accelerator.register_for_checkpointing`.

    Parameters
    ----------
    **options
        Options of `streamscalar.track`, such as `name`, `group`, `every_n_steps` or `probe`, but not `model` and
        `optimizer`. `config` is added to that of `init_trackers`.

    Attributes
    ----------
    tracker : Tracker or None
        Tracker of the training, from its first update on.
    summary : Summary or None
        Summary of the recording, once the training has ended.

    Raises
    ------
    BadCall
        `shadow` or `tangent` is asked for: no function that a copy could repeat is known.

    Examples
    --------
    Pass it to an Accelerator::

        accelerator = Accelerator(log_with=[StreamscalarTracker(name="first")])
        model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
        accelerator.init_trackers("digits", config={"learning_rate": 0.1})
    """

    name = "streamscalar"
    requires_logging_directory = False

    def __init__(self, **options: Any) -> None:
        super().__init__()
        refuse_copies(options, "Accelerate")
        self._options = options
        # An Accelerator starts trackers on the main process only, but every rank has to take part.
        self._updates = Updates(options, _LOG.info, filter(has_run, optimizers()))
        # What is logged before the first update waits for the tracker.
        self._logged: list[tuple[int, dict[str, Any]]] = []
        self.summary: Summary | None = None

    @property
    def tracker(self) -> Tracker | None:
        """Tracker of the training, from its first update on."""
        return self._updates.tracker

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Take the config of the run."""
        self._options["config"] = {**values, **(self._options.get("config") or {})}

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Store values with the newest update."""
        del step, kwargs
        self._logged.append((self._updates.n_updates, dict(values)))
        self._store_logged()

    def _store_logged(self) -> None:
        tracker = self._updates.tracker
        if tracker is not None:
            for n_updates, values in self._logged:
                tracker.log(values, step=n_updates)
            self._logged.clear()

    def finish(self) -> None:
        """Wait until everything is stored."""
        self._store_logged()
        self.summary = self._updates.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the run and its number of updates, for a checkpoint."""
        run_id = self._options.get("name") if self._updates.tracker is None else self._updates.tracker.run_id
        return {"run_id": run_id, "n_updates": self._updates.n_updates}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        self._updates.n_updates = state_dict["n_updates"]
        self._options.update(name=state_dict["run_id"], resume="allow")
