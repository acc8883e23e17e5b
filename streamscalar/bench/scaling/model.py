"""Model of the load of every part of a cluster, from measured unit costs: it shows which part is full first.

The trainers set the pace: every core that is left to them produces rows without waiting. Every other part has a demand,
which follows from these rows, and a capacity. Where the utilisation is above 1, trainers wait for that part.

Assumptions: no queue forms below a utilisation of 1; all runs are alike; runs start and end evenly over time; a block
crosses the network once; a trainer and an embedder use one core each.
"""

import math
from dataclasses import dataclass

POLLS_PER_S = 4.0
"""Polls of a driver per second: a snapshot, and a check for new requests."""
TRAINING_EVENTS = 2.0
"""Events of a run without failures: training finished, exact embedding stored."""
TRAINERS_PER_EMBEDDER = 4
"""Cores of a node per embedder, unless the number of embedders is set."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A cost in core seconds: `fixed_s`, plus `value_s` for every value (replica x parameter) of a row.

    Below `least`, the smallest measured number of values, the cost is taken as constant.
    """

    fixed_s: float
    value_s: float
    least: float = 0.0

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> "Linear":
        """Return the line through two measured pairs (values, seconds).

        >>> Linear.through((100, 3.0), (300, 7.0)).at(200)
        5.0
        """
        value_s = (large[1] - small[1]) / (large[0] - small[0])
        return cls(small[1] - value_s * small[0], value_s, small[0])

    def at(self, n_values: float, share: float = 1.0) -> float:
        """Return the core seconds of a row of `n_values` values; the fixed part is shared by `share` rows."""
        return self.fixed_s / share + self.value_s * max(n_values, self.least)


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured unit costs on one core.

    Attributes
    ----------
    step
        An optimiser step of all replicas, with metrics and the transfer of weights from the device.
    store, embed
        Storing a row (durable and sealed), and embedding a row; `fixed_s` is per segment.
    exact
        Share of a row in the exact embedding; `fixed_s` is per run.
    report_s, handle_s, snapshot_s, obey_s
        Calls of the coordinator; `handle_s` excludes the wait for the storage.
    call_s, byte_s
        Cost of receiving for an actor: per call, and per byte of a block.
    coordinator_run_bytes, embedder_parameter_bytes
        Memory per run in the coordinator, and per parameter of a run in progress in its embedder.
    stored_share
        Bytes on disk per uncompressed byte of weights.
    weights_files, embedding_files
        Files created or replaced when a segment is sealed, and when a block is embedded.
    run_files
        Files written when a run is created and when its exact embedding is stored.
    """

    step: Linear
    store: Linear
    embed: Linear
    exact: Linear
    report_s: float
    handle_s: float
    snapshot_s: float
    obey_s: float
    call_s: float
    byte_s: float
    coordinator_run_bytes: float
    embedder_parameter_bytes: float
    stored_share: float
    weights_files: float
    embedding_files: float
    run_files: float


@dataclass(frozen=True, slots=True)
class Workload:
    """A cluster and its work: `n_runs` runs in `n_experiments` experiments, each with its own coordinator.

    If `n_embedders` is `None`, there is one embedder per four trainers on each node, and blocks stay on their node.
    With `is_in_bucket`, the store is in object storage and the write-ahead log on the disks of the trainers.
    """

    n_nodes: int = 100
    cores_per_node: int = 32
    n_runs: int = 10_000
    n_rows: int = 1001
    n_parameters: int = 50_890
    n_replicas: int = 7
    itemsize: int = 8
    every_n_steps: int = 1
    segment_rows: int = 16
    n_embedders: int | None = None
    n_experiments: int = 1
    is_fsync_per_row: bool = True
    is_in_bucket: bool = False

    @property
    def n_values(self) -> int:
        """Values per row (replica x parameter)."""
        return self.n_replicas * self.n_parameters

    @property
    def row_bytes(self) -> int:
        """Uncompressed bytes of a row."""
        return self.n_values * self.itemsize

    @property
    def rows_per_segment(self) -> int:
        """Rows per segment; a run with fewer rows has one segment."""
        return min(self.segment_rows, self.n_rows)

    @property
    def embedders(self) -> int:
        """Number of embedders in the cluster."""
        on_each = math.ceil(self.cores_per_node / TRAINERS_PER_EMBEDDER)
        return self.n_nodes * on_each if self.n_embedders is None else self.n_embedders

    @property
    def n_trainers(self) -> int:
        """Trainers at the same time: one per core that embedders and coordinators leave."""
        cores = self.n_nodes * self.cores_per_node - self.embedders - self.n_experiments
        return max(1, min(cores, self.n_runs))

    @property
    def n_embedder_nodes(self) -> int:
        """Number of nodes with embedders."""
        return min(self.embedders, self.n_nodes)


@dataclass(frozen=True, slots=True)
class Storage:
    """Capacity of a storage: bytes and write requests per second, and seconds per small durable write."""

    name: str
    bytes_per_s: float
    ops_per_s: float
    wait_s: float


FILES = Storage("shared storage", 2**30, 50_000, 0.005)
"""The default quotas of Amazon EFS with elastic throughput (docs.aws.amazon.com/efs/latest/ug/limits.html); `wait_s`
is an assumption."""
BUCKET = Storage("bucket", 12.5e9, 3500, 0.03)
"""Request rate of Amazon S3 under one prefix before S3 splits it (docs.aws.amazon.com/AmazonS3/latest/userguide/
optimizing-performance.html), through 100 Gbit/s; `bytes_per_s` and `wait_s` are assumptions."""


@dataclass(frozen=True, slots=True)
class Capacities:
    """Capacities of a cluster that cannot be measured on one machine; replace the defaults by your own values.

    Attributes
    ----------
    network_bytes_per_s
        Network of one node, each way; 10 Gbit/s.
    files, bucket
        Storage that all nodes share: a file system, or a bucket.
    ops_per_file
        Requests per small durable file on a network file system: create, write, commit, rename.
    writes_per_segment
        Requests per segment and its embedding in a bucket: 21 objects written and one deleted, as counted by the
        object store of the tests.
    actors_per_s
        Actors that Ray starts per second: 389 with 10,000 actors (Ray's release test `many_actors`, version 1.12).
    start_s
        Acceptable seconds for the start of all actors.
    node_bytes
        Memory of a node in bytes.
    """

    network_bytes_per_s: float = 1.25e9
    files: Storage = FILES
    bucket: Storage = BUCKET
    ops_per_file: float = 4.0
    writes_per_segment: float = 22.0
    actors_per_s: float = 389.0
    start_s: float = 60.0
    node_bytes: float = 128e9

    def storage(self, workload: Workload) -> Storage:
        """Return the storage of the workload."""
        return self.bucket if workload.is_in_bucket else self.files


@dataclass(frozen=True, slots=True)
class Load:
    """Demand and capacity of one part of the cluster, both in `unit`."""

    part: str
    demand: float
    capacity: float
    unit: str

    @property
    def utilisation(self) -> float:
        """Demand over capacity."""
        return self.demand / self.capacity


def rows_per_s(workload: Workload, costs: Costs) -> float:
    """Return the recorded rows per second of all trainers if they never wait."""
    row_s = workload.every_n_steps * costs.step.at(workload.n_values) + costs.store.at(
        workload.n_values, workload.rows_per_segment
    )
    return workload.n_trainers / row_s


def loads(workload: Workload, costs: Costs, capacities: Capacities) -> list[Load]:
    """Return the load of every part, highest utilisation first."""
    found = [*_processes(workload, costs, capacities), *_shared(workload, costs, capacities)]
    return sorted(found, key=lambda load: -load.utilisation)


def _processes(workload: Workload, costs: Costs, capacities: Capacities) -> list[Load]:
    rows = rows_per_s(workload, costs)
    blocks, runs = rows / workload.rows_per_segment, rows / workload.n_rows
    exact_s = costs.exact.at(workload.n_values, workload.n_rows)
    receive_s = costs.byte_s * workload.row_bytes + costs.call_s / workload.rows_per_segment
    embed_s = costs.embed.at(workload.n_values, workload.rows_per_segment) + exact_s + receive_s
    event_s = costs.handle_s + capacities.storage(workload).wait_s + costs.call_s
    poll_s = costs.snapshot_s + costs.obey_s + costs.call_s
    shared = blocks * (costs.report_s + costs.call_s) + runs * TRAINING_EVENTS * event_s
    # Embedders hold up to twice as many runs as are in training, as some wait for their exact embedding.
    open_bytes = 2 * workload.n_trainers * workload.n_parameters * costs.embedder_parameter_bytes
    n_experiments = workload.n_experiments
    return [
        Load("embedders", rows * embed_s, float(workload.embedders), "cores"),
        Load("coordinator", shared / n_experiments + POLLS_PER_S * poll_s, 1.0, "cores"),
        Load("memory of a node with embedders", open_bytes / workload.n_embedder_nodes, capacities.node_bytes, "B"),
        Load(
            "memory of the coordinator",
            workload.n_runs / n_experiments * costs.coordinator_run_bytes,
            capacities.node_bytes,
            "B",
        ),
    ]


def _shared(workload: Workload, costs: Costs, capacities: Capacities) -> list[Load]:
    rows = rows_per_s(workload, costs)
    raw = rows * workload.row_bytes
    pushed = 0.0 if workload.n_embedders is None else raw
    logged = 0.0 if workload.is_in_bucket else raw
    sealed = raw * costs.stored_share
    segments = rows / workload.rows_per_segment
    # The status of a run is written once per event.
    run_files = rows / workload.n_rows * (costs.run_files + TRAINING_EVENTS)
    if workload.is_in_bucket:
        requests = segments * capacities.writes_per_segment + run_files
    else:
        appends = rows * (2 if workload.is_fsync_per_row else 1)
        files = segments * (costs.weights_files + costs.embedding_files) + run_files
        requests = appends + files * capacities.ops_per_file
    storage = capacities.storage(workload)
    # Each experiment has its own prefix.
    n_prefixes = workload.n_experiments if workload.is_in_bucket else 1
    network = capacities.network_bytes_per_s
    n_actors = workload.n_trainers + workload.embedders + workload.n_experiments
    return [
        Load("network into a node with embedders", pushed / workload.n_embedder_nodes, network, "B/s"),
        Load("network out of a node", (pushed + logged + sealed) / workload.n_nodes, network, "B/s"),
        Load(f"{storage.name}, bytes", logged + sealed, storage.bytes_per_s, "B/s"),
        Load(f"{storage.name}, requests", requests, storage.ops_per_s * n_prefixes, "1/s"),
        Load("start of the actors", n_actors / capacities.actors_per_s, capacities.start_s, "s"),
    ]
