"""Recompute every checksum of a run, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from streamscalar.errors import StreamscalarError
from streamscalar.store.format.codec import encode
from streamscalar.store.reader import RunReader
from streamscalar.store.root import Store
from streamscalar.store.wal import sha256
from streamscalar.types import DISTANCES


@dataclass(frozen=True, slots=True)
class Finding:
    """One damaged part of a run.

    Attributes
    ----------
    run_id
        The run.
    what
        The array or stream.
    rows
        First and one past the last row concerned.
    message
        One sentence.
    """

    run_id: str
    what: str
    rows: tuple[int, int]
    message: str


def verify(store: Store, run_id: str | None = None) -> Iterator[Finding]:
    """Yield the damaged parts of one run, or of all.

    Weights are compared with their hashes, key frames with the chain of deltas, other arrays with their checksums.
    """
    for name in [run_id] if run_id is not None else store.run_ids():
        reader = store.reader(name)
        yield from _weights(reader)
        yield from _series(reader)


def _weights(reader: RunReader) -> Iterator[Finding]:
    kept, stop = reader.embedding.retained_from, reader.n_published
    try:
        hashes = reader.row_sha256()
    except StreamscalarError as error:
        yield Finding(reader.run_id, "weights/sha256", (0, stop), str(error))
        return
    for first in range(kept, stop, reader.segment_rows):
        rows = (first, min(stop, first + reader.segment_rows))
        try:
            block = reader.weights(*rows)
            for row, weights in enumerate(block, first):
                if sha256(weights) != hashes[row].tobytes():
                    text = f"row {row} does not agree with its hash"
                    yield Finding(reader.run_id, "weights/deltas", (row, row + 1), text)
            if first > kept and first % reader.spec.keyframe_every == 0:
                before = reader.weights(first - 1, first)[0]
                if (encode(block[:1], before) != reader.integer_deltas(first, first + 1)).any():
                    text = f"the key frame of row {first} does not continue the rows before it"
                    yield Finding(reader.run_id, "weights/keyframes", (first, first + 1), text)
        except StreamscalarError as error:
            yield Finding(reader.run_id, "weights", rows, str(error))


def _series(reader: RunReader) -> Iterator[Finding]:
    reads: dict[str, Callable[[], object]] = {
        "weights/steps": reader.steps,
        "embedding": reader.embedding.scores,
        "embedding/bases": reader.embedding.bases,
        "embedding/increments": reader.embedding.increments,
        "divergence/pairs": reader.embedding.pairs,
        "embedding/exact": reader.embedding.exact_arrays,
        "logged": reader.logged.entries,
    }
    reads |= {f"metrics/{name}": partial(reader.row_metrics, name) for name in reader.spec.metrics}
    reads |= {f"divergence/{name}": partial(reader.embedding.divergence, name) for name in DISTANCES}
    for what, read in reads.items():
        try:
            read()
        except StreamscalarError as error:
            yield Finding(reader.run_id, what, (0, reader.n_published), str(error))
