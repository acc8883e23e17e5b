"""Config of an experiment: one frozen section per part of the program.

The docstring under each field is the text of `streamscalar config show` and of the JSON schema.
"""

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

from streamscalar.types import AlertLevel, EmbeddingDistance

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _distinct(value: tuple[float, ...]) -> tuple[float, ...]:
    if not value or len({f"{number:g}" for number in value}) < len(value):
        raise ValueError("must be a number, or a list of numbers that differ in their first six digits")
    return value


Grid = Annotated[tuple[Positive, ...], BeforeValidator(_as_list), AfterValidator(_distinct)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def _known_or_own(*known: str) -> AfterValidator:
    """Return a validator that accepts one of `known`, or a `package.module:function`."""

    def check(value: str) -> str:
        if value not in known and not is_own(value):
            raise ValueError(f"must be one of {', '.join(known)}, or your own package.module:function")
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
    """Base of all sections: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ExperimentSection(Section):
    """Name, seed and number of repetitions."""

    name: Name = "experiment"
    """Name of the experiment: letters, digits, dot, dash and underscore. The default store is named after it."""
    group: Name | None = None
    """Group under which its runs are listed; default: the name."""
    tags: tuple[Name, ...] = ()
    """Words that filters find its runs by (`tag=WORD`)."""
    seed: int = Field(default=0, ge=0)
    """Seed of all random numbers. Initial condition i is the same at every learning rate."""
    n_initial_conditions: Count = 3
    """Independent initial weights per learning rate; confidence intervals need at least 3."""


class TaskSection(Section):
    """Data set and loss."""

    name: Annotated[str, _known_or_own("digits", "iris", "idx", "quadratic", "tracked")] = "digits"
    """`digits`: the 1,797 images of 8x8 pixels in scikit-learn. `iris`: the 150 flowers in scikit-learn, 120 of them
    for training. `idx`: a folder of IDX files, such as MNIST. `quadratic`: the loss 1/2 sum h_i w_i^2 with the given
    `curvatures`. `tracked`: your own training loop, recorded by `ss.track`. `package.module:function`: your own
    function, which returns a `streamscalar.Task`. It is called with `task.path` if that is set, else without
    arguments; the module may be in the current folder."""
    path: str | None = None
    """For `idx`: folder of the IDX files, plain or gzipped. For your own function: its argument."""
    n_train: Count | None = None
    """Number of training samples to use, from the first; default: all."""
    n_test: Count | None = None
    """Number of test samples to use, from the first; default: all."""
    accuracy_target: float = Field(default=0.75, gt=0, le=1)
    """Test accuracy, from 0 to 1, whose first step is estimated as `steps_to_accuracy`."""
    curvatures: tuple[float, ...] = ()
    """Curvatures h_i, one per parameter; only for `quadratic`."""

    @property
    def has_accuracy(self) -> bool:
        """Whether the task is a classification, which has an accuracy."""
        return self.name != "quadratic"

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # Workers and a later resume may start in another folder.
        return None if value is None else str(Path(value).expanduser().absolute())

    @model_validator(mode="after")
    def _fits_the_name(self) -> Self:
        if self.name == "idx" and self.path is None:
            raise ValueError("path: task.name idx needs task.path, the folder of the IDX files")
        if self.name != "idx" and not is_own(self.name) and self.path is not None:
            raise ValueError(f"path: only idx and your own function read a path; task.name is {self.name}")
        if (self.name == "quadratic") != bool(self.curvatures):
            raise ValueError(
                "curvatures: must be given if task.name is quadratic, one number per parameter, and only then"
            )
        if not all(math.isfinite(h) for h in self.curvatures):
            raise ValueError("curvatures: must all be finite")
        return self


class ModelSection(Section):
    """The network; a quadratic task has none and ignores this section."""

    name: Annotated[str, _known_or_own("mlp", "cnn")] = "mlp"
    """`mlp`: a multilayer perceptron with `widths`. `cnn`: for square images, two 3x3 convolutions with `channels`,
    each followed by 2x2 average pooling, then one linear layer. `package.module:function`: your own function or class,
    which returns a `torch.nn.Module` for inputs of shape (samples, ...). It is called with the keywords `n_inputs`,
    `n_outputs` and `input_shape`, as far as it declares them."""
    widths: tuple[Count, ...] = (64,)
    """Widths of the hidden layers of `mlp`."""
    channels: tuple[Count, Count] = (8, 16)
    """Channels of the two convolutions of `cnn`."""
    activation: Literal["tanh", "relu", "sigmoid", "gelu", "identity"] = "tanh"
    """Activation of the hidden layers of `mlp` and `cnn`."""
    init: Literal["normal", "torch"] = "normal"
    """Initial weights. `normal`: weights N(0, 1), biases 0 (arXiv 2606.30384); the default of `mlp`. `torch`: those of
    the module itself, for linear layers of `torch.nn` uniform in +-1/sqrt(fan-in); the default of all other models."""

    @model_validator(mode="before")
    @classmethod
    def _init_of_the_name(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("name", "mlp") != "mlp":
            return {"init": "torch", **values}
        return values


class TrainingSection(Section):
    """Optimiser; all replicas of a run see the same samples in the same order."""

    learning_rate: Grid = (1.0,)
    """Learning rate per step: one number, or a list for one setting each."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """`sgd`: gradient descent with `momentum`. `adam`: Adam with the constants of its paper."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Heavy-ball momentum of `sgd`, from 0 (plain gradient descent) to below 1."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight decay of all parameters, including biases. `sgd`: weight_decay * w is added to the gradient (L2). `adam`:
    decoupled, as in AdamW. The recorded loss does not include it."""
    batch_size: Annotated[Literal["full"] | int, BeforeValidator(_full_or_count)] = "full"
    """Samples per update: `full`, or a number. With a number, each epoch is a new permutation of the training samples,
    cut into batches; samples left over are not used in that epoch. The order depends on the seed of the run
    alone. The recorded loss is that of all training samples."""
    n_steps: Count = 200
    """Number of updates (optimiser steps) per run."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of weights and gradients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the trainers; `auto` uses CUDA if the trainer sees a device, else the CPU."""
    n_threads: Count = 1
    """CPU threads per trainer; the last bits of the results depend on it."""
    pack_size: Count = 1
    """Runs trained together as one batch, faster for small networks. The last bits of the results depend on it."""
    n_tangents: int = Field(default=0, ge=0, le=16)
    """Tangent vectors per replica, each for one exponent that needs no epsilon. Each costs about three more gradients
    per step."""

    @model_validator(mode="after")
    def _momentum_is_used(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: must be 0 unless training.optimizer is sgd; the optimizer is {self.optimizer}")
        return self


class PerturbationSection(Section):
    """Perturbed copies (replicas) that are trained next to the reference."""

    epsilon: Grid = (1e-8,)
    """Size of the perturbation: each perturbed weight starts at the reference's plus U(-epsilon, epsilon). One number,
    or a list (a ladder): every learning rate is run with every epsilon."""
    n_perturbed: int = Field(default=5, ge=0)
    """Perturbed replicas per run; 0 (with `control: false`) records one plain run without divergence."""
    weights_only: bool = True
    """Perturb weights only, not biases."""
    control: bool = True
    """Train one unperturbed copy too; its divergence is 0 or shows the numerical noise."""

    @model_validator(mode="after")
    def _someone_diverges(self) -> Self:
        if self.n_perturbed == 0 and self.control:
            raise ValueError(
                "n_perturbed: must be at least 1 for a divergence; got 0. Raise it, or set perturbation.control to "
                "false to record a plain run"
            )
        return self


class RecordingSection(Section):
    """What is recorded of a run."""

    every_n_steps: Count = 1
    """Record the state every so many updates; step 0 is always recorded."""
    retain: Annotated[str, StringConstraints(pattern=r"^(all|none|segments:[1-9][0-9]*)$")] = "all"
    """Weights kept after the exact embedding of a finished run: `all`, `none` or `segments:N` (the last N segments)."""
    max_bytes: Count | None = None
    """Limit on the raw bytes of weights on disk; an experiment that would need more does not start. Default: none."""


class StoreSection(Section):
    """Where and how rows are stored."""

    url: str | None = None
    """Folder of the store, or `s3://bucket/prefix` (also `gs://`, `az://`) with credentials from the environment.
    Default: `./streamscalar-runs/<experiment name>`. In a bucket, readers see rows segment by segment."""
    fsync: Literal["row", "segment", "none"] = "row"
    """When rows are forced to disk (to the disk of the spool, for a bucket). With `segment` or `none`, a power cut may
    lose rows of unfinished segments; a killed process loses none."""
    spool: str | None = None
    """For a store in a bucket: folder on the trainer's machine for rows of the unfinished segment. Default:
    `$XDG_CACHE_HOME/streamscalar/spool` (or `~/.cache/streamscalar/spool`). If it survives a restart, these rows are
    not computed again."""
    codec: Literal["zstd", "lz4"] = "zstd"
    """Compression of the weights: `zstd` is smaller, `lz4` is faster."""
    segment_rows: Count | None = None
    """Rows per segment, compressed and embedded together. Default: from 8 to 64, by the size of a row."""


class EmbeddingSection(Section):
    """Embedding of the weights of all replicas of a run in a few coordinates.

    The live embedding is always classical scaling of RMS distances; `method` and `distance` apply to the exact
    embedding, which replaces it at the end of a run.
    """

    method: Literal["cmds", "distance_pca", "smacof", "landmark"] = "cmds"
    """`cmds`: classical multidimensional scaling. `distance_pca`: principal components of the distances to landmarks.
    `smacof`: metric scaling, started from the classical one. `landmark`: classical scaling of landmarks; all other
    snapshots are placed by their distances to them. Only `cmds` with `rms` needs no distances; the others take minutes
    for large networks."""
    distance: EmbeddingDistance = "rms"
    """Distance between snapshots. `rms`: root mean square of the differences. `l1`: sum of absolute differences.
    `layer`: root mean square within each layer, then over layers, so that layers have equal weight."""
    n_components: int = Field(default=16, ge=2, le=128)
    """Coordinates kept; the first is the scalar embedding."""
    n_landmarks: int = Field(default=64, ge=3)
    """Number of landmarks of `distance_pca` and `landmark`, spread evenly over steps and replicas."""


RuleLevel = Literal["none", AlertLevel]


class AlertsSection(Section):
    """Alerts about a run that is watched: level and thresholds of each rule."""

    became_chaotic: RuleLevel = "warn"
    """Level of the alert: separations grow exponentially and saturate. `none` turns the rule off."""
    left_regular: RuleLevel = "info"
    """Level of the alert: training was regular and no longer is."""
    diverged: RuleLevel = "error"
    """Level of the alert: the loss stays above its initial value."""
    non_finite: RuleLevel = "error"
    """Level of the alert: a loss or a weight is NaN or infinite."""
    stalled: RuleLevel = "info"
    """Level of the alert: the loss no longer falls, before the planned end and below the target accuracy."""
    jumped: RuleLevel = "warn"
    """Level of the alert: the size of the weight changes jumped from one row to the next."""
    decorrelated: RuleLevel = "info"
    """Level of the alert: the loss no longer follows that of the other runs of its group."""
    ranks_drifted: RuleLevel = "error"
    """Level of the alert: the parameters or buffers of a rank of a distributed training are not those of the others."""
    silent: RuleLevel = "warn"
    """Level of the alert: no new rows for `silent_after_s`."""
    check_every_rows: Count = 25
    """Minimum number of rows between two checks of the estimates; in long runs, 1/20 of the rows so far."""
    least_rows: Count = 50
    """Number of rows of a run before the first check."""
    n_confirm: Count = 2
    """Consecutive checks that must agree on a regime, or on no progress, before the alert is raised."""
    cool_down_rows: int = Field(default=200, ge=0)
    """Minimum number of rows between two alerts of one rule about one run."""
    diverged_rows: Count = 40
    """Threshold of `diverged`: consecutive rows with a loss above that of row 0. Large learning rates reach about 20
    and recover."""
    stalled_below: float = Field(default=0.01, ge=0, le=1)
    """Threshold of `stalled`, as a share of the loss: the upper end of the interval of the fall over the last quarter
    of the run is below it."""
    jump_factor: float = Field(default=2.0, gt=1)
    """Threshold of `jumped`: minimum factor between the sizes of weight changes before and after."""
    jump_run_length: float = Field(default=1e5, gt=100)
    """Mean number of rows between two false alarms of `jumped` in pure noise; `jump_factor` makes them rarer still."""
    apart_factor: float = Field(default=1.5, ge=1)
    """Threshold of `decorrelated`: minimum factor between the loss of a run and the median of its group."""
    silent_after_s: Positive = 300.0
    """Threshold of `silent`: seconds without a new row in an unfinished run."""


class AnalysisSection(Section):
    """Options of the estimates."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Nominal coverage of all confidence intervals, between 0 and 1."""
    interval: Literal["student", "bootstrap_t"] = "student"
    """Confidence interval over initial conditions: Student's t, or the bootstrap-t."""
    n_bootstrap: Count = 2000
    """Number of resamples of `bootstrap_t`."""
    average: Literal["mean_log", "log_mean"] = "mean_log"
    """Average of a distance d over replicas: the mean of ln d, or the ln of the mean of d (arXiv 2404.05782)."""
    n_surrogates: int = Field(default=200, ge=19)
    """Surrogate series per test; a test at the 5 % level needs at least 19."""
    asymptotic_rows: int = Field(default=50, ge=10)
    """Rows at the end of a run whose mean is the asymptotic state of a replica."""
    regular_below: Positive = 0.01
    """Threshold per step: a setting is regular if the upper end of its finite-time exponent is below it."""
    alerts: AlertsSection = AlertsSection()
    """Alerts about a run that is watched."""


class ClusterSection(Section):
    """Where the work runs; the results do not depend on it."""

    executor: Literal["ray", "inline"] = "ray"
    """`ray`: workers are processes of a Ray cluster. `inline`: the same workers one after another in this process."""
    address: str | None = None
    """Address (host:port) of a running Ray cluster. Default: a local one is started, and ends with the command."""
    max_concurrent_runs: Count | None = None
    """Maximum number of runs (or packs of runs) in training at once; an autoscaler adds nodes for that many. Default:
    as many as fit on the nodes, and one more that waits for a node."""
    cpus_per_trainer: float = Field(default=1, ge=0)
    """CPUs reserved per trainer; trainers are spread over the nodes."""
    gpus_per_trainer: float = Field(default=0, ge=0)
    """GPUs reserved per trainer; with a fraction, several trainers share one."""
    n_embedders: Count | None = None
    """Embedders, spread over the nodes. Default: one per four trainers on the same node, so that weights do not cross
    the network."""


class Config(Section):
    """Config of a whole experiment."""

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
        """Recorded rows per run: step 0, then one per `recording.every_n_steps` updates."""
        return 1 + self.training.n_steps // self.recording.every_n_steps

    @property
    def n_replicas(self) -> int:
        """Replicas per run: reference, perturbed, control."""
        return 1 + self.perturbation.n_perturbed + int(self.perturbation.control)

    @property
    def store_path(self) -> str:
        """Folder or URL of the store."""
        return self.store.url or f"streamscalar-runs/{self.experiment.name}"

    def identity(self) -> dict[str, Any]:
        """Return the keys that determine the stored rows: all but the place of the store and the cluster."""
        return self.model_dump(mode="json", exclude={"cluster": True, "store": {"url", "fsync", "spool"}})

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any], store_url: str) -> Self:
        """Return the config of a stored experiment."""
        return cls.model_validate({**identity, "store": {**identity["store"], "url": store_url}})
