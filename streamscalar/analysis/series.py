"""The series of one run, as input of the analysis."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamscalar.missing import is_missing
from streamscalar.types import REFERENCE


@dataclass(frozen=True)
class RunSeries:
    """Everything recorded about one run, apart from its weights.

    Attributes
    ----------
    run_id
        Name of the run.
    learning_rate, epsilon
        Its setting: learning rate (NaN if a training loop of the user did not give it), and size of the perturbation.
    initial_condition
        Index of its initial condition.
    seed
        Seed of all random numbers of the run.
    n_parameters
        Number P of parameters.
    n_perturbed
        Number M of perturbed replicas, at 1..M of the replica axis.
    has_control
        Whether the last replica is an unperturbed copy of the reference.
    is_complete
        Whether the run reached its planned end.
    n_planned
        Rows of the complete run; `None` if unknown.
    steps
        Training step of each row so far, `(N,)` int64.
    divergence
        Distance from the reference `(N, R)` float64 by name: `l1` (sum over parameters), `rms`, `embedded`
        (along the scalar embedding) and `random` (along one random direction), the last three over the root
        of P, the last two with a sign.
    pairs
        L1 distances of all pairs of reference and perturbed replicas, `(N, M (M + 1) / 2)`.
    increments
        Products of the replicas' moves since the row before, over P, `(N, 1 + M, 1 + M)`; 0 at row 0.
    scores
        Coordinates in one basis, `(N, R, K)`; the first is the scalar embedding.
    metrics
        `(N, R)` by name: `loss`, `accuracy` on the test split if the task has one, and `tangent_1`... (ln of the
        stretching of each tangent vector since the row before) if the run has any. `missing.MISSING` where a tracked
        training reported none.
    explained_variance, eigengap
        Share of the variance along the scalar, and one minus the ratio of the two leading eigenvalues, both in
        [0, 1]; `None` without an embedding.
    embedding_is_exact
        Whether the embedding is the exact one, from all stored rows, instead of the live one.
    variant
        What distinguishes its setting apart from learning rate and epsilon, in words; empty where nothing does.
    not_reproduced
        Why perturbed replicas and tangent vectors do not repeat the training; empty where they do.
    """

    run_id: str
    learning_rate: float
    epsilon: float
    initial_condition: int
    seed: int
    n_parameters: int
    n_perturbed: int
    has_control: bool
    is_complete: bool
    n_planned: int | None
    steps: NDArray[np.int64]
    divergence: Mapping[str, NDArray[np.float64]]
    pairs: NDArray[np.float64]
    increments: NDArray[np.float64]
    scores: NDArray[np.float64]
    metrics: Mapping[str, NDArray[np.float64]]
    explained_variance: float | None
    eigengap: float | None
    embedding_is_exact: bool
    variant: str = ""
    not_reproduced: str = ""

    @property
    def key(self) -> tuple[float, float, str]:
        """Setting of the run: learning rate, epsilon and variant."""
        return self.learning_rate, self.epsilon, self.variant

    def alone(self, why: str) -> "RunSeries":
        """Return the series of the reference without replicas and tangent vectors, which did not repeat the training.

        Parameters
        ----------
        why
            Sentence for `not_reproduced`.
        """
        return replace(
            self,
            n_perturbed=0,
            has_control=False,
            divergence={name: values[:, :1] for name, values in self.divergence.items()},
            pairs=self.pairs[:, :0],
            increments=self.increments[:, :1, :1],
            scores=self.scores[:, :1],
            metrics={name: v[:, :1] for name, v in self.metrics.items() if not name.startswith("tangent_")},
            not_reproduced=why,
        )

    def perturbed(self, distance: str) -> NDArray[np.float64]:
        """Return the divergence `(N, M)` of the perturbed replicas."""
        return np.asarray(np.abs(self.divergence[distance][:, 1 : 1 + self.n_perturbed]))

    @property
    def members(self) -> slice:
        """Slice of the replica axis that holds reference and perturbed replicas, without the control."""
        return slice(0, 1 + self.n_perturbed)

    def reference(self, metric: str) -> NDArray[np.float64] | None:
        """Return a metric `(N,)` of the reference, or `None` if it was not recorded."""
        found = self.metrics.get(metric)
        return None if found is None else found[:, REFERENCE]

    def reported(self, metric: str) -> NDArray[np.bool_]:
        """Return at which rows `(N,)` a recorded metric was reported for reference and perturbed replicas."""
        return np.asarray(~is_missing(self.metrics[metric][:, self.members]).any(axis=1))

    @property
    def control_divergence(self) -> float | None:
        """Largest l1 distance of the control from the reference, the noise floor of the run.

        0 if the two stay identical; NaN if the control or the reference is not finite; `None` without a control or
        a row.
        """
        l1 = self.divergence["l1"]
        if not self.has_control or len(l1) == 0:
            return None
        return float(l1[:, 1 + self.n_perturbed].max())

    @property
    def has_diverged(self) -> bool:
        """Whether the mean loss, the control left out, ended above its start or is not finite."""
        loss = self.metrics.get("loss")
        if loss is None:
            return False
        followed = loss[self.reported("loss"), : 1 + self.n_perturbed]
        if len(followed) == 0:
            return False
        if not np.isfinite(followed[-1]).all():
            return True
        return bool(followed[-1].mean() > followed[0].mean())
