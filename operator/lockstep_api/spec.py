"""The desired state of a FederatedJob (`lockstep.dev/v1alpha1`), the source of the CRD.

A docstring under a field is what `kubectl explain` shows, so each gives meaning and unit. Rules
that span fields are CEL rules beside the model (`rules`); the apiserver enforces them, and the
tests show each one refusing a manifest.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from lockstep_api.base import ApiModel
from lockstep_api.quantity import Quantity
from lockstep_api.rules import IMMUTABLE, no_change, rules

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
Entrypoint = Annotated[
    str, Field(pattern=r"^[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)*:[A-Za-z_][\w]*$", max_length=200)
]
Labels = Annotated[dict[str, str], Field(max_length=32)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
FreeForm = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]


class Mode(StrEnum):
    """How the tiers work together."""

    FEDERATED = "federated"
    HIERARCHICAL = "hierarchical"
    SPLIT = "split"


class StrategyName(StrEnum):
    """How local training is corrected and updates are combined."""

    FEDAVG = "fedavg"
    FEDPROX = "fedprox"
    FEDNOVA = "fednova"
    SCAFFOLD = "scaffold"
    FEDAGRAC = "fedagrac"
    CALIBRATED = "calibrated"


class PartitionScheme(StrEnum):
    """How the training examples are dealt out to the devices."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    SHARDS = "shards"
    NATURAL = "natural"


class AllocationPolicy(StrEnum):
    """Who picks the devices' frequencies for a round."""

    PPO = "ppo"
    EQUALIZE = "equalize"
    MAX = "max"
    STATIC = "static"


class Actuator(StrEnum):
    """How a frequency is enforced."""

    RESIZE = "resize"
    COOPERATIVE = "cooperative"


class Toleration(ApiModel):
    """A Kubernetes toleration."""

    key: Annotated[str, Field(max_length=253)] | None = None
    """The taint's key; empty matches every taint (with operator Exists)."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; empty matches every effect."""
    toleration_seconds: int | None = None
    """Seconds that a NoExecute taint is tolerated; empty means for ever."""


class PodTemplate(ApiModel):
    """What is added to every pod of the job."""

    labels: Labels = Field(default_factory=dict)
    """Labels added to every pod."""
    annotations: Labels = Field(default_factory=dict)
    """Annotations added to every pod."""
    node_selector: Labels = Field(default_factory=dict)
    """Node labels that every pod of the job needs, beside its tier."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default_factory=list)
    """Taints that the job's pods tolerate."""
    priority_class_name: Annotated[str, Field(max_length=253)] | None = None
    """PriorityClass of every pod."""
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = None
    """RuntimeClass of every pod."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] = Field(default_factory=list)
    """Names of Secrets used to pull the image."""


class Model(ApiModel):
    """The model that is trained: a built-in name, or a function in the user's image."""

    model_config = rules(
        (
            "has(self.name) != has(self.entrypoint)",
            "model: set exactly one of name and entrypoint",
        )
    )

    name: Literal["mlp", "cnn"] | None = None
    """A built-in model: `mlp` (one hidden layer of 128) or `cnn` (two convolutions, GroupNorm)."""
    entrypoint: Entrypoint | None = None
    """`package.module:function` in the image; the function returns a torch.nn.Module."""
    args: FreeForm = Field(default_factory=dict)
    """Keyword arguments of the model's function."""
    cut: Annotated[str, Field(max_length=100)] | None = None
    """Name of the layer after which split training cuts the model (mode split)."""


