"""The table of trainings: what each does, and whether copies repeat it. `python -m tests.trainings.table` prints it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.trainings import changes, loops, models
from tests.trainings.loops import OPTIMIZERS, Training
from tests.trainings.repeating import EXACT, shadowed, tangent

GIVEN_UP = "was not repeated"
OTHER_MODEL = "changed the model of the training"
SEVERAL = "optimizer made 2 updates"
ONE_BATCH = "follows updates from one batch"
OUTSIDE = "without an update of the optimizer"
SKIPPED = "updates were skipped"
STATE = "buffers or attributes that the forward pass changes"
ASYMMETRIC = "not symmetric"
HOOKS = "must have no hooks"
KIND = "must be torch.optim.SGD, Adam or AdamW"


@dataclass(frozen=True)
class Case:
    """A training, and what is expected: `EXACT`, or a part of the reason that is given.

    Attributes
    ----------
    kind
        The training.
    title
        What it does, in words.
    step, loss, tangent
        Expected of a shadow with `train_step`, of one with `loss_fn`, and of a tangent vector.
    optimizers
        Names of the optimizers that it is tried with.
    """

    kind: type[Training]
    title: str
    step: str = EXACT
    loss: str = EXACT
    tangent: str = EXACT
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)


CASES = (
    Case(loops.Training, "plain loop"),
    Case(loops.Clipped, "clips gradients by norm", EXACT, GIVEN_UP, GIVEN_UP),
    Case(loops.ClippedByValue, "clips gradients by value", EXACT, GIVEN_UP, GIVEN_UP),
    Case(loops.ClippedOnce, "clips gradients at one late step", EXACT, *2 * ("the update of step 17",)),
    Case(loops.Centralised, "centralises gradients", EXACT, GIVEN_UP, GIVEN_UP),
    Case(loops.GradientNoise, "adds noise to gradients", EXACT, GIVEN_UP, GIVEN_UP),
    Case(loops.HookCentralised, "centralises gradients in a hook of the optimizer", EXACT, EXACT, HOOKS),
    Case(loops.HookOnModel, "clips its own model in a hook of the optimizer", OTHER_MODEL, OTHER_MODEL, HOOKS),
    Case(loops.HookShrinks, "shrinks its own model in a hook of the optimizer", OTHER_MODEL, OTHER_MODEL, HOOKS),
    Case(loops.ParameterHook, "clips gradients in hooks of parameters", GIVEN_UP, GIVEN_UP, GIVEN_UP),
    Case(loops.ModuleHook, "changes an output in a hook of a layer"),
    Case(loops.UpdateInBackward, "updates parameters in the backward pass", GIVEN_UP, GIVEN_UP, GIVEN_UP),
    Case(loops.Accumulated, "adds up gradients of parts of a batch", EXACT, GIVEN_UP, GIVEN_UP),
    Case(loops.AccumulatedOverCalls, "updates at every fourth call of `step`", EXACT, EXACT, ONE_BATCH),
    Case(loops.WarmUp, "linear warm-up and cosine, between steps"),
    Case(loops.ScheduledInside, "linear warm-up and cosine, in the step"),
    Case(loops.OnPlateau, "lowers the learning rate on a plateau"),
    Case(loops.Counted, "counts its steps in attributes, lists and dicts"),
    Case(loops.Skipping, "skips updates after the gradient is known", EXACT, EXACT, SKIPPED),
    Case(loops.Scaled, "bfloat16 autocast with `GradScaler` and infinite gradients", EXACT, EXACT, SKIPPED),
    Case(loops.Autocast, "bfloat16 autocast"),
    Case(loops.GradientPenalty, "gradient penalty in the loss (double backward)"),
    Case(loops.Penalised, "penalty that `loss_fn` does not have", EXACT, GIVEN_UP, GIVEN_UP),
    Case(loops.InputNoise, "noise for the inputs, of three generators", EXACT, GIVEN_UP, GIVEN_UP),
    Case(loops.LabelNoise, "random labels in the loss, of its own generator"),
    Case(loops.Dropout, "dropout"),
    Case(loops.BatchNorm, "batch norm"),
    Case(loops.Evaluated, "evaluation and random numbers between steps"),
    Case(changes.Frozen, "freezes a layer, and trains it again"),
    Case(changes.Reloaded, "loads a checkpoint", *3 * ("the update of step 16",)),
    Case(
        changes.OptimizerReset, "loads a state of the optimizer alone", *3 * ("the update of step 16",),
        optimizers=("momentum", "Adam", "AdamW", "RMSprop"),
    ),
    Case(models.Checkpointed, "activation checkpointing with dropout"),
    Case(models.StochasticDepth, "stochastic depth"),
    Case(models.WithState, "model with a counter, a tensor and a list of its own", EXACT, EXACT, STATE),
    Case(models.OwnGenerator, "model with a generator of its own", EXACT, EXACT, STATE),
    Case(models.SpectralNorm, "spectral norm", EXACT, EXACT, STATE),
    Case(models.WeightNorm, "weight norm", EXACT, EXACT, ASYMMETRIC),
    Case(models.Convolutional, "convolutional network"),
    Case(models.Attention, "transformer layer with dropout"),
    Case(models.Recurrent, "LSTM"),
    Case(models.Tied, "tied weights"),
    Case(models.Embedded, "sparse gradients of an embedding", EXACT, EXACT, "derivative", ("SGD",)),
    Case(models.Compiled, "`torch.compile`", EXACT, EXACT, "compiled"),
    Case(models.SharpnessAware, "two passes for an update (SAM)", EXACT, GIVEN_UP, GIVEN_UP),
    Case(models.Twice, "two updates with each batch", EXACT, SEVERAL, SEVERAL),
    Case(models.Closure, "LBFGS", EXACT, "closure", KIND, ("LBFGS",)),
    Case(models.ProjectedWeights, "bounds weights after the update", EXACT, GIVEN_UP, GIVEN_UP),
    Case(models.Averaged, "average of the weights, in the step"),
    Case(models.AveragedBetween, "average of the weights, between steps"),
    Case(models.AveragedByHand, "trains towards the average of its weights", EXACT, GIVEN_UP, GIVEN_UP),
    Case(models.Distilled, "follows a teacher with batch norm"),
    Case(models.Adversarial, "second model with its own optimizer, in the step", EXACT, GIVEN_UP, GIVEN_UP),
    Case(models.TwoOptimizers, "second optimizer of the same model", OTHER_MODEL, GIVEN_UP, GIVEN_UP),
    Case(
        models.TwoOptimizersSometimes, "second optimizer of the same model, at some steps",
        OTHER_MODEL, "the update of step 7", "the update of step 7",
    ),
    Case(
        models.WrongModelLate, "`train_step` that changes its own model, late",
        OTHER_MODEL, "the update of step 12", "the update of step 12",
    ),
    Case(models.LossOfPartial, "weighted loss as a partial function"),
    Case(
        changes.Rescaled, "changes weights between steps, once", *3 * ("the update of step 16",)
    ),
    Case(changes.Replaced, "replaces its tensors by equal ones"),
    Case(
        changes.OtherOptimizer, "goes on with another optimizer", "the update of step 16", OUTSIDE, OUTSIDE,
        optimizers=("momentum", "Adam", "AdamW", "RMSprop"),
    ),
    Case(changes.GroupAdded, "adds a group to the optimizer", *3 * ("other groups of parameters",)),
)  # fmt: skip


def checked(case: Case) -> Iterator[tuple[str, str, str]]:
    """Try a case; yield optimizer, procedure, and what is not as expected, empty where all is."""
    for name in case.optimizers:
        for procedure, expected in (("train_step", case.step), ("loss_fn", case.loss), ("tangent", case.tangent)):
            if procedure == "tangent":
                outcome, why = tangent(case.kind, name)
                # A tangent vector follows no other optimizer, and says so at the call.
                expected = KIND if name == "RMSprop" else expected
            else:
                outcome, why = shadowed(case.kind, name, from_step=procedure == "train_step")
            is_right = outcome == EXACT if expected == EXACT else outcome == "refused" and expected in why
            yield name, procedure, "" if is_right else f"{outcome}, not {expected!r}: {why}"


def lines() -> list[str]:
    """Return the table of the documentation, in Markdown."""
    words = {True: "exact", False: "refused"}
    rows = [
        f"| {case.title} | " + " | ".join(words[cell == EXACT] for cell in (case.step, case.loss, case.tangent)) + " |"
        for case in CASES
    ]
    head = ["| training | shadow, `train_step` | shadow, `loss_fn` | `tangent` |", "| --- | --- | --- | --- |"]
    return head + rows


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
