"""A few trainings of the table that the soak tests run as a whole, and its page."""

from pathlib import Path

import pytest

from tests.trainings import changes, loops, models
from tests.trainings.loops import Training
from tests.trainings.repeating import EXACT, REFUSED, shadowed, tangent
from tests.trainings.table import lines

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "repeated.md"


@pytest.mark.parametrize(
    "kind",
    [
        loops.ScheduledInside,
        loops.Counted,
        loops.HookCentralised,
        loops.AccumulatedOverCalls,
        models.Averaged,
        models.AveragedByHand,
        models.Adversarial,
        models.Closure,
        models.WithState,
        models.Embedded,
    ],
)
def test_a_step_with_a_state_beside_the_model_is_repeated_and_changes_nothing(kind: type[Training]) -> None:
    assert shadowed(kind, "SGD", from_step=True) == (EXACT, "")


@pytest.mark.parametrize("kind", [models.TwoOptimizersSometimes, models.WrongModelLate, loops.HookShrinks])
def test_a_function_that_changes_the_training_at_any_step_is_undone(kind: type[Training]) -> None:
    outcome, why = shadowed(kind, "Adam", from_step=True)
    assert outcome == REFUSED
    assert "changed the model of the training" in why


@pytest.mark.parametrize("kind", [changes.Frozen, models.StochasticDepth])
def test_a_tangent_vector_leaves_weights_without_a_gradient_as_the_optimizer_does(kind: type[Training]) -> None:
    assert tangent(kind, "AdamW") == (EXACT, "")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(models.SpectralNorm, "buffers"), (models.WeightNorm, "symmetric"), (models.WithState, "buffers")],
)
def test_a_tangent_vector_of_more_than_the_weights_is_refused(kind: type[Training], reason: str) -> None:
    outcome, why = tangent(kind, "SGD")
    assert outcome == REFUSED
    assert reason in why


def test_weights_changed_by_another_optimizer_are_refused_at_once() -> None:
    outcome, why = shadowed(changes.OtherOptimizer, "Adam", from_step=False)
    assert outcome == REFUSED
    assert "at step 16 weights had changed without an update of the optimizer" in why


def test_the_page_has_the_table() -> None:
    assert "\n".join(lines()) in PAGE.read_text("utf-8")