class Partition(ApiModel):
    """How the training examples are dealt out to the devices."""

    model_config = rules(
        (
            "self.scheme == 'dirichlet' || !has(self.alpha)",
            "data.partition: alpha belongs to scheme dirichlet only",
        ),
        (
            "self.scheme == 'shards' || !has(self.shardsPerClient)",
            "data.partition: shardsPerClient belongs to scheme shards only",
        ),
    )

    scheme: PartitionScheme = PartitionScheme.IID
    """`iid`: equal mixtures; `dirichlet`: label shares drawn from Dirichlet(alpha); `shards`: a few
    blocks of the examples sorted by label; `natural`: by the data set's own users."""
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Concentration of scheme dirichlet (small: unequal labels); 0.5 when empty."""
    shards_per_client: Annotated[int, Field(ge=1, le=100)] | None = None
    """Blocks that each client gets in scheme shards; 2 when empty."""
    seed: Seed | None = None
    """Seed of the partition; training.seed when empty."""


class Data(ApiModel):
    """The data set: a built-in name, or a function in the user's image."""

    model_config = rules(
        ("has(self.name) != has(self.entrypoint)", "data: set exactly one of name and entrypoint")
    )

    name: Literal["fashion-mnist"] | None = None
    """A built-in data set; the worker image holds it."""
    entrypoint: Entrypoint | None = None
    """`package.module:function` in the image; the function returns the training and test set."""
    args: FreeForm = Field(default_factory=dict)
    """Keyword arguments of the data set's function."""
    partition: Partition = Field(default_factory=Partition)
    """How the training examples are dealt out to the devices."""


class PerDeviceSteps(ApiModel):
    """Unequal numbers of local steps, drawn per device."""

    model_config = rules(("self.min <= self.max", "localSteps.perDevice: min must be at most max"))

    distribution: Literal["uniform", "gaussian", "linear", "extreme"] = "uniform"
    """How the numbers are spread between min and max (extreme: one device has max, others min)."""
    min: Annotated[int, Field(ge=1, le=1_000_000)]
    """Fewest local steps of a round."""
    max: Annotated[int, Field(ge=1, le=1_000_000)]
    """Most local steps of a round."""
    redraw: bool = False
    """Draw anew every round."""


class LocalSteps(ApiModel):
    """How much each device trains in a round."""

    model_config = rules(
        (
            "[has(self.fixed), has(self.budgetSeconds), has(self.perDevice)]"
            ".filter(x, x).size() == 1",
            "training.localSteps: set exactly one of fixed, budgetSeconds and perDevice",
        )
    )

    fixed: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The same number of SGD steps (mini-batches) on every device."""
    budget_seconds: Positive | None = None
    """Seconds of training per round; each device does as many steps as it can."""
    per_device: PerDeviceSteps | None = None
    """Unequal numbers of steps."""


class Target(ApiModel):
    """A result on the held-out data that ends the job early."""

    model_config = rules(
        (
            "self.metric != 'accuracy' || self.value <= 1.0",
            "training.target: accuracy is a share, so value must be at most 1",
        )
    )

    metric: Literal["accuracy", "loss"] = "accuracy"
    """`accuracy` stops at or above value, `loss` at or below it."""
    value: Positive
    """The value to reach: a share (0 to 1) for accuracy, nats for loss."""


class TrainingSpec(ApiModel):
    """Local training and when the job ends."""

    model_config = rules(
        *(
            no_change(f"training.{field}", new=f"self.{field}", old=f"oldSelf.{field}")
            for field in ("batchSize", "learningRate", "momentum", "seed", "deterministic")
        ),
        no_change("training.localSteps", new="self.localSteps", old="oldSelf.localSteps"),
    )

    rounds: Annotated[int, Field(ge=1, le=1_000_000)]
    """Rounds of the job; may be changed while it runs."""
    target: Target | None = None
    """A result that ends the job early; may be changed while it runs."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """Examples in a mini-batch."""
    learning_rate: Positive = 0.01
    """Step size of SGD on the devices."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of SGD on the devices; its state starts at 0 in every round."""
    seed: Seed = 0
    """Seed of initial weights, sampling, partition and mini-batches."""
    deterministic: bool = False
    """Repeat bit for bit: updates are added in client order, threads and seeds are fixed, and a
    round waits for a participant whose connection closed instead of going on without it."""
    local_steps: LocalSteps = Field(default_factory=lambda: LocalSteps(fixed=10))
    """How much each device trains in a round; 10 steps when empty."""


