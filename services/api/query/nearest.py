"""The nearest runs by trajectory."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import BadCall, Kind
from streamscalar.types import json_float
from streamscalar_services.api.query.comparison import LEADING, on_shared_axes
from streamscalar_services.api.query.readers import Readers
from streamscalar_services.api.schemas import Neighbour, Neighbours
from streamscalar_services.api.watch.entries import Entry

N_AXES = 8
"""Shared components along which trajectories are compared."""
MOST_PLACED = 64
"""Maximum number of runs placed on shared axes; of more runs, those of the most similar shape."""

Method = Literal["auto", "weights", "shape"]


def nearest(readers: Readers, entry: Entry, others: Sequence[Entry], n_items: int, method: Method) -> Neighbours:
    """Return the runs whose trajectories lie nearest.

    Parameters
    ----------
    readers
        Opens the runs.
    entry, others
        The run, and all runs, with or without it.
    n_items
        Maximum number of neighbours.
    method
        `weights`: distance along the shared components at equal steps, for runs of one layout. `shape`: features of
        the scalar, for any runs. `auto`: weights if another run has the same layout.

    Raises
    ------
    BadCall
        The run is not analysed yet, or no other run has its layout and `weights` is requested.
    """
    if not entry.features:
        raise BadCall("run", "must be analysed already, which needs rows with moves", entry.id, kind=Kind.DATA)
    known = [other for other in others if other is not entry and other.features]
    alike = [other for other in known if other.layout == entry.layout]
    if method == "weights" and not alike:
        raise BadCall("method", "must be shape: no other run here has this layout", method, kind=Kind.DATA)
    if alike and method != "shape":
        found = _by_weights(readers, entry, alike, n_items)
        if found is not None:
            return found
    ranked = _by_shape(entry, known)
    message = "Speed, curvature, autocorrelation and exponent of the scalar, each over its deviation among these runs."
    return Neighbours(
        run=entry.id,
        method="shape",
        message=message,
        items=[Neighbour(run=o.id, distance=d, n_steps=o.n_rows, features=_shown(o)) for d, o in ranked[:n_items]],
        n=min(n_items, len(ranked)),
        of=len(known),
    )


def _by_weights(readers: Readers, entry: Entry, alike: Sequence[Entry], n_items: int) -> Neighbours | None:
    placed = [entry, *(other for _, other in _by_shape(entry, alike)[: MOST_PLACED - 1])]
    axes, curves = on_shared_axes(readers, placed, N_AXES)
    if axes is None:
        return None
    steps, own = curves[0]
    found = []
    for other, (other_steps, values) in zip(placed[1:], curves[1:], strict=True):
        _, here, there = np.intersect1d(steps, other_steps, return_indices=True)
        apart = np.linalg.norm(own[here] - values[there], axis=1)
        if len(apart) and np.isfinite(apart).all():
            distance = float(np.sqrt(np.square(apart).mean()))
            found.append(Neighbour(run=other.id, distance=distance, n_steps=len(apart), features={}))
    found.sort(key=lambda neighbour: (neighbour.distance, neighbour.run))
    message = f"RMS distance at equal steps along {N_AXES} shared components, made of {LEADING} directions of each run."
    if len(placed) - 1 < len(alike):
        message += f" Only the {len(placed) - 1} of {len(alike)} runs with the most similar scalar were compared."
    return Neighbours(
        run=entry.id,
        method="weights",
        message=message,
        items=found[:n_items],
        n=min(n_items, len(found)),
        of=len(alike),
    )


def _by_shape(entry: Entry, others: Sequence[Entry]) -> list[tuple[float, Entry]]:
    """Return runs and the distances of the shape of their scalar from that of `entry`, nearest first."""
    if not others:
        return []
    table = np.array([_features(other) for other in (entry, *others)])
    with np.errstate(invalid="ignore"):
        spread = np.nanstd(table, axis=0)
    spread[~(spread > 0)] = 1.0
    apart = np.square((table[1:] - table[0]) / spread)
    # A feature that one of the two lacks is left out.
    distances = np.sqrt(np.nanmean(apart, axis=1))
    order = np.argsort(distances, kind="stable")
    return [(float(distances[index]), others[index]) for index in order]


def _features(entry: Entry) -> NDArray[np.float64]:
    exponent = None if entry.glance is None else entry.glance.exponent.value
    features = entry.features
    values = (np.log(features["speed"]), features["curvature"], features["autocorrelation"], exponent)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _shown(entry: Entry) -> dict[str, float | str | None]:
    exponent = None if entry.glance is None else entry.glance.exponent.value
    found = {**entry.features, **({} if exponent is None else {"exponent": exponent})}
    return {name: json_float(value) for name, value in found.items()}
