"""Every use of a seed, by name: the number of each stream, what it draws, and what its numbers decide.

A stream turns a seed into independent generators. Draw random numbers only through `generator`: two streams with one
seed then never overlap by accident, and a new stream finds a free number in the table below.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np


@dataclass(frozen=True, slots=True)
class Draw:
    """How a stream derives its generators from a seed.

    Attributes
    ----------
    key
        Entropy that follows the seed in `SeedSequence([seed, *key, *index])`, before the caller's `index`.
    spawn_key
        Position among the children of `SeedSequence(seed)`; empty where the stream is no child.
    n_indices
        Number of indices that the caller adds.
    seed
        Which seed it starts from: that of the `experiment` or of a `run`.
    draws
        What is drawn.
    decides
        What the numbers decide: bits of a `store`, or `estimates` made from it.
    """

    key: tuple[int, ...]
    spawn_key: tuple[int, ...]
    n_indices: int
    seed: str
    draws: str
    decides: str


class SeedStream(Enum):
    """The streams. A number that decides stored bits must never change.

    `BATCHES` and `SHADOW_PERTURBATIONS` both have the number 5, and both decide stored bits, so both keep it. They
    never meet in one run: `BATCHES` belongs to runs that this package trains, `SHADOW_PERTURBATIONS` to tracked runs,
    whose batches come from the user's own loop. The next free number is 6.
    """

    RUN_SEED = Draw((), (), 1, "experiment", "seed of a run, by initial condition", "store")
    INITIAL_WEIGHTS = Draw((), (0,), 0, "run", "initial weights of the reference", "store")
    PERTURBATIONS = Draw((), (1,), 0, "run", "perturbations of all replicas, one after the other", "store")
    PROBE = Draw((), (), 0, "run", "coordinates that a tracked run records with probe=n", "store")
    RANDOM_DIRECTION = Draw((3,), (), 0, "run", "direction of the control projection `divergence/random`", "store")
    TANGENTS = Draw((4,), (), 0, "run", "first tangent vectors", "store")
    BATCHES = Draw((5,), (), 1, "run", "order of the training samples, by epoch", "store")
    SHADOW_PERTURBATIONS = Draw((5,), (), 1, "run", "perturbation of a shadow of a tracked run, by shadow", "store")
    ESTIMATES = Draw((), (), 1, "experiment", "resamples and surrogates, by CRC-32 of the purpose", "estimates")


def generator(seed: int, stream: SeedStream, *index: int) -> np.random.Generator:
    """Return the generator of one stream of `seed`.

    Parameters
    ----------
    seed
        Seed of an experiment or of a run, as the table says.
    stream
        Which stream.
    index
        Number of the epoch, shadow, or whatever the stream counts.

    Raises
    ------
    ValueError
        The stream takes another number of indices.

    Examples
    --------
    >>> generator(7, SeedStream.BATCHES, 0).permutation(6).tolist()
    [1, 2, 4, 5, 3, 0]
    """
    return np.random.default_rng(_sequence(seed, stream, index))


def run_seed(experiment_seed: int, initial_condition: int) -> int:
    """Return the seed of the runs of one initial condition: 53 bits, which every JSON reader holds exactly.

    Examples
    --------
    >>> run_seed(7, 2)
    8925347085518043
    """
    state = _sequence(experiment_seed, SeedStream.RUN_SEED, (initial_condition,)).generate_state(1, np.uint64)
    return int(state[0] >> 11)


def _sequence(seed: int, stream: SeedStream, index: tuple[int, ...]) -> np.random.SeedSequence:
    source = stream.value
    if len(index) != source.n_indices:
        raise ValueError(f"{stream.name} takes {source.n_indices} indices; got {len(index)}")
    extra = (*source.key, *index)
    return np.random.SeedSequence([seed, *extra] if extra else seed, spawn_key=source.spawn_key)