class StrategySpec(ApiModel):
    """The federated optimisation method and its parameters."""

    model_config = rules(
        (
            "self.name == 'fedprox' || !has(self.mu)",
            "strategy: mu belongs to name fedprox only",
        ),
        (
            "self.name == 'calibrated' || !has(self.deviationWeight)",
            "strategy: deviationWeight belongs to name calibrated only",
        ),
        (
            "self.name in ['calibrated', 'fedagrac'] || !has(self.calibrationWeight)",
            "strategy: calibrationWeight belongs to names calibrated and fedagrac only",
        ),
    )

    name: StrategyName = StrategyName.FEDAVG
    """The method."""
    mu: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """FedProx: weight of the proximal term μ/2·‖w − w_global‖²; 0.01 when empty."""
    deviation_weight: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Calibrated: λ of the model-deviation term, in (−1, 1); 0.1 when empty."""
    calibration_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Calibrated, FedaGrac: weight of the gradient correction; 1 when empty."""


class Participation(ApiModel):
    """Who takes part in a round and when it closes."""

    model_config = rules(
        (
            "has(self.quorum) == has(self.roundDeadlineSeconds)",
            "participation: quorum and roundDeadlineSeconds work only together;"
            " set both, or remove both",
        )
    )

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the devices sampled for a round, without replacement; at least one."""
    quorum: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Updates that suffice once roundDeadlineSeconds have passed; all of the round's when empty."""
    round_deadline_seconds: Positive | None = None
    """Seconds after which a round closes with the quorum; no deadline when empty."""


class Clustering(ApiModel):
    """How clients are grouped (modes hierarchical and split)."""

    method: Literal["kl", "random", "none"] = "none"
    """`kl`: clusters whose joint label distribution is close to the whole one."""
    clusters: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Number of clusters; the number of edge servers when empty."""
    min_size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Fewest clients in a cluster; ⌊0.75 · clients / clusters⌋ when empty."""


class Offload(ApiModel):
    """How clusters are matched to edge servers."""

    objective: Literal["sum", "bottleneck"] = "sum"
    """Minimise the sum of all transfer and compute times, or the longest one."""


class Distillation(ApiModel):
    """Mutual distillation between the edge model and a deeper cloud model (mode split)."""

    enabled: bool = False
    """Switches it on."""
    temperature: Positive = 3.0
    """Temperature τ of the softened predictions."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight β of the distillation loss."""
    cloud_model: Annotated[str, Field(max_length=100)] | None = None
    """Built-in name or entrypoint of the cloud's deeper back half."""
    warmup_rounds: Annotated[int, Field(ge=0, le=1000)] = 1
    """Rounds in which the cloud model learns from labels only."""


class Storage(ApiModel):
    """The cloud pod's volume: checkpoints and the final model."""

    size: Quantity = "1Gi"
    """Size of the volume in bytes."""
    storage_class_name: Annotated[str, Field(max_length=253)] | None = None
    """StorageClass; the cluster's default when empty."""


class Cloud(ApiModel):
    """The cloud pod: coordinator and evaluation."""

    cpu: Quantity = "500m"
    """CPU request in cores; there is no CPU limit."""
    memory: Quantity = "1Gi"
    """Memory request and limit in bytes."""
    storage: Storage = Field(default_factory=Storage)
    """The volume that keeps the model; it is deleted with the job."""


class Edge(ApiModel):
    """A group of edge servers."""

    name: Name
    """Name of the group."""
    cpu: Quantity = "1"
    """CPU request of a server in cores."""
    memory: Quantity = "1Gi"
    """Memory request and limit of a server in bytes."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of servers."""
    node_selector: Labels = Field(default_factory=dict)
    """Node labels that these servers need, beside the tier edge."""


class Frequency(ApiModel):
    """The range of an emulated device's CPU frequency."""

    model_config = rules(
        (
            "self.minGHz <= self.maxGHz",
            "frequency: minGHz must be at most maxGHz",
        )
    )

    min_ghz: Annotated[float, Field(gt=0, le=10, alias="minGHz")]
    """Lowest frequency in GHz."""
    max_ghz: Annotated[float, Field(gt=0, le=10, alias="maxGHz")]
    """Highest frequency in GHz; the CPU limit is cpuAtMax there."""


