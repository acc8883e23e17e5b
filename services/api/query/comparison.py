"""Comparisons: one series of several runs at the same steps, on shared axes where their coordinates allow it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamscalar.numerics.embedding.shared_axes import Basis, SharedAxes, shared_axes
from streamscalar.types import DISTANCES, REFERENCE
from streamscalar_services.api.query.readers import Readers
from streamscalar_services.api.query.sampling import Numbers, numbers, sample
from streamscalar_services.api.schemas import Compared, Comparison
from streamscalar_services.api.watch.entries import Entry

LEADING = 4
"""Directions of each run from which shared axes are made."""

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps `(N,)`, and values `(N,)` or coordinates `(N, L)`."""


def compare(readers: Readers, entries: Sequence[Entry], name: str, max_points: int) -> Comparison:
    """Return one series of the references of several runs, at the steps of any of them, thinned.

    Parameters
    ----------
    readers
        Opens the runs.
    entries
        The runs.
    name
        `embedding`, a distance, or a metric.
    max_points
        Maximum number of steps.
    """
    axis: Literal["shared", "own"] = "shared"
    message = "The same quantity of every run."
    if name == "embedding":
        curves, axis, message = _coordinates(readers, entries)
    else:
        curves = [_curve(readers, entry, name) for entry in entries]
    every = np.unique(np.concatenate([steps for steps, _ in curves]))
    chosen = every[sample(0, len(every), max_points).rows] if len(every) else every
    return Comparison.model_construct(
        name=name,
        axis=axis,
        message=message,
        steps=chosen.tolist(),
        runs=[
            Compared.model_construct(run=entry.id, values=_at(chosen, steps, values))
            for entry, (steps, values) in zip(entries, curves, strict=True)
        ],
        n=len(chosen),
        of=len(every),
    )


def on_shared_axes(readers: Readers, entries: Sequence[Entry], n_axes: int) -> tuple[SharedAxes | None, list[Curve]]:
    """Return shared axes of runs, and steps and coordinates (N, L) of each; `None` if the runs have no shared axes."""
    bases: list[Basis] = []
    own: list[Curve] = []
    layouts = set()
    for entry in entries:
        run, lock = readers.take(entry)
        with lock:
            basis = run.basis()
            if basis is None or not np.isfinite(basis.singular_values).all():
                return None, []
            scores, _ = run.coordinates("best")
            layouts.add(run.layout.layers)
            bases.append(basis.leading(LEADING))
            own.append((run.steps()[: len(scores)], scores[:, REFERENCE, :LEADING]))
    if len(layouts) > 1:
        return None, []
    axes = shared_axes(bases, n_axes)
    return axes, [(steps, axes.transform(index, scores)) for index, (steps, scores) in enumerate(own)]


def _curve(readers: Readers, entry: Entry, name: str) -> Curve:
    run, lock = readers.take(entry)
    with lock:
        if name in DISTANCES:
            found = run.divergence(name)
            perturbed = found.values[:, run.layout.perturbed]
            with np.errstate(divide="ignore", invalid="ignore"):
                means = np.exp(np.log(perturbed).mean(axis=1)) if perturbed.shape[1] else np.zeros(0)
            return found.steps[: len(means)], means
        found = run.logged(name)
        return found.steps, found.values[:, REFERENCE].astype(np.float64)


def _coordinates(readers: Readers, entries: Sequence[Entry]) -> tuple[list[Curve], Literal["shared", "own"], str]:
    axes, curves = on_shared_axes(readers, entries, 1)
    if axes is not None:
        share = f"{axes.kept_share:.1%}"
        message = f"One axis for all runs, made of {LEADING} directions of each: it holds {share} of their variance."
        return [(steps, values[:, 0]) for steps, values in curves], "shared", message
    own = []
    for entry in entries:
        run, lock = readers.take(entry)
        with lock:
            found = run.embedding()
        own.append((found.steps, _standardised(found.values[:, REFERENCE].astype(np.float64))))
    message = (
        "These runs have no common axis (different layouts, or an embedding without directions): each has its own, "
        "standardised to mean 0 and deviation 1, so only shapes can be compared."
    )
    return own, "own", message


def _at(chosen: NDArray[np.int64], steps: NDArray[np.int64], values: NDArray[np.float64]) -> Numbers:
    """Return the newest value at or before each chosen step, `None` before the first row and after the last."""
    if not len(steps):
        return [None] * len(chosen)
    places = np.searchsorted(steps, chosen, "right") - 1
    there = (places >= 0) & (chosen <= steps[-1])
    found = numbers(values[np.maximum(places, 0)])
    return found if there.all() else [value if known else None for value, known in zip(found, there, strict=True)]


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = values[np.isfinite(values)]
    spread = float(finite.std()) if len(finite) else 0.0
    return values - (finite.mean() if len(finite) else 0.0) if spread == 0 else (values - finite.mean()) / spread
