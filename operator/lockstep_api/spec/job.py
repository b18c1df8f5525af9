"""The whole: allocation, checkpoints, and the rules that span parts of the spec."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, model_validator

from lockstep_api.base import ApiModel
from lockstep_api.nesting import not_too_large
from lockstep_api.rules import IMMUTABLE, no_change, rules
from lockstep_api.spec.kubernetes import SUBDOMAIN, Image
from lockstep_api.spec.pods import MOST_REPLICAS, Cloud, DeviceGroup, Edge, PodTemplate
from lockstep_api.spec.privacy import Privacy
from lockstep_api.spec.security import Security
from lockstep_api.spec.telemetry import Telemetry
from lockstep_api.spec.tiers import Clustering, Distillation, Mode, Offload, Split
from lockstep_api.spec.work import Data, Model, Participation, StrategySpec, TrainingSpec


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
    policy_ref: Annotated[str, Field(max_length=253, pattern=f"^(volume/)?{SUBDOMAIN}$")] | None = (
        None
    )
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
_MOST_GROUPS = 64
MOST_CLIENTS = _MOST_GROUPS * MOST_REPLICAS
_FIXED = ("model", "data", "strategy", "mode", "cloud", "devices")
_FIXED_OPTIONAL = (
    "image", "podTemplate", "clustering", "offload", "split", "distillation", "edges",
    "privacy",
)  # fmt: skip


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
        (
            "self.mode == 'split' || !has(self.distillation) || !self.distillation.enabled",
            "distillation belongs to mode split only",
        ),
        ("self.mode == 'split' || !has(self.split)", "split belongs to mode split only"),
        ("self.mode == 'split' || !has(self.model.cut)", "model.cut belongs to mode split only"),
        (
            "self.mode != 'federated' || !(has(self.clustering) || has(self.offload))",
            "clustering and offload belong to mode hierarchical or split; remove them or change"
            " mode",
        ),
        (
            "!has(self.clustering) || !has(self.clustering.minSize)"
            " || self.clustering.minSize"
            " * (has(self.clustering.clusters) ? self.clustering.clusters : 1)"
            " <= self.devices.map(d, d.replicas).sum()",
            "clustering: minSize times clusters must be at most the number of devices",
        ),
        (
            "!has(self.edges) || self.edges.map(e, e.replicas).sum() <= 1000",
            "edges: a job has at most 1000 edge servers",
        ),
        (
            "!has(self.edges) || self.edges.all(e, self.devices.all(d, d.name != e.name))",
            "edges: a group of edges and a group of devices need different names",
        ),
        (
            "self.mode != 'split' || has(self.training.localSteps.fixed)",
            "mode split needs training.localSteps.fixed: all devices of a cluster take each step"
            " together",
        ),
        (
            "self.mode != 'split' || (self.strategy.name == 'fedavg'"
            " && !has(self.strategy.serverLearningRate) && !has(self.strategy.serverMomentum))",
            "mode split needs strategy fedavg without serverLearningRate and serverMomentum: halves"
            " are averaged by examples; other strategies work in modes federated and hierarchical",
        ),
        (
            "!has(self.privacy)"
            " || (self.strategy.aggregation == 'mean' && !has(self.strategy.clipNorm))",
            "privacy needs strategy.aggregation mean without strategy.clipNorm: its own clipNorm"
            " bounds updates, and noise is reckoned for their mean",
        ),
        (
            "self.mode == 'federated' || self.strategy.aggregation == 'mean'",
            "strategy: aggregation trimmedMean, median and krum need each update at the cloud pod,"
            " and edges send up sums: they belong to mode federated only",
        ),
        (
            "self.mode != 'split' || self.allocation.policy != 'ppo'",
            "mode split needs allocation.policy max, static or equalize: a policy for ppo is"
            " trained on rounds that upload once",
        ),
        (
            "!has(self.privacy) || !self.training.deterministic",
            "privacy: remove training.deterministic: noise that repeats can be taken off again",
        ),
        (
            "!has(self.privacy) || self.mode != 'split'",
            "privacy belongs to modes federated and hierarchical: in mode split edges see the"
            " labels and activations of every example",
        ),
        (
            "!has(self.privacy)"
            " || self.strategy.name in ['fedavg', 'fedprox', 'fedadam', 'fedyogi']",
            "privacy needs strategy fedavg, fedprox, fedadam or fedyogi: others upload more than"
            " the model, or weigh updates by what clients say",
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
        (
            "!has(self.training.localSteps.budgetSeconds) || self.allocation.policy == 'max'",
            "training.localSteps.budgetSeconds needs allocation.policy max: in a fixed time a lower"
            " frequency only means fewer steps",
        ),
        (
            "!has(self.training.localSteps.planned) || self.allocation.policy != 'max'",
            "training.localSteps.planned needs allocation.policy static, equalize or ppo: with max"
            " there is no frequency to plan",
        ),
    )

    suspend: bool = False
    """Take the job's pods away and keep its state; false goes on."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Seconds after its end at which a job is deleted with its volume; never when empty."""
    active_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """Seconds for which the job may be active before it fails; no limit when empty. They count from
    status.activeTime: when its pods were first wanted, anew after a suspension."""
    start_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """Seconds that a job may take from status.activeTime to its first round; one that needs longer
    fails, and condition Failed says what kept it. No limit when empty. After a suspension they
    count anew; while a job waits for a place (phase Pending) they do not."""
    image: Image | None = None
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
    split: Split | None = None
    """Split training."""
    distillation: Distillation | None = None
    """Mutual distillation between edge and cloud."""
    cloud: Cloud = Field(default_factory=Cloud)
    """The cloud pod."""
    edges: Annotated[list[Edge], Field(max_length=64, json_schema_extra=_BY_NAME)] | None = None
    """Edge servers."""
    devices: Annotated[
        list[DeviceGroup], Field(min_length=1, max_length=_MOST_GROUPS, json_schema_extra=_BY_NAME)
    ]
    """Groups of devices."""
    allocation: Allocation = Field(default_factory=Allocation)
    """Per-round CPU frequency allocation."""
    privacy: Privacy | None = None
    """Differential privacy for clients; none when empty."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """Checkpoints, from which a cloud pod that was killed goes on."""
    telemetry: Telemetry = Field(default_factory=Telemetry)
    """What is told of the job, beside its status."""
    security: Security = Field(default_factory=Security)
    """How the job is kept from strangers."""

    @model_validator(mode="before")
    @classmethod
    def _is_not_too_large(cls, spec: Any) -> Any:
        """Looked at before anything is made of it."""
        return not_too_large(spec)

    def clients(self) -> int:
        """The number of devices of all groups."""
        return sum(group.replicas for group in self.devices)

    def edge_groups(self) -> list[Edge]:
        """The groups of edge servers; mode federated has none."""
        return [] if self.mode is Mode.FEDERATED else self.edges or []
