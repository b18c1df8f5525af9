"""The observed state of a FederatedJob, written by the operator only."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from lockstep_api.base import ApiModel
from lockstep_api.spec import Actuator


class Phase(StrEnum):
    """Where a job is; one scalar for `kubectl get`."""

    PENDING = "Pending"
    REFUSED = "Refused"
    STARTING = "Starting"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"


FINISHED = frozenset({Phase.COMPLETED, Phase.FAILED})
"""The phases that a job never leaves."""


class ConditionType(StrEnum):
    """The conditions of a job."""

    ACCEPTED = "Accepted"
    READY = "Ready"
    PROGRESSING = "Progressing"
    COMPLETE = "Complete"
    FAILED = "Failed"
    DEGRADED = "Degraded"
    TELEMETRY_DEGRADED = "TelemetryDegraded"


class Condition(ApiModel):
    """A Kubernetes condition."""

    type: ConditionType
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=100)]
    """A CamelCase word for programs."""
    message: Annotated[str, Field(max_length=4096)]
    """A sentence for people."""
    observed_generation: int
    """The metadata.generation that was judged."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status last changed (RFC 3339)."""


MOST_JOULES = 1e12
Joules = Annotated[float, Field(ge=0, le=MOST_JOULES, allow_inf_nan=False)]


def told_joules(joules: float) -> float:
    """An energy as a report has it: one that is beyond its bound stays there."""
    return joules if joules <= MOST_JOULES else MOST_JOULES


class EnergyJoules(ApiModel):
    """Energy of all devices so far, by source; sources are never added up."""

    model: Joules | None = None
    """Modelled energy of the as-if devices (κ or power table), in J."""
    cpu: Joules | None = None
    """CPU seconds × watts of a core, in J."""
    measured: Joules | None = None
    """Measured energy (Kepler), in J."""

    def plus(self, more: "EnergyJoules") -> "EnergyJoules":
        """The sum source by source; a source that neither has stays empty."""

        def both(a: float | None, b: float | None) -> float | None:
            return None if a is None and b is None else told_joules((a or 0.0) + (b or 0.0))

        return EnergyJoules(
            model=both(self.model, more.model),
            cpu=both(self.cpu, more.cpu),
            measured=both(self.measured, more.measured),
        )


class PlannedClient(ApiModel):
    """One client of the last plan."""

    client: str
    """The client's name."""
    frequency_ghz: Annotated[float, Field(alias="frequencyGHz")]
    """The frequency asked for, in GHz."""
    cpu_milli: int
    """The CPU limit asked for, in millicores."""
    steps: int | None = None
    """Local steps asked for; empty where its budget of seconds alone bounds them."""
    batch_size: int | None = None
    """Examples of each of its steps, in mode split."""
    actuator: Actuator = Actuator.RESIZE
    """`resize`: its pod was given the limit; `cooperative`: the device keeps to it itself."""
    applied: bool
    """Whether the limit was applied before the round began."""
    reason: str | None = None
    """Why it was not applied, or why the device keeps to it itself although resize was asked."""
    mbps: float | None = None
    """Bandwidth of its uplink that the plan counts on, in Mbit/s."""
    upload_mbit: float | None = None
    """What it sends in the round, in Mbit."""
    work_per_step: float | None = None
    """Core-seconds of CPU that a local step is counted on to take; empty: none was measured."""
    finish_seconds: float | None = None
    """When its part of the round is expected to be in, in seconds from the round's start."""
    has_ghz: Annotated[float | None, Field(alias="hasGHz")] = None
    """The frequency that it has whatever it is asked for, in GHz: its limit is not in force."""


_BY_CLIENT = Field(
    max_length=64,
    json_schema_extra={
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["client"],
    },
)


class LastPlan(ApiModel):
    """The plan of the newest round, cut to its first 64 clients."""

    round: int
    """The round planned for."""
    planned: bool
    """False: the planner could not be reached and the plan before was used again."""
    clients: Annotated[list[PlannedClient], _BY_CLIENT]
    """The round's clients."""


class TrainedClient(ApiModel):
    """One client of the last finished round."""

    client: str
    """The client's name."""
    steps_asked: int | None = None
    """Local steps that its plan asked for; empty where a budget of seconds alone bounded them."""
    steps_done: int
    """Local steps behind its update."""
    kept: float | None = None
    """The share of its update that strategy.clipNorm left, 0 to 1; empty: all of it."""


class AbsentClient(ApiModel):
    """A client that was left out of the last finished round, as its update had stood out."""

    client: str
    """The client's name."""
    returns: int
    """The round from which it may take part again."""
    why: Annotated[str, Field(max_length=1024)] | None = None
    """What stood out, if this round was taken back for it; empty: an earlier one was."""


class LastDistillation(ApiModel):
    """What distillation did after the last finished round (mode split)."""

    samples: int
    """Examples whose activations it saw."""
    edge_taught: bool
    """Whether the edges' model learnt from the cloud's."""
    cloud_taught: bool
    """Whether the cloud's model learnt from the edges'."""
    seconds: float
    """What it took."""


class LastRound(ApiModel):
    """What became of the last finished round."""

    round: int
    """The round."""
    seconds: float
    """Seconds from handing out the model to its update."""
    upload_bytes: int
    """Bytes of all updates that the model was made of."""
    clients: Annotated[list[TrainedClient], _BY_CLIENT]
    """The clients whose updates those were, cut to the first 64."""
    taken_back: (
        Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=8)] | None
    ) = None
    """Why it was taken back, each time, before it was played so (strategy.rollbackLoss)."""
    sat_out: Annotated[list[AbsentClient], _BY_CLIENT] | None = None
    """The clients that were left out of it, cut to the first 64."""
    missed_steps: int | None = None
    """Steps that went on without one of their devices, of all devices (mode split)."""
    distillation: LastDistillation | None = None
    """What distillation did after it."""


