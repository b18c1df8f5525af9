"""The pods of a job and what they stand for: cloud, edges, and devices with links and energy."""

from typing import Annotated, Literal

from pydantic import Field

from lockstep_api.base import ApiModel
from lockstep_api.quantity import Bytes, Cores
from lockstep_api.rules import rules
from lockstep_api.spec.common import Name, Positive
from lockstep_api.spec.kubernetes import (
    Annotations,
    ClassName,
    Labels,
    LabelValue,
    ResourceName,
    Selector,
    TaintKey,
)


class Toleration(ApiModel):
    """A Kubernetes toleration."""

    model_config = rules(
        (
            "self.operator == 'Exists' || (has(self.key) && self.key != '')",
            "tolerations: without a key (which matches every taint) operator must be Exists",
        ),
        (
            "self.operator == 'Equal' || !has(self.value) || self.value == ''",
            "tolerations: operator Exists has no value; remove value, or use operator Equal",
        ),
        (
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerations: tolerationSeconds belongs to effect NoExecute only",
        ),
    )

    key: TaintKey | None = None
    """The taint's key; empty matches every taint (with operator Exists)."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; empty matches every effect."""
    toleration_seconds: int | None = None
    """Seconds that a NoExecute taint is tolerated; empty means for ever."""


class PodTemplate(ApiModel):
    """What is added to every pod of the job."""

    labels: Labels = Field(default_factory=dict)
    """Labels added to every pod."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations added to every pod; they have 16,384 characters together at the most."""
    node_selector: Labels = Field(default_factory=dict)
    """Node labels that every pod of the job needs, beside its tier."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default_factory=list)
    """Taints that the job's pods tolerate."""
    priority_class_name: ClassName | None = None
    """PriorityClass of every pod."""
    runtime_class_name: ClassName | None = None
    """RuntimeClass of every pod."""
    image_pull_secrets: Annotated[list[ResourceName], Field(max_length=8)] = Field(
        default_factory=list
    )
    """Names of Secrets used to pull the image."""


class Storage(ApiModel):
    """The cloud pod's volume: checkpoints and the final model."""

    size: Bytes = "1Gi"
    """Size of the volume in bytes."""
    storage_class_name: ClassName | None = None
    """StorageClass; the cluster's default when it is not set. An empty text asks for a volume that
    somebody else has made, as it does in a PersistentVolumeClaim."""


class Cloud(ApiModel):
    """The cloud pod: coordinator and evaluation."""

    model_config = rules(
        (
            "!has(self.cpuLimit) || quantity(string(self.cpuLimit))"
            ".compareTo(quantity(string(self.cpu))) >= 0",
            "cloud: cpuLimit must be at least cpu",
        )
    )

    cpu: Cores = "500m"
    """CPU request in cores."""
    cpu_limit: Cores | None = None
    """CPU limit in cores, at least cpu; none when empty. A ResourceQuota for limits.cpu demands
    one."""
    memory: Bytes = "1Gi"
    """Memory request and limit in bytes."""
    storage: Storage = Field(default_factory=Storage)
    """The volume that keeps the model; it is deleted with the job."""


class Edge(ApiModel):
    """A group of edge servers."""

    model_config = rules(
        ("self.name != 'cloud'", "edges: the name cloud is the cloud pod's"),
        (
            "!has(self.cpuLimit) || quantity(string(self.cpuLimit))"
            ".compareTo(quantity(string(self.cpu))) >= 0",
            "edges: cpuLimit must be at least cpu",
        ),
    )

    name: Name
    """Name of the group; its servers are called name-0, name-1, …"""
    cpu: Cores = "1"
    """CPU request of a server in cores."""
    cpu_limit: Cores | None = None
    """CPU limit in cores, at least cpu; none when empty. A ResourceQuota for limits.cpu demands
    one."""
    memory: Bytes = "1Gi"
    """Memory request and limit of a server in bytes."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of servers."""
    node_selector: Selector = Field(default_factory=dict)
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

    trace: ResourceName | None = None
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
    idle_watts: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Power without work in W. With kappa it counts all the time, as κ·f² is only what the cycles
    take; with a table, whose watts are all that the busy device draws, only without work."""
    transmit_watts: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Power of the radio while an update is uploaded in W, beyond all else."""


MOST_REPLICAS = 10_000


class DeviceGroup(ApiModel):
    """Devices of one kind; each is a pod whose CPU limit stands for its frequency."""

    # status.placement tells the sets apart by these names.
    model_config = rules(
        ("self.name != 'cloud'", "devices: the name cloud is the cloud pod's"),
        (
            "!has(self.cpuAtStart) || quantity(string(self.cpuAtStart))"
            ".compareTo(quantity(string(self.cpuAtMax))) >= 0",
            "devices: cpuAtStart must be at least cpuAtMax",
        ),
    )

    name: Name
    """Name of the group; its clients are called name-0, name-1, …"""
    replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 1
    """Number of devices."""
    frequency: Frequency = Field(default_factory=lambda: Frequency(min_ghz=0.5, max_ghz=2.0))
    """The range of the devices' CPU frequency; 0.5 to 2 GHz when empty."""
    cpu_at_max: Cores = "500m"
    """CPU limit in cores at maxGHz; limit(f) = cpuAtMax · f / maxGHz."""
    cpu_at_start: Cores | None = None
    """CPU limit in cores with which a device starts, until round 1; at least cpuAtMax. When empty
    what the operator is configured for (1 core), or less where the namespace's LimitRanges and
    ResourceQuotas allow no more."""
    memory: Bytes = "512Mi"
    """Memory request and limit of a device in bytes."""
    uplink: LinkSpec | None = None
    """Upload bandwidth; not limited when empty."""
    downlink: LinkSpec | None = None
    """Download bandwidth; not limited when empty."""
    energy: Energy = Field(default_factory=Energy)
    """The energy model of these devices."""
    data_share: Positive = 1.0
    """Relative amount of training examples of each device of the group."""
    node_selector: Selector = Field(default_factory=dict)
    """Node labels that these devices need, beside the tier device."""
