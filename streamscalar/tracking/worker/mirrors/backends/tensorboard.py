"""TensorBoard: event files in `<TENSORBOARD_LOGGING_DIR>/<group>/<run>`, by default below `runs`."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from streamscalar.tracking.worker.mirrors.backends.base import Target
from streamscalar.types import AlertLevel


class TensorBoard:
    """See `Backend`; values are float32."""

    def __init__(self, target: Target) -> None:
        self.id = target.id
        self._step = 0
        folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or "runs", target.group, target.run_id)
        self._writer = EventFileWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Backend.log`."""
        self._step = step
        self._add(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def note(self, name: str, text: str) -> None:
        """See `Backend.note`."""
        self._add_text(self._step, name, text)

    def alert(self, level: AlertLevel, title: str, text: str, step: int) -> None:
        """See `Backend.alert`."""
        self._add_text(step, f"streamscalar/alert/{title}", f"{level}: {text}")

    def flush(self) -> None:
        """See `Backend.flush`."""
        self._writer.flush()

    def close(self, *, has_failed: bool) -> None:
        """See `Backend.close`."""
        del has_failed  # Event files have no such state.
        self._writer.close()

    def _add_text(self, step: int, name: str, text: str) -> None:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        metadata = create_summary_metadata(display_name=name, description="")
        self._add(step, [Summary.Value(tag=f"{name}/text_summary", metadata=metadata, tensor=tensor)])

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


open_backend = TensorBoard