class LinkSpec(ApiModel):
    """One direction of a device's connection, emulated by the worker."""

    model_config = rules(
        (
            "!(has(self.trace) && has(self.mbps))",
            "uplink/downlink: set only one of trace and mbps",
        ),
        (
            "has(self.trace) || has(self.mbps) || has(self.latencyMs)",
            "uplink/downlink: set trace, mbps or latencyMs",
        ),
    )

    trace: (
        Annotated[
            str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
        ]
        | None
    ) = None
    """Name of a ConfigMap with bandwidth traces: each key that ends in .csv holds one
    (t_seconds,bandwidth_mbps). A device takes one of them and where it starts by training.seed; it
    is looped."""
    mbps: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Constant bandwidth in Mbit/s."""
    latency_ms: Annotated[float, Field(ge=0, le=60_000)] | None = None
    """Delay before each transfer in ms."""


class PowerTableEntry(ApiModel):
    """A measured point of a device's power."""

    ghz: Positive = Field(alias="ghz")
    """CPU frequency in GHz."""
    watts: Positive
    """Power of the busy device in W, idle power included."""


class Energy(ApiModel):
    """The energy model of an emulated device."""

    model_config = rules(
        (
            "!(has(self.kappa) && has(self.table))",
            "energy: set only one of kappa and table",
        ),
        (
            "!has(self.table)"
            " || self.table.all(a, self.table.all(b, a.ghz >= b.ghz || a.watts <= b.watts))",
            "energy.table: watts must not fall when ghz rises",
        ),
    )

    kappa: Positive | None = None
    """Coefficient κ of E = κ·cycles·f², in J per cycle per Hz²; 1e-28 when there is no table."""
    table: (
        Annotated[
            list[PowerTableEntry],
            Field(
                min_length=1,
                max_length=64,
                json_schema_extra={
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["ghz"],
                },
            ),
        ]
        | None
    ) = None
    """Measured frequency→power table, interpolated linearly; beyond its ends the nearest point
    counts."""
    idle_watts: Annotated[float, Field(ge=0)] = 0.0
    """Power without work in W. With kappa it counts all the time, as κ·f² is only what the cycles
    take; with a table, whose watts are all that the busy device draws, only without work."""
    transmit_watts: Annotated[float, Field(ge=0)] = 0.0
    """Power of the radio while an update is uploaded in W, beyond all else."""


class DeviceGroup(ApiModel):
    """Devices of one kind; each is a pod whose CPU limit stands for its frequency."""

    # status.placement tells the sets apart by these names.
    model_config = rules(("self.name != 'cloud'", "devices: the name cloud is the cloud pod's"))

    name: Name
    """Name of the group; its clients are called name-0, name-1, …"""
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of devices."""
    frequency: Frequency = Field(default_factory=lambda: Frequency(min_ghz=0.5, max_ghz=2.0))
    """The range of the devices' CPU frequency; 0.5 to 2 GHz when empty."""
    cpu_at_max: Quantity = "500m"
    """CPU limit in cores at maxGHz; limit(f) = cpuAtMax · f / maxGHz."""
    memory: Quantity = "512Mi"
    """Memory request and limit of a device in bytes."""
    uplink: LinkSpec | None = None
    """Upload bandwidth; not limited when empty."""
    downlink: LinkSpec | None = None
    """Download bandwidth; not limited when empty."""
    energy: Energy = Field(default_factory=Energy)
    """The energy model of these devices."""
    data_share: Positive = 1.0
    """Relative amount of training examples of each device of the group."""
    node_selector: Labels = Field(default_factory=dict)
    """Node labels that these devices need, beside the tier device."""


