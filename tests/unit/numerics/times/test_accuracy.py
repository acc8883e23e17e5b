"""The first step with an accuracy."""

import numpy as np

from streamscalar.numerics.times.accuracy import steps_to_accuracy
from streamscalar.types import Status


def test_first_step_with_the_accuracy() -> None:
    steps = np.array([0, 5, 10, 15])
    assert steps_to_accuracy(steps, np.array([0.1, np.nan, 0.75, 0.7]), 0.75).value == 10.0
    assert steps_to_accuracy(steps, np.array([0.1, np.nan, 0.74, 0.7]), 0.75).status is Status.NOT_REACHED
    assert "0.74" in steps_to_accuracy(steps, np.array([0.1, np.nan, 0.74, 0.7]), 0.75).message
    assert steps_to_accuracy(steps, np.full(4, np.nan), 0.75).status is Status.NOT_REACHED
    assert steps_to_accuracy(steps[:0], np.zeros(0), 0.75).status is Status.TOO_FEW_ROWS
