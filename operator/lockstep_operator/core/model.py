"""What the pure part of the operator reads and returns; `reconcile` and `planner` fill it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core.allowed import BY_DEFAULT, Allowed
from lockstep_operator.core.amount import UNBOUNDED, Amount
from lockstep_operator.core.network import Network
from lockstep_operator.core.state import JobState

if TYPE_CHECKING:  # who only decides, as the command line does, needs no cryptography
    from lockstep_operator.core.certificates import Authority

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class JobKey:
    """Names a job."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class JobView:
    """A FederatedJob as it was read; `spec` is None when `spec_error` says why it is unreadable."""

    key: JobKey
    uid: str
    generation: int
    spec: FederatedJobSpec | None
    spec_error: str | None
    status: FederatedJobStatus
    created_at: float
    """Unix seconds."""
    overwritten: bool = False
    """Somebody else has written another status: this is the operator's own, which comes back."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of the job."""

    name: str
    role: str
    """`cloud`, `edge`, `device` or `trainer`."""
    group: str
    """The edge or device group; empty for others."""
    node: str | None
    ready: bool
    problem: str | None
    """Why it cannot start or keeps failing ("ImagePullBackOff: …"); None when nothing is wrong."""
    waits: bool = False
    """No container of it has begun, and its status does not say why."""
    created_at: float = 0.0
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node and what is free on it for this job (its own pods are not counted as used)."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    """Ready and schedulable."""
    taints: tuple[Mapping[str, str], ...]
    cpu: float
    """Allocatable cores."""
    free: Amount
    """What is allocatable less what pods of others hold (`occupancy`)."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Names a child object."""

    api_version: str
    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A child that could not be written or deleted when it was last tried."""

    ref: ObjectRef
    reason: str
    """The class of the error: `Refused`, `Conflict` and what else `errors` has."""
    message: str
    """The apiserver's own words."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """The newest that a component of Kubernetes warned of about an object (a Warning event)."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What LimitRanges and ResourceQuotas of a namespace say of its pods; CPU in cores."""

    most_cpu: float = math.inf
    """Of a container's limit."""
    least_cpu: float = 0.0
    """Of a container's request."""
    ratio: float = math.inf
    """Of a container's limit to its request."""
    total_cpu: float = math.inf
    """Of the limits of all pods together."""
    allowed: Amount = UNBOUNDED
    """To all pods together, in limits and number, by quotas that are for all of them."""

    def __and__(self, other: "Bounds") -> "Bounds":
        return Bounds(
            min(self.most_cpu, other.most_cpu),
            max(self.least_cpu, other.least_cpu),
            min(self.ratio, other.ratio),
            min(self.total_cpu, other.total_cpu),
            self.allowed.smaller(other.allowed),
        )


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a decision about one job needs."""

    job: JobView
    children: Mapping[ObjectRef, Manifest]
    """What has the job's label or, of what it is missing, one of its names: StatefulSets, Services,
    ConfigMaps, ServiceAccounts, volume claims, PodDisruptionBudgets, NetworkPolicies and trainers,
    and objects that are not its own (`ownership` tells them apart)."""
    pods: tuple[PodView, ...]
    nodes: tuple[NodeView, ...]
    report: JobState | None
    refused: tuple[Refusal, ...] = ()
    """What was tried last and failed, by name. A write that a decision does not ask for any more is
    tried no more, and so not among them."""
    complaints: Mapping[ObjectRef, Complaint] = field(default_factory=dict)
    """By pod, StatefulSet or claim that has not been well since."""
    bounds: Bounds = Bounds()
    """Of the job's namespace."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator's configuration, and a job's namespace, contribute to decisions."""

    worker_image: str
    planner_url: str
    image_pull_policy: str = "IfNotPresent"
    boost_cores: float = 1.0
    """CPU limit of a starting device pod, in cores, when cpuAtMax is lower."""
    cpu_watts: float = 10.0
    """Watts of one busy core, for energy of source `cpu`."""
    identity: bool = True
    """Whether devices and edges get tokens, by which the cloud pod knows them."""
    allowed: Allowed = BY_DEFAULT
    """Which images and PriorityClasses jobs may ask for."""
    bounds: Bounds = Bounds()
    authority: "Authority | None" = None
    """Who signs for the servers of jobs; None: they speak plain HTTP."""
    planner_ca: str | None = None
    """The planner's CA in PEM; None: it speaks plain HTTP."""
    network: Network | None = None
    """What jobs' pods talk to beside each other; None: no NetworkPolicies are made."""


@dataclass(frozen=True, slots=True)
class EventNote:
    """A Kubernetes Event to emit on the job."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str
    every_s: float = 0.0
    """Said at most once in so many seconds, while it is asked for; 0: each time."""
    once: str = ""
    """Said once for all notes of this reason with the same text here, whichever operator says it;
    empty: each time."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a job."""

    apply: tuple[Manifest, ...]
    """Children to make or to bring to this form, in order."""
    delete: tuple[ObjectRef, ...]
    """Children to delete."""
    status: FederatedJobStatus
    """The status to write (if it differs)."""
    events: tuple[EventNote, ...]
    """Events to emit after the status is written."""
    requeue_in_s: float | None = None
    """Seconds after which time alone changes the decision."""
    delete_job: bool = False
    """The job itself has outlived its time."""
