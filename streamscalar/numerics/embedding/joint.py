"""Several runs of one parameter layout as one source, so that `exact_cmds` gives comparable coordinates.

Coordinates of runs that were embedded one by one are not comparable: each has its own mean, direction and sign. Here
the runs lie side by side on the replica axis of one source.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.numerics.embedding.sources import SnapshotSource
from streamscalar.types import Layer


class JointSource:
    """Source whose replica axis holds the replicas of the first run, then those of the next.

    It has the rows that all runs have: row i is the i-th recorded row of each, so their steps must agree.

    Attributes
    ----------
    n_rows, n_replicas, n_parameters : int
        Rows of the shortest run, replicas of all runs together, and P.
    replicas : mapping of str to range
        Indices of each run on the replica axis; the first one is the reference of that run.

    Notes
    -----
    Memory of a read: one block of each run. `ExactSolution.separation` is measured from the reference of the first
    run.
    """

    def __init__(self, sources: Mapping[str, SnapshotSource]) -> None:
        self._sources = dict(sources)
        self.n_rows = min(source.n_rows for source in sources.values())
        self.n_parameters = next(iter(sources.values())).n_parameters
        self.replicas: dict[str, range] = {}
        self.n_replicas = 0
        for name, source in sources.items():
            self.replicas[name] = range(self.n_replicas, self.n_replicas + source.n_replicas)
            self.n_replicas += source.n_replicas

    def by_rows(self) -> Iterator[NDArray[np.floating]]:
        """Yield blocks `(S, R, P)` in the order of rows."""
        for _, block in _side_by_side([_numbered(source.by_rows()) for source in self._sources.values()], axis=0):
            yield block

    def by_parameters(self) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yield the offset of a block and the block `(N, R, p)` of all rows, until all parameters were read."""
        parts = [self._first_rows(source) for source in self._sources.values()]
        yield from _side_by_side(parts, axis=2)

    def _first_rows(self, source: SnapshotSource) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yield the blocks by parameters of a source, cut to the rows that all runs have."""
        for offset, block in source.by_parameters():
            yield offset, block[: self.n_rows]


def joint_source(
    sources: Mapping[str, SnapshotSource], layers: Mapping[str, Sequence[Layer]] | None = None
) -> JointSource:
    """Put runs of one parameter layout side by side.

    Parameters
    ----------
    sources
        Runs by name, in their order on the replica axis.
    layers
        Layers of each run, which must agree; without them only the numbers of parameters are compared. Pass them: two
        different layouts can have the same number of parameters.

    Returns
    -------
    JointSource

    Raises
    ------
    BadCall
        Of kind `data` if there is no run or no row, or if layouts differ; it names the runs of each.

    Examples
    --------
    `exact_cmds(joint, fit, 1)` with `fit = [r for name in runs for r in joint.replicas[name]]`, without controls,
    gives `scores[:, joint.replicas[name]]` for each run, all relative to one mean along one direction.
    """
    if not sources:
        raise BadCall("sources", "must hold at least one run", "none", kind=Kind.DATA)
    layouts: dict[tuple[object, ...], list[str]] = {}
    for name, source in sources.items():
        shapes = () if layers is None else tuple((layer.name, layer.offset, layer.shape) for layer in layers[name])
        layouts.setdefault((source.n_parameters, *shapes), []).append(name)
    if len(layouts) > 1:
        groups = "; ".join(f"{', '.join(names)} with {key[0]} parameters" for key, names in layouts.items())
        fix = "Embed the runs of each layout separately."
        raise BadCall("sources", "must have one parameter layout", groups, fix, Kind.DATA)
    empty = [name for name, source in sources.items() if source.n_rows < 1]
    if empty:
        raise BadCall("sources", "must hold at least one row each", f"none in {', '.join(empty)}", kind=Kind.DATA)
    return JointSource(sources)


def _numbered(blocks: Iterable[NDArray[np.floating]]) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Yield each block with the index of its first row."""
    row = 0
    for block in blocks:
        yield row, block
        row += len(block)


def _side_by_side(
    parts: Sequence[Iterator[tuple[int, NDArray[np.floating]]]], axis: int
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Join blocks that are cut differently along `axis` on axis 1, up to the end of the shortest part.

    Blocks are cut where any of the parts is cut, so at most one block of each is in memory.
    """
    held: list[NDArray[np.floating] | None] = [None] * len(parts)
    offset = 0
    while True:
        for index, part in enumerate(parts):
            block = held[index]
            if block is None or block.shape[axis] == 0:
                following = next(part, None)
                if following is None:
                    return
                held[index] = following[1]
        blocks = [block for block in held if block is not None]
        width = min(block.shape[axis] for block in blocks)
        before = (slice(None),) * axis
        yield offset, np.concatenate([block[(*before, slice(width))] for block in blocks], axis=1)
        held = [block[(*before, slice(width, None))] for block in blocks]
        offset += width
