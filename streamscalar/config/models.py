"""The configuration of an experiment: one frozen section per owner."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from streamscalar.types import AlertLevel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _distinct(value: tuple[float, ...]) -> tuple[float, ...]:
    if not value or len({f"{number:g}" for number in value}) < len(value):
        raise ValueError("must be a number or a list of numbers that differ in their first six digits")
    return value


Grid = Annotated[tuple[Positive, ...], BeforeValidator(_as_list), AfterValidator(_distinct)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def _known_or_own(*known: str) -> AfterValidator:
    """Take one of `known`, or the `package.module:function` of a user."""

    def check(value: str) -> str:
        if value not in known and not is_own(value):
            raise ValueError(f"must be {', '.join(known)}, or package.module:function of your own")
        return value

    return AfterValidator(check)


def is_own(name: str) -> bool:
    """Return whether `name` has the form `package.module:function`."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _full_or_count(value: object) -> object:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value != "full" and not is_count:
        raise ValueError("must be full, or a number of samples from 1")
    return value


class Section(BaseModel):
    """Base of all sections: frozen, and every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ExperimentSection(Section):
    """What the experiment is called and how often it is repeated."""

    name: Name = "experiment"
    """Letters, digits, dot, dash and underscore; names the default store."""
    group: Name | None = None
    """What its runs are listed under beside others; by default its name."""
    tags: tuple[Name, ...] = ()
    """Words to find its runs by."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random. Initial condition i is the same at every learning rate."""
    n_initial_conditions: Count = 3
    """Independent initial weights per learning rate; intervals need at least 3."""


class TaskSection(Section):
    """What is learned."""

    name: Annotated[str, _known_or_own("digits", "iris", "idx", "quadratic", "tracked")] = "digits"
    """`digits`: the 1,797 real 8x8 digits that scikit-learn ships. `iris`: its 150 flowers, 120 for training. `idx`:
    a folder of IDX files (MNIST and its kin). `quadratic`: the loss 1/2 sum h_i w_i^2 with the given curvatures.
    `tracked`: a user's own training, recorded by `ss.track`. `package.module:function`: your own function, which
    returns a `streamscalar.Task`; it is called without an argument, or with `task.path` where that is
    set, and may lie in the folder of the command."""
    path: str | None = None
    """Folder of the IDX files, plain or gzipped, for `idx`; or what a function of your own reads."""
    n_train: Count | None = None
    """Use the first `n_train` training samples; all by default."""
    n_test: Count | None = None
    """Use the first `n_test` test samples; all by default."""
    accuracy_target: float = Field(default=0.75, gt=0, le=1)
    """Test accuracy that `steps_to_accuracy` waits for."""
    curvatures: tuple[float, ...] = ()
    """Curvatures h_i, one per parameter; only for `quadratic`."""

    @property
    def has_accuracy(self) -> bool:
        """Whether its loss is that of a classification, with an accuracy."""
        return self.name != "quadratic"

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # Workers and a later resume may start in another folder.
        return None if value is None else str(Path(value).expanduser().absolute())

    @model_validator(mode="after")
    def _fits_the_name(self) -> Self:
        if self.name == "idx" and self.path is None:
            raise ValueError("path: task.name idx needs task.path, the folder that holds the IDX files")
        if self.name != "idx" and not is_own(self.name) and self.path is not None:
            raise ValueError(f"path: only idx and functions of your own read a path; task.name is {self.name}")
        if (self.name == "quadratic") != bool(self.curvatures):
            raise ValueError("curvatures: give them exactly when task.name is quadratic, one number per parameter")
        if not all(math.isfinite(h) for h in self.curvatures):
            raise ValueError("curvatures: every curvature must be finite")
        return self


