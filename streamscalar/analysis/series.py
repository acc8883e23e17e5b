"""The plain series of one run that an analysis reads."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamscalar.types import REFERENCE


@dataclass(frozen=True)
class RunSeries:
    """Everything recorded about one run, apart from its weights.

    Attributes
    ----------
    run_id
        Name of the run.
    learning_rate, epsilon
        Its setting: learning rate, and size of the perturbation.
    initial_condition
        Index of its initial condition.
    n_perturbed
        Number M of perturbed replicas, at 1..M of the replica axis.
    has_control
        Whether the last replica is an unperturbed copy of the reference.
    is_complete
        Whether the run reached its planned end.
    n_planned
        Rows of the complete run.
    steps
        Training step of each row so far, `(N,)` int64.
    divergence
        Distance from the reference `(N, R)` float64 by name: `l1` (sum over parameters), `rms`, `embedded`
        (along the scalar embedding) and `random` (along one random direction), the last three over the root
        of P. A name that was not recorded is absent.
    metrics
        `(N, R)` by name: `loss`, and `accuracy` on the test split where the task has one.
    explained_variance
        Share of the variance along the scalar, in [0, 1]; `None` before there is an embedding.
    embedding_is_exact
        Whether the embedding is the exact one, from all stored rows, and not the live one.
    """

    run_id: str
    learning_rate: float
    epsilon: float
    initial_condition: int
    n_perturbed: int
    has_control: bool
    is_complete: bool
    n_planned: int
    steps: NDArray[np.int64]
    divergence: Mapping[str, NDArray[np.float64]]
    metrics: Mapping[str, NDArray[np.float64]]
    explained_variance: float | None
    embedding_is_exact: bool

    def perturbed(self, distance: str) -> NDArray[np.float64] | None:
        """Return the divergence `(N, M)` of the perturbed replicas, or `None` where it was not recorded."""
        found = self.divergence.get(distance)
        return None if found is None else found[:, 1 : 1 + self.n_perturbed]

    def reference(self, metric: str) -> NDArray[np.float64] | None:
        """Return a metric `(N,)` of the reference, or `None` where it was not recorded."""
        found = self.metrics.get(metric)
        return None if found is None else found[:, REFERENCE]

    @property
    def control_divergence(self) -> float | None:
        """Largest l1 distance of the control from the reference, the noise floor of the run.

        0 where twins stay identical; NaN where the control or the reference is no longer finite; `None`
        without a control or a row.
        """
        l1 = self.divergence.get("l1")
        if not self.has_control or l1 is None or len(l1) == 0:
            return None
        return float(l1[:, 1 + self.n_perturbed].max())

    @property
    def has_diverged(self) -> bool:
        """Whether the mean loss, the control left out, ended above its start or is not finite."""
        loss = self.metrics.get("loss")
        if loss is None or len(loss) == 0:
            return False
        followed = loss[:, : 1 + self.n_perturbed]
        if not np.isfinite(followed[-1]).all():
            return True
        return bool(followed[-1].mean() > followed[0].mean())