class Allocation(ApiModel):
    """Per-round CPU frequency allocation."""

    model_config = rules(
        (
            "self.policy == 'ppo' || !has(self.policyRef)",
            "allocation: policyRef belongs to policy ppo only",
        ),
        (
            "self.policy == 'ppo' || !self.online",
            "allocation: online belongs to policy ppo only",
        ),
    )

    policy: AllocationPolicy = AllocationPolicy.MAX
    """`max`: every device at its maximum; `static`: from each device's mean bandwidth over the job
    and its measured work; `equalize`: from the mean over the previous 10 s, so that all devices
    finish together; `ppo`: the same, corrected by a trained policy."""
    energy_weight: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """λ in the cost time + λ · energy, in s/J."""
    actuator: Actuator = Actuator.RESIZE
    """`resize` patches the pods' CPU limits in place, and where that is refused the worker slows
    itself; `cooperative` leaves limits alone: the worker always slows itself."""
    policy_ref: (
        Annotated[str, Field(max_length=253, pattern=r"^(volume/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
        | None
    ) = None
    """A trained policy: the name of a ConfigMap with the file as its one binary entry, or
    `volume/NAME` for a file on the operator's volume of policies; the one that comes with Lockstep
    when empty. One that cannot be used is replaced by `equalize`, with a Warning event."""
    online: bool = False
    """The policy goes on learning: every 20 rounds a trainer (a Job in the job's namespace) updates
    it from the rounds that were played, and it is taken up if they had not cost more with it."""


class CheckpointSpec(ApiModel):
    """Checkpoints on the cloud pod's volume; a change counts for pods that start after it."""

    every_rounds: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Rounds between two checkpoints."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints kept."""


_BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_FIXED = ("model", "data", "strategy", "mode", "cloud", "devices")
_FIXED_OPTIONAL = ("image", "podTemplate", "clustering", "offload", "distillation", "edges")


class FederatedJobSpec(ApiModel):
    """What the user wants: a model, data, devices and how to train."""

    model_config = rules(
        *(no_change(field, new=f"self.{field}", old=f"oldSelf.{field}") for field in _FIXED),
        *(
            (
                f"has(self.{field}) == has(oldSelf.{field})"
                f" && (!has(self.{field}) || self.{field} == oldSelf.{field})",
                f"{field} {IMMUTABLE}",
            )
            for field in _FIXED_OPTIONAL
        ),
        (
            "self.mode == 'federated' || (has(self.edges) && self.edges.size() > 0)",
            "mode hierarchical and mode split need at least one entry in edges",
        ),
        (
            "self.mode != 'federated' || !has(self.edges) || self.edges.size() == 0",
            "edges belong to mode hierarchical or split; remove them or change mode",
        ),
        ("self.mode != 'split' || has(self.model.cut)", "mode split needs model.cut"),
        (
            "self.mode == 'split' || !has(self.distillation) || !self.distillation.enabled",
            "distillation belongs to mode split only",
        ),
        (
            "!has(self.participation.quorum)"
            " || self.participation.quorum <= self.devices.map(d, d.replicas).sum()",
            "participation.quorum must be at most the number of devices",
        ),
        (
            "self.strategy.name != 'fedagrac' || self.training.momentum == 0.0",
            "strategy fedagrac needs training.momentum 0",
        ),
    )

    suspend: bool = False
    """Take the job's pods away and keep its state; false goes on."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Seconds after its end at which a job is deleted with its volume; never when empty."""
    active_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """Seconds for which the job may be active before it fails; no limit when empty. They count from
    status.activeTime: when its pods were first wanted, anew after a suspension."""
    image: Annotated[str, Field(max_length=512)] | None = None
    """Image of the workers; the operator's default when empty."""
    pod_template: PodTemplate | None = None
    """What is added to every pod of the job."""
    model: Model
    """The model that is trained."""
    data: Data
    """The data set and its partition."""
    training: TrainingSpec
    """Local training and when the job ends."""
    strategy: StrategySpec = Field(default_factory=StrategySpec)
    """The federated optimisation method."""
    participation: Participation = Field(default_factory=Participation)
    """Who takes part in a round and when it closes."""
    mode: Mode = Mode.FEDERATED
    """`federated`: devices and cloud; `hierarchical`: through edges; `split`: split learning."""
    clustering: Clustering | None = None
    """How clients are grouped."""
    offload: Offload | None = None
    """How clusters are matched to edge servers."""
    distillation: Distillation | None = None
    """Mutual distillation between edge and cloud."""
    cloud: Cloud = Field(default_factory=Cloud)
    """The cloud pod."""
    edges: Annotated[list[Edge], Field(max_length=64, json_schema_extra=_BY_NAME)] | None = None
    """Edge servers."""
    devices: Annotated[
        list[DeviceGroup], Field(min_length=1, max_length=64, json_schema_extra=_BY_NAME)
    ]
    """Groups of devices."""
    allocation: Allocation = Field(default_factory=Allocation)
    """Per-round CPU frequency allocation."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """Checkpoints, from which a cloud pod that was killed goes on."""

    def clients(self) -> int:
        """The number of devices of all groups."""
        return sum(group.replicas for group in self.devices)