class ModelSection(Section):
    """The network. A quadratic task has none and ignores this section."""

    name: Annotated[str, _known_or_own("mlp", "cnn")] = "mlp"
    """`mlp`: a perceptron with `widths`. `cnn`: for square images, two 3x3 convolutions with `channels`, each followed
    by a 2x2 average, then one linear layer. `package.module:function`: your own function (or class), which returns a
    `torch.nn.Module` for inputs of shape (samples, ...); it is called with those of the keywords `n_inputs`,
    `n_outputs` and `input_shape` that it declares."""
    widths: tuple[Count, ...] = (64,)
    """Widths of the hidden layers of `mlp`."""
    channels: tuple[Count, Count] = (8, 16)
    """Channels of the two convolutions of `cnn`."""
    activation: Literal["tanh", "relu", "sigmoid", "gelu", "identity"] = "tanh"
    """Activation of the hidden layers of `mlp` and `cnn`."""
    init: Literal["normal", "torch"] = "normal"
    """`normal`: weights N(0, 1), biases 0 (arXiv 2606.30384); the default of `mlp`. `torch`: the initialisation of the
    module itself, for layers of `torch.nn` uniform in +-1/sqrt(fan-in); the default of every other model."""

    @model_validator(mode="before")
    @classmethod
    def _init_of_the_name(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("name", "mlp") != "mlp":
            return {"init": "torch", **values}
        return values


class TrainingSection(Section):
    """How the network learns: all replicas of a run in lockstep, on the same samples in the same order."""

    learning_rate: Grid = (1.0,)
    """One number, or a list, which is a grid."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """`sgd`: gradient descent, with `momentum`. `adam`: with the constants of its authors."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Heavy-ball momentum of `sgd`; 0 is plain gradient descent."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Decay of all parameters, biases included. `sgd`: weight_decay * w is added to the gradient (L2). `adam`:
    decoupled, as in AdamW. The recorded loss is without it."""
    batch_size: Annotated[Literal["full"] | int, BeforeValidator(_full_or_count)] = "full"
    """Samples of one update. A number: each epoch is a new permutation of the training samples, cut into batches, whose
    remainder waits for the next epoch; it depends on the run's seed alone. The recorded loss is that of all samples."""
    n_steps: Count = 200
    """Number of updates."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of weights and gradients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where a device is visible to the trainer."""
    n_threads: Count = 1
    """CPU threads of one trainer; pinned, because bits depend on it."""
    pack_size: Count = 1
    """Small runs trained together in one batched computation; the last bits of a run depend on it."""
    n_tangents: int = Field(default=0, ge=0, le=16)
    """Tangent vectors carried along every replica, for as many exponents without an epsilon; each costs about three
    more gradients per step."""

    @model_validator(mode="after")
    def _momentum_is_used(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: only training.optimizer sgd has one; the optimizer is {self.optimizer}")
        return self


class PerturbationSection(Section):
    """Who stands beside the reference replica."""

    epsilon: Grid = (1e-8,)
    """Each perturbed weight starts U(-epsilon, epsilon) away from the reference's. One number, or a list, which is a
    ladder: every learning rate is run at every rung."""
    n_perturbed: int = Field(default=5, ge=0)
    """Perturbed replicas per run; 0 (with `control: false`) monitors a plain training without divergence."""
    weights_only: bool = True
    """Leave the biases alone."""
    control: bool = True
    """Carry one unperturbed copy: its divergence is 0, or else the noise floor."""

    @model_validator(mode="after")
    def _someone_diverges(self) -> Self:
        if self.n_perturbed == 0 and self.control:
            raise ValueError(
                "n_perturbed: a divergence needs at least 1 perturbed replica, got 0; raise it, or set "
                "perturbation.control to false to monitor a plain training"
            )
        return self


class RecordingSection(Section):
    """What is written of a run."""

    every_n_steps: Count = 1
    """Record each so many updates; step 0 always."""
    retain: Annotated[str, StringConstraints(pattern=r"^(all|none|segments:[1-9][0-9]*)$")] = "all"
    """What stays of the weights after the exact solution at the end of a run: `all`, `none` or `segments:n`."""
    max_bytes: Count | None = None
    """Refuse to start where the raw rows that stay, or those in flight, would need more bytes."""


class StoreSection(Section):
    """How rows reach the disk."""

    url: str | None = None
    """Folder of the store, or `s3://bucket/prefix` (also `gs://`, `az://`), whose credentials come from the environment
    alone; by default `./streamscalar-runs/<experiment name>`. In a bucket others see rows by the segment."""
    fsync: Literal["row", "segment", "none"] = "row"
    """When an acknowledged row is forced to the disk (of the spool, with a URL). Below `row`, a power cut may take
    unsealed rows; a killed process never does."""
    spool: str | None = None
    """Folder on the trainer's machine for rows of a store in a bucket whose segment is not yet committed; by default
    `$XDG_CACHE_HOME` (or `~/.cache`) and `/streamscalar/spool`. Kept over restarts, it saves computing them again."""
    codec: Literal["zstd", "lz4"] = "zstd"
    """Compressor of the integer deltas: `zstd` is smaller, `lz4` faster."""
    segment_rows: Count | None = None
    """Rows sealed into one shard and embedded as one block; chosen from the size of a row by default."""


class EmbeddingSection(Section):
    """From snapshots to coordinates, joint over all replicas of a run.

    The live embedding is classical scaling of RMS distances; method and distance decide the exact one that replaces it
    at the end of a run.
    """

    method: Literal["cmds", "distance_pca", "smacof", "landmark"] = "cmds"
    """`cmds`: classical multidimensional scaling. `distance_pca`: principal components of the distances to landmarks.
    `smacof`: metric scaling, started from the classical one. `landmark`: classical scaling of landmarks, the rest
    placed by its distances to them. All but `cmds` on `rms` measure distances: minutes where weights are many."""
    distance: Literal["rms", "l1", "layer"] = "rms"
    """`rms`: Euclidean over the root of the number of parameters. `l1`: sum of absolute differences. `layer`: RMS
    within each layer, then over layers, so that each counts alike."""
    n_components: int = Field(default=16, ge=2, le=128)
    """Components kept; the first is the scalar embedding."""
    n_landmarks: int = Field(default=64, ge=3)
    """Landmarks of `distance_pca` and `landmark`, drawn evenly over time and replicas."""


RuleLevel = Literal["none", AlertLevel]


class AlertsSection(Section):
    """Which alerts there are, how grave each is, and from where on it speaks."""

    became_chaotic: RuleLevel = "warn"
    """Level of *separations grow exponentially and saturate*; `none` turns a rule off."""
    left_regular: RuleLevel = "info"
    """Level of *training was regular and no longer is*."""
    diverged: RuleLevel = "error"
    """Level of *the loss stays above its start*."""
    non_finite: RuleLevel = "error"
    """Level of *a loss or a weight is NaN or infinite*."""
    stalled: RuleLevel = "info"
    """Level of *no progress before the planned end, and not at the target*."""
    jumped: RuleLevel = "warn"
    """Level of *the moves changed size at once*."""
    decorrelated: RuleLevel = "info"
    """Level of *the loss stopped following that of the other runs of the group*."""
    silent: RuleLevel = "warn"
    """Level of *no rows for a while*."""
    check_every_rows: Count = 25
    """Rows between two checkpoints, at least; beyond twenty times as many they are a twentieth of the run apart."""
    least_rows: Count = 50
    """Rows before which no estimate is asked for."""
    n_confirm: Count = 2
    """Checkpoints in a row that have to agree on a regime, or on no progress."""
    cool_down_rows: int = Field(default=200, ge=0)
    """Rows for which a rule keeps quiet about a run after an alert."""
    diverged_rows: Count = 40
    """Rows in a row with a loss above that of row 0. Large learning rates pass through some twenty and come back."""
    stalled_below: float = Field(default=0.01, ge=0, le=1)
    """Share of the loss. A run stalls where even the upper end of what its loss fell by, over its newest quarter, is
    less."""
    jump_factor: float = Field(default=2.0, gt=1)
    """Least factor between moves before and after a jump."""
    jump_run_length: float = Field(default=1e5, gt=100)
    """Rows between two false alarms of `jumped` in noise without a jump, before `jump_factor` makes them rarer."""
    apart_factor: float = Field(default=1.5, ge=1)
    """Least factor between the loss of a run and the median of its group for `decorrelated`."""
    silent_after_s: Positive = 300.0
    """Seconds without a new row after which an unfinished run is silent."""


class AnalysisSection(Section):
    """How estimates are made."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Stated coverage of all intervals."""
    interval: Literal["student", "bootstrap_t"] = "student"
    """Interval over initial conditions."""
    n_bootstrap: Count = 2000
    """Resamples of `bootstrap_t`."""
    average: Literal["mean_log", "log_mean"] = "mean_log"
    """Average over replicas: mean of ln d, or ln of the mean (arXiv 2404.05782)."""
    n_surrogates: int = Field(default=200, ge=19)
    """Surrogates of each test; 19 is the least for a level of 5 %."""
    asymptotic_rows: int = Field(default=50, ge=10)
    """Rows at the end of a run over which the asymptotic state of each replica is averaged."""
    regular_below: Positive = 0.01
    """A setting is regular where the upper end of its finite-time exponent, per step, lies below."""
    alerts: AlertsSection = AlertsSection()
    """What is told of a run while it is watched."""


class ClusterSection(Section):
    """Where the work runs; changes nothing of the result."""

    executor: Literal["ray", "inline"] = "ray"
    """`inline` runs the same workers one after another in this process."""
    address: str | None = None
    """Address (host:port) of an existing Ray cluster; by default a local one is started and ends with the command."""
    max_concurrent_runs: Count | None = None
    """Runs (or packs of runs) in training at once, and what is asked of an autoscaler; by default as many as the nodes
    hold, and one more that waits for a node to join."""
    cpus_per_trainer: float = Field(default=1, ge=0)
    """CPUs that Ray reserves per trainer; trainers are spread over the nodes."""
    gpus_per_trainer: float = Field(default=0, ge=0)
    """GPUs that Ray reserves per trainer; a fraction lets trainers share one."""
    n_embedders: Count | None = None
    """Embedding actors, spread over the nodes; by default one for every four trainers, on their node, so that weights
    do not cross the network."""


class Config(Section):
    """A whole experiment."""

    experiment: ExperimentSection = ExperimentSection()
    task: TaskSection = TaskSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    perturbation: PerturbationSection = PerturbationSection()
    recording: RecordingSection = RecordingSection()
    store: StoreSection = StoreSection()
    embedding: EmbeddingSection = EmbeddingSection()
    analysis: AnalysisSection = AnalysisSection()
    cluster: ClusterSection = ClusterSection()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.recording.every_n_steps > self.training.n_steps:
            raise ValueError(f"recording.every_n_steps: must be at most training.n_steps ({self.training.n_steps})")
        return self

    @property
    def n_rows(self) -> int:
        """Recorded rows per run: step 0, then every `recording.every_n_steps` updates."""
        return 1 + self.training.n_steps // self.recording.every_n_steps

    @property
    def n_replicas(self) -> int:
        """Replicas per run."""
        return 1 + self.perturbation.n_perturbed + int(self.perturbation.control)

    @property
    def store_path(self) -> str:
        """Folder of the store."""
        return self.store.url or f"streamscalar-runs/{self.experiment.name}"

    def identity(self) -> dict[str, Any]:
        """Return what defines the stored rows: all but where the store lies and where the work runs."""
        return self.model_dump(mode="json", exclude={"cluster": True, "store": {"url", "fsync", "spool"}})

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any], store_url: str) -> Self:
        """Return the config of a stored experiment."""
        return cls.model_validate({**identity, "store": {**identity["store"], "url": store_url}})
