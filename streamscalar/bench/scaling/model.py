"""How busy every part of a cluster would be, from measured unit costs, and so which part is full first.

The trainers set the pace: every core that is left to them makes rows without a pause. Each other part has a demand
that follows from their rows, and a capacity. A utilisation over 1 says that the trainers wait for that part.

Assumed, and not part of the model: no queue forms below a utilisation of 1; runs are alike; runs start and end
evenly; a block crosses the network once; a trainer and an embedder are one core each.
"""

import math
from dataclasses import dataclass

POLLS_PER_S = 4.0
"""Snapshots that a driver asks for, and looks at new requests, per second."""
TRAINING_EVENTS = 2.0
"""Events of a run that goes well: it is trained, and it is solved."""
TRAINERS_PER_EMBEDDER = 4
"""Cores of a node for one embedder, where their number is left to the cluster."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A cost in seconds of a core: `fixed_s`, and `value_s` for every value (replica x parameter) of a row.

    Fewer values than `least`, the fewest that were measured, are taken as so many: below, nothing is known.
    """

    fixed_s: float
    value_s: float
    least: float = 0.0

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> "Linear":
        """Return the line through two measured (values, seconds).

        >>> Linear.through((100, 3.0), (300, 7.0)).at(200)
        5.0
        """
        value_s = (large[1] - small[1]) / (large[0] - small[0])
        return cls(small[1] - value_s * small[0], value_s, small[0])

    def at(self, n_values: float, share: float = 1.0) -> float:
        """Return the seconds at `n_values` values, where the fixed part is shared by `share` rows."""
        return self.fixed_s / share + self.value_s * max(n_values, self.least)


@dataclass(frozen=True, slots=True)
class Costs:
    """What one of each costs on one core, as measured.

    Attributes
    ----------
    step
        An optimiser step of all replicas, with metrics and weights out of the device.
    store, embed
        A row made durable and sealed, and a row embedded and published; `fixed_s` falls on the segment.
    exact
        A row's part in the exact solution; `fixed_s` falls on the run.
    report_s, handle_s, snapshot_s, obey_s
        The coordinator's calls; `handle_s` without its wait for the storage.
    call_s, byte_s
        What receiving costs an actor: a call, and a byte of a block.
    coordinator_run_bytes, embedder_parameter_bytes
        Memory of a run in the coordinator, and of a parameter of a run in progress in its embedder.
    stored_share
        Bytes on disk per raw byte of weights.
    weights_files, embedding_files
        Files that are written anew, or replaced, when a segment is sealed, and when a block is published.
    run_files
        Files that are written when a run is made, and when it is solved.
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
    """A cluster, and what it is to do: `n_runs` runs in `n_experiments` experiments, each with its own coordinator.

    Where `n_embedders` is `None` every four trainers have one on their node, and no block leaves it. `is_in_bucket`
    says that the store lies in object storage, and the write-ahead log on the disks of the trainers.
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
        """Values of a row."""
        return self.n_replicas * self.n_parameters

    @property
    def row_bytes(self) -> int:
        """Raw bytes of a row."""
        return self.n_values * self.itemsize

    @property
    def rows_per_segment(self) -> int:
        """Rows of a segment: the last one of a run is sealed however few it has."""
        return min(self.segment_rows, self.n_rows)

    @property
    def embedders(self) -> int:
        """Embedders in all."""
        on_each = math.ceil(self.cores_per_node / TRAINERS_PER_EMBEDDER)
        return self.n_nodes * on_each if self.n_embedders is None else self.n_embedders

    @property
    def n_trainers(self) -> int:
        """Trainers at once: a core each, of those that embedders and coordinators leave."""
        cores = self.n_nodes * self.cores_per_node - self.embedders - self.n_experiments
        return max(1, min(cores, self.n_runs))

    @property
    def n_embedder_nodes(self) -> int:
        """Nodes that embedders are spread over."""
        return min(self.embedders, self.n_nodes)


@dataclass(frozen=True, slots=True)
class Storage:
    """What a storage takes: bytes and requests that write, and how long one small durable write is waited for."""

    name: str
    bytes_per_s: float
    ops_per_s: float
    wait_s: float


FILES = Storage("shared storage", 2**30, 50_000, 0.005)
"""The default quotas of Amazon EFS with elastic throughput (docs.aws.amazon.com/efs/latest/ug/limits.html); the wait is
an assumption."""
BUCKET = Storage("bucket", 12.5e9, 3500, 0.03)
"""What Amazon S3 takes under one prefix before it has split it (docs.aws.amazon.com/AmazonS3/latest/userguide/
optimizing-performance.html), through 100 Gbit/s; bytes and the wait are assumptions."""


@dataclass(frozen=True, slots=True)
class Capacities:
    """What a cluster offers that cannot be measured on one machine: stated values, to be replaced by one's own.

    Attributes
    ----------
    network_bytes_per_s
        Of one node, each way: 10 Gbit/s.
    files, bucket
        The storage that all nodes share, by where the store lies.
    ops_per_file
        Requests that a small durable file costs a network file system: create, write, commit, rename.
    writes_per_segment
        Requests that a segment and its embedding cost a bucket: 21 objects written and one deleted, as counted by the
        service in the tests.
    actors_per_s
        Actors that Ray starts: 389/s with 10,000 of them (Ray's own release test `many_actors`, version 1.12).
    start_s
        Patience for the start of all actors.
    node_bytes
        Memory of a node.
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
        """Return where the store lies."""
        return self.bucket if workload.is_in_bucket else self.files


@dataclass(frozen=True, slots=True)
class Load:
    """What a part has to do, and what it can, in `unit`."""

    part: str
    demand: float
    capacity: float
    unit: str

    @property
    def utilisation(self) -> float:
        """Demand over capacity."""
        return self.demand / self.capacity


def rows_per_s(workload: Workload, costs: Costs) -> float:
    """Return the recorded rows per second of all trainers that never wait."""
    row_s = workload.every_n_steps * costs.step.at(workload.n_values) + costs.store.at(
        workload.n_values, workload.rows_per_segment
    )
    return workload.n_trainers / row_s


def loads(workload: Workload, costs: Costs, capacities: Capacities) -> list[Load]:
    """Return the load of every part, the fullest first."""
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
    # Twice as many runs as train may be open, as some wait for their exact solution.
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
    # Its status is written as often as there are events.
    run_files = rows / workload.n_rows * (costs.run_files + TRAINING_EVENTS)
    if workload.is_in_bucket:
        requests = segments * capacities.writes_per_segment + run_files
    else:
        appends = rows * (2 if workload.is_fsync_per_row else 1)
        files = segments * (costs.weights_files + costs.embedding_files) + run_files
        requests = appends + files * capacities.ops_per_file
    storage = capacities.storage(workload)
    # Each experiment has a prefix of its own.
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