def _listed(key: str, most: int) -> Any:
    shown: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return Field(max_length=most, json_schema_extra=shown)


class CutLayer(ApiModel):
    """A layer after which the model can be cut."""

    layer: str
    """Its name in the module."""
    device_flops: float
    """Operations that devices would have, as a share of the whole model's."""
    device_memory: float
    """Bytes that they would keep of an example, as a share of the whole model's."""
    values: int
    """Activation values that an example has there."""
    step_seconds: float
    """What a step is expected to take at the highest frequencies."""
    refused: Annotated[str, Field(max_length=512)] | None = None
    """Why model.cut auto does not take it."""


class Cut(ApiModel):
    """Where the model is cut (mode split)."""

    layer: str
    """The layer after which it is."""
    why: Annotated[str, Field(max_length=1024)]
    """Why there."""
    candidates: Annotated[list[CutLayer], _listed("layer", 16)]
    """Where it could be, cut to 16."""


class ClusterState(ApiModel):
    """A cluster of the newest plan (modes hierarchical and split)."""

    name: str
    """Its name, which the label lockstep.dev/cluster of its devices' pods has, too."""
    edge: str
    """The edge that it was given."""
    clients: int
    """Clients in it."""
    examples: int
    """Training examples that they hold."""
    divergence: float | None = None
    """KL of its labels from those of all clients of the round, in nats."""
    cost_seconds: float | None = None
    """What its part of the round is expected to take on this edge."""
    why: Annotated[str, Field(max_length=1024)] = ""
    """Why this edge."""
    tries: int | None = None
    """Edges that had the cluster of this name in the last finished round; above 1: one was lost."""
    seconds: float | None = None
    """What that one took."""


class EdgeState(ApiModel):
    """An edge (modes hierarchical and split)."""

    name: str
    """Its name: its group and ordinal."""
    connected: bool
    """Whether it had a session at the cloud pod when the newest round was planned."""
    clusters: int
    """Clusters that it has in the newest plan."""
    seconds: float | None = None
    """What the longest of its clusters took in the last finished round that it had one in."""


class PrivacyState(ApiModel):
    """What a job that hides its clients has come to (spec.privacy)."""

    epsilon: float
    """ε so far, of a client with all its examples: of that of which most models know."""
    delta: float
    """δ of it."""
    rounds: int
    """Models that its updates are in; those of rounds that were done again count, too."""
    ledger: str | None = None
    """Which ledger on the cloud pod's volume says so."""
    models: int | None = None
    """Models that it has seen: by both an older or another one is told, after which all clients
    count as being in one more model than was known of any."""
    label_epsilon: float | None = None
    """ε of what a device tells of its labels, for one example, each time that its pod is made:
    another unit, which is not added to epsilon. Empty: it tells nothing of them."""


class PlacedPods(ApiModel):
    """Where the pods of one set were placed."""

    name: str
    """`cloud`, the name of a device group, or `edge/` and the name of a group of edges."""
    nodes: Annotated[list[str], Field(max_length=200)]
    """Nodes chosen by compute capacity."""


class FederatedJobStatus(ApiModel):
    """What the operator saw last."""

    phase: Phase | None = None
    """Where the job is."""
    conditions: Annotated[
        list[Condition],
        Field(
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            }
        ),
    ] = Field(default_factory=list)
    """Accepted, Ready, Progressing, Complete, Failed, Degraded, TelemetryDegraded."""
    observed_generation: int | None = None
    """The metadata.generation that this status is about."""
    round: int | None = None
    """Finished rounds."""
    rounds: int | None = None
    """Rounds of the job."""
    progress: str | None = None
    """Finished rounds of all rounds, for people ("3/20")."""
    clients: str | None = None
    """Clients connected, of all ("9/10"); after the job's end, the clients whose updates its last
    round was made of."""
    accuracy: float | None = None
    """Accuracy on the held-out data after the last finished round, 0 to 1."""
    cloud_accuracy: float | None = None
    """The same of front half and cloud model, where distillation trains one."""
    loss: float | None = None
    """Loss on the held-out data after the last finished round, in nats."""
    elapsed_seconds: float | None = None
    """Seconds from the start of round 1 to the end of the last finished round."""
    energy_joules: EnergyJoules | None = None
    """Energy of all devices so far, in J by source."""
    active_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When the job found its place, or was resumed (RFC 3339)."""
    start_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When round 1 began (RFC 3339)."""
    completion_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When the job completed or failed (RFC 3339)."""
    placement: (
        Annotated[
            list[PlacedPods],
            Field(
                max_length=200,
                json_schema_extra={
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                },
            ),
        ]
        | None
    ) = None
    """Where the pods were placed."""
    last_plan: LastPlan | None = None
    """The plan of the newest round."""
    last_round: LastRound | None = None
    """Steps and bytes of the last finished round."""
    privacy: PrivacyState | None = None
    """The account of a job that hides its clients."""
    cut: Cut | None = None
    """Where the model is cut, in mode split."""
    clusters: Annotated[list[ClusterState], _listed("name", 64)] | None = None
    """The clusters of the newest plan, cut to the first 64."""
    edges: Annotated[list[EdgeState], _listed("name", 64)] | None = None
    """The edges, cut to the first 64."""

    def condition(self, type: ConditionType) -> Condition | None:
        """The condition of a type; None when nothing was said about it."""
        return next((one for one in self.conditions if one.type is type), None)
