"""The exact embedding of a run, by the method and distance of its config."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.config.models import EmbeddingSection
from streamscalar.numerics.embedding.distances import Picked, distances, every_snapshot
from streamscalar.numerics.embedding.exact import exact_cmds
from streamscalar.numerics.embedding.from_distances.base import Embedding
from streamscalar.numerics.embedding.from_distances.classical import classical
from streamscalar.numerics.embedding.from_distances.distance_pca import distance_pca
from streamscalar.numerics.embedding.from_distances.landmark_cmds import landmark_cmds
from streamscalar.numerics.embedding.from_distances.smacof import smacof
from streamscalar.numerics.embedding.landmarks import even_landmarks
from streamscalar.numerics.embedding.sources import SnapshotSource
from streamscalar.types import REFERENCE, Layout


@dataclass(frozen=True, slots=True)
class ExactEmbedding:
    """Coordinates of all snapshots of a run.

    Attributes
    ----------
    scores
        `(N, R, K)`; the first component is the scalar.
    separation
        `(N, R)`, signed separation from the reference along the scalar. For classical scaling of RMS distances these
        are projections of weight differences, else differences of coordinates with a relative error of 1e-16.
    mean, components
        `(P,)` and `(K, P)` for classical scaling of RMS distances; empty for other methods, which have no directions.
    singular_values
        `(K,)`; for other methods the root of the share of each component, with a total variance of 1.
    info
        Method, distance, and measures of accuracy, as JSON.
    """

    scores: NDArray[np.float64]
    separation: NDArray[np.float64]
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    info: dict[str, Any]


def embed_exactly(
    source: SnapshotSource, layout: Layout, section: EmbeddingSection, start: NDArray[np.float64] | None = None
) -> ExactEmbedding:
    """Embed the reference and the perturbed replicas of a run, and place the control.

    Parameters
    ----------
    source
        The recorded snapshots.
    layout
        Meaning of the replica axis, and the layers.
    section
        Method, distance, components and landmarks. `layer` distances are combined by their root mean square, so that
        every layer has the same weight.
    start
        Directions (L, P) to start from, whose signs are kept; only for classical scaling of RMS distances.
    """
    if section.method == "cmds" and section.distance == "rms":
        return _directions(source, layout, section, start)
    found, twin = _by_distances(source, layout, section)
    members = [replica for replica in range(source.n_replicas) if replica != layout.control]
    scores = np.zeros((source.n_rows, source.n_replicas, section.n_components))
    scores[:, members] = found.scores.reshape(source.n_rows, len(members), -1)
    if layout.control is not None:
        scores[:, layout.control] = np.where(twin[:, None], scores[:, REFERENCE], np.nan)
    along = scores[..., 0]
    return ExactEmbedding(
        scores=scores,
        separation=along - along[:, REFERENCE, None],
        mean=np.zeros(0),
        components=np.zeros((0, source.n_parameters)),
        singular_values=np.sqrt(np.maximum(found.explained, 0.0)),
        info={
            "method": section.method,
            "distance": section.distance,
            "n_landmarks": section.n_landmarks if section.method in LANDMARKED else None,
            "stress": found.stress,
            "status": str(found.status),
            "message": found.message,
            "total_variance": 1.0,
        },
    )


LANDMARKED = ("distance_pca", "landmark")
"""Methods that need only distances to landmarks."""


def _directions(
    source: SnapshotSource, layout: Layout, section: EmbeddingSection, start: NDArray[np.float64] | None
) -> ExactEmbedding:
    fit = [replica for replica in range(source.n_replicas) if replica != layout.control]
    solution = exact_cmds(source, fit, section.n_components, start=start)
    return ExactEmbedding(
        solution.scores,
        solution.separation,
        solution.mean,
        solution.components,
        solution.singular_values,
        {
            "method": solution.method,
            "distance": section.distance,
            "n_passes": solution.n_passes,
            "residual": solution.residual,
            "residuals": solution.residuals.tolist(),
            "total_variance": solution.total_variance,
            "eigengap": solution.eigengap,
        },
    )


def _by_distances(
    source: SnapshotSource, layout: Layout, section: EmbeddingSection
) -> tuple[Embedding, NDArray[np.bool_]]:
    """Return the embedding without the control, and the rows in which the control equals the reference."""
    n_members = 1 + layout.n_perturbed
    picked = every_snapshot(source.n_rows, range(n_members))
    if section.method in LANDMARKED:
        landmarks = Picked(*even_landmarks(source.n_rows, n_members, section.n_landmarks))
    else:
        landmarks = picked

    def measured(items: Picked) -> NDArray[np.float64]:
        found = distances(source, items, landmarks, section.distance, layout.layers)
        return np.sqrt(np.square(found).mean(axis=0)) if section.distance == "layer" else found

    k = section.n_components
    apart = measured(picked)
    match section.method:
        case "distance_pca":
            embedding = distance_pca(apart, 1, k)
        case "landmark":
            embedding = landmark_cmds(measured(landmarks), apart, k)
        case "smacof":
            embedding = smacof(apart, k)
        case _:
            embedding = classical(apart, k)
    return embedding, _twins(source, layout)


def _twins(source: SnapshotSource, layout: Layout) -> NDArray[np.bool_]:
    """Return the rows in which the control has the bits of the reference, `(N,)`."""
    control = REFERENCE if layout.control is None else layout.control
    return np.concatenate([(block[:, control] == block[:, REFERENCE]).all(axis=1) for block in source.by_rows()])
