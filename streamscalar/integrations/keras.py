"""Record trainings of Keras 3 on its torch backend."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from streamscalar.errors import BadCall, Kind
from streamscalar.integrations import missing, refuse_copies
from streamscalar.tracking import Summary, Tracker, track

try:
    import keras
except ModuleNotFoundError as error:
    if error.name != "keras":
        # Keras imports its backend, which is TensorFlow by default.
        text = f"Keras needs {error.name} for its backend. Set KERAS_BACKEND=torch before keras is imported"
        raise ModuleNotFoundError(text, name=error.name) from None
    raise missing(error, "keras", "keras") from None


class StreamscalarCallback(keras.callbacks.Callback):  # type: ignore[misc]  # its types are not read
    """Records every update of `fit` with `streamscalar.track`.

    Steps are `iterations` of the optimizer, which goes on from one `fit` to the next; batches whose gradients are
    accumulated are no steps. Parameters have the paths of Keras as names. Keras numbers them over the process: call
    `keras.utils.clear_session()` before each of several models that are to count as repeats.

    What Keras logs after a batch is stored with that step: its `loss` and metrics are means over the epoch so far.
    Metrics of a validation are stored with the last step of the epoch. The training is not changed, bit for bit.

    Parameters
    ----------
    **options
        Options of `streamscalar.track`, such as `name`, `group`, `every_n_steps` or `probe`, but not `model` and
        `optimizer`. With `resume="allow"`, a further `fit` is a child of the run of the one before.

    Attributes
    ----------
    tracker : Tracker or None
        Tracker of the training, from its start on.
    summary : Summary or None
        Summary of the recording, once the training has ended.

    Raises
    ------
    BadCall
        The backend of Keras is not torch; or `shadow` or `tangent` is asked for: no function that a copy could repeat
        is known.

    Examples
    --------
    Pass it to `fit`::

        model.fit(x, y, callbacks=[StreamscalarCallback(name="first")])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        backend = keras.backend.backend()
        if backend != "torch":
            fix = "Set KERAS_BACKEND=torch before keras is imported"
            raise BadCall("backend of Keras", "must be torch", backend, fix, Kind.CONFIG)
        refuse_copies(options, "fit")
        self._options = options
        self._rate: Any = None
        self._step = 0
        self.tracker: Tracker | None = None
        self.summary: Summary | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start the run."""
        del logs
        optimizer = self.model.optimizer
        config = {
            "optimizer": type(optimizer).__name__,
            **{k: v for k, v in optimizer.get_config().items() if k != "name"},
            "learning_rate": _nominal_rate(optimizer),
            **(self._options.get("config") or {}),
        }
        self._step = int(optimizer.iterations)
        self.tracker = track(_Variables(self.model), **{**self._options, "config": config})

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Take the learning rate: of a schedule, the value now; else the variable, read after the update."""
        del batch, logs
        self._rate = self.model.optimizer.learning_rate

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the weights if the batch ended with an update."""
        del batch
        step = int(self.model.optimizer.iterations)
        if self.tracker is None or step == self._step:
            return
        self._step = step
        rate = self._rate.value if isinstance(self._rate, keras.Variable) else self._rate
        self.tracker.step(step=step)
        self.tracker.log({"learning_rate": rate, **(logs or {})}, step=step)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the metrics of the epoch and of its validation with its last step."""
        del epoch
        if self.tracker is not None:
            self.tracker.log({k: v for k, v in (logs or {}).items() if k != "learning_rate"}, step=self._step)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Wait until everything is stored."""
        del logs
        if self.tracker is not None:
            self.summary = self.tracker.finish()


class _Variables(nn.Module):
    """The weights of a Keras model under their paths.

    Parameters
    ----------
    model
        The model, as it is at each call.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        # A module as an attribute would become a submodule, with names of its own.
        self._models = [model]

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield path and value of each weight."""
        del prefix, recurse
        seen: set[int] = set()
        for variable in self._models[0].weights:
            if not (remove_duplicate and id(variable.value) in seen):
                seen.add(id(variable.value))
                yield variable.path, variable.value


def _nominal_rate(optimizer: Any) -> Any:
    """Return the learning rate that a schedule warms up to or begins with; without one, the learning rate."""
    rate = optimizer.get_config().get("learning_rate")
    if isinstance(rate, Mapping):
        schedule = rate.get("config", {})
        return schedule.get("warmup_target") or schedule.get("initial_learning_rate")
    return rate
